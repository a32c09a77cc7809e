"""`TownDataset`: the generated town as a data set, generated on first use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from raydet3d.config import ConfigDict, ConfigValue
from raydet3d.data.dataset import Det3DDatasetArguments
from raydet3d.data.datasets.kitti import KittiDataset
from raydet3d.data.synthetic.town import ensure_town
from raydet3d.data.synthetic.town_settings import TownSettings
from raydet3d.registry import DATASETS

DEFAULT_ROOT = "data/town"


@DATASETS.register_module()
class TownDataset(KittiDataset):
    """A generated town in KITTI's layout.

    The first process that needs it generates and prepares it in `data_root`; afterwards it is read like KITTI.
    Arguments are those of `KittiDataset`, and:

    Args:
        ann_file: Info file, relative to `data_root`.
        data_root: The town's folder; its parent has to be writable on first use.
        town: Keys of `TownSettings`; all data sets of a folder must agree on them.
        **kwargs: Arguments of `KittiDataset`.
    """

    def __init__(
        self,
        ann_file: str = "kitti_infos_train.pkl",
        data_root: str = DEFAULT_ROOT,
        *,
        town: Mapping[str, ConfigValue] | None = None,
        **kwargs: Unpack[Det3DDatasetArguments],
    ) -> None:
        data_root = data_root or DEFAULT_ROOT
        ensure_town(Path(data_root), TownSettings.read(town or {}))
        super().__init__(ann_file, data_root, **kwargs)

    @classmethod
    def check_data(cls, cfg: ConfigDict) -> None:
        """Generate the town of a config unless it exists.

        Args:
            cfg: The data set's config.

        Raises:
            InputError: A setting is wrong, or the folder holds something else.
        """
        root = cfg.get("data_root") or DEFAULT_ROOT
        ensure_town(Path(root), TownSettings.read(cfg.get("town") or {}))
        super().check_data(ConfigDict(cfg, data_root=root))
