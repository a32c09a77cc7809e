"""`NuScenesTownDataset`: the generated town in nuScenes' layout as a data set, generated on first use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from raydet3d.config import ConfigDict
from raydet3d.data.datasets.nuscenes import NuScenesDataset
from raydet3d.data.prepare import prepare_nuscenes
from raydet3d.data.synthetic.forked_pool import run_forked
from raydet3d.data.synthetic.nuscenes_layout import SCENES, VERSION, write_nuscenes_town
from raydet3d.data.synthetic.nuscenes_town_settings import NuScenesTownSettings
from raydet3d.data.synthetic.town import MOST_WORKERS, ensure_town
from raydet3d.host import num_processors
from raydet3d.progress_bar import ProgressBar
from raydet3d.registry import DATASETS

DEFAULT_ROOT = "data/nuscenes_town"


@DATASETS.register_module()
class NuScenesTownDataset(NuScenesDataset):
    """A generated town in nuScenes' layout, a v1.0-mini.

    The first process that needs it generates and prepares it in `data_root`; afterwards it is read like nuScenes.
    Arguments are those of `NuScenesDataset`, and:

    Args:
        data_root: The town's folder; its parent has to be writable on first use.
        ann_file: Info file, relative to `data_root`.
        town: Keys of `NuScenesTownSettings`; all data sets of a folder must agree on them.
        **kwargs: Arguments of `NuScenesDataset`.
    """

    def __init__(
        self,
        data_root: str = DEFAULT_ROOT,
        ann_file: str = "nuscenes_infos_train.pkl",
        *,
        town: Mapping[str, object] | None = None,
        **kwargs: Any,
    ) -> None:
        data_root = data_root or DEFAULT_ROOT
        ensure_nuscenes_town(Path(data_root), NuScenesTownSettings.read(town or {}))
        super().__init__(data_root, ann_file, **kwargs)

    @classmethod
    def check_data(cls, cfg: Mapping[str, Any]) -> None:
        """Generate the town of a config unless it exists.

        Args:
            cfg: The data set's config.

        Raises:
            InputError: A setting is wrong, or the folder holds something else.
        """
        root = cfg.get("data_root") or DEFAULT_ROOT
        ensure_nuscenes_town(Path(root), NuScenesTownSettings.read(cfg.get("town") or {}))
        super().check_data(ConfigDict(cfg, data_root=root))


def ensure_nuscenes_town(root: Path, settings: NuScenesTownSettings) -> None:
    """Generate and prepare the town in a folder unless it is there already; see `ensure_town`."""
    ensure_town(root, settings, partial(_generate, settings))


def _generate(settings: NuScenesTownSettings, folder: Path, root: Path) -> int:
    """Write and prepare the town in a folder; return its number of keyframes."""
    workers = min(num_processors(), MOST_WORKERS)
    with ProgressBar(len(SCENES), f"town for {root}, scenes") as bar:
        for _ in write_nuscenes_town(folder, settings, workers=workers):
            bar.step()
    prepare_nuscenes(folder, version=VERSION, workers=workers, runner=run_forked)
    return len(SCENES) * settings.num_keyframes
