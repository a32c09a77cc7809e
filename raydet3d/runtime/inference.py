"""Predict on point clouds that belong to no data set: a model with its weights, and a config's test pipeline.

`init_model` and `inference_detector` have the signatures of `mmdet3d.apis`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydet3d.checkpoint.load import load_metadata, load_shards, locate
from raydet3d.checkpoint.load_weights import load_weights, rename_weights
from raydet3d.config import Config
from raydet3d.data import Compose
from raydet3d.data.pipeline import Sample
from raydet3d.data.seeded import seeded_generators
from raydet3d.download import fetch
from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg
from raydet3d.log import get_logger
from raydet3d.registry import DATASETS, MODELS
from raydet3d.runtime.build import build_model
from raydet3d.runtime.loaders import build_function
from raydet3d.runtime.run_setup import pick_device
from raydet3d.structures import Det3DDataSample, get_box_type

LOADERS = ("LoadPointsFromFile", "LoadCustomPointsFromFile")
CloudLike: TypeAlias = "str | Path | NDArray[np.float32] | Tensor"
"""A point cloud: its file, or its points (N, C)."""


class PackedCloud(TypedDict):
    """What a pipeline makes of a cloud; a TTA pipeline makes a list of them, one for each view."""

    inputs: Mapping[str, Tensor]
    data_samples: Det3DDataSample


LoadedCloud: TypeAlias = PackedCloud | list[PackedCloud]


def init_model(
    config: str | Path | PartCfg,
    checkpoint: str | Path | None = None,
    device: torch.device | str | None = None,
    palette: str = "none",
    cfg_options: PartCfg | None = None,
) -> nn.Module:
    """Build a model for inference.

    Args:
        config: A config, or its file.
        checkpoint: Its weights, all of them; None leaves the model untrained.
        device: Where it predicts; a GPU where there is one, by default.
        palette: Accepted as in MMDetection3D; the visualizer has its own colours.
        cfg_options: Keys of the config to change.

    Returns:
        The model, with the config as `cfg` and class names as `dataset_meta["classes"]`.

    Raises:
        InputError: The checkpoint does not fit the model.
    """
    cfg = Config.fromfile(config) if isinstance(config, str | Path) else as_config(config)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    cfg.import_custom_modules()
    model = build_model(cfg)
    meta: Mapping[str, Any] = {}
    if checkpoint is not None:
        location = locate(fetch(str(checkpoint)))
        content = load_shards(load_metadata(location), location, dict(model.named_parameters()))
        weights = rename_weights(content["state_dict"], [(r"^module\.", "")])
        get_logger().info("%s", load_weights(model, weights, strict=True, title=f"checkpoint {checkpoint}"))
        meta = content.get("meta") or {}
    known = dict(meta.get("dataset_meta") or {})
    known["classes"] = _class_names(cfg, known.get("classes") or meta.get("CLASSES"))
    vars(model).update(cfg=cfg, dataset_meta=known)
    return model.to(pick_device(device)).eval()


def inference_detector(
    model: nn.Module, pcds: CloudLike | Sequence[CloudLike]
) -> tuple[Det3DDataSample | list[Det3DDataSample], LoadedCloud | list[LoadedCloud]]:
    """Predict on a point cloud, or on each of several in one batch.

    Args:
        model: Of `init_model`.
        pcds: The cloud, or a list of some.

    Returns:
        The prediction and the packed sample; lists of both for a list of clouds.
    """
    clouds: Sequence[CloudLike] = pcds if isinstance(pcds, list | tuple) else [cast("CloudLike", pcds)]
    pipeline = CloudPipeline(cast("Config", model.cfg))
    data = [pipeline(cloud) for cloud in clouds]
    found = predict(model, pipeline.collate(data), cast("Config", model.cfg))
    return (found, data) if clouds is pcds else (found[0], data[0])


def with_tta(model: nn.Module, cfg: PartCfg) -> nn.Module:
    """Wrap a model in the config's `tta_model`.

    Raises:
        InputError: The config has none, or no `tta_pipeline`.
    """
    for key in ("tta_model", "tta_pipeline"):
        if cfg.get(key) is None:
            raise InputError(f"test-time augmentation needs {key} in the config")
    wrapped: nn.Module = MODELS.build({**cfg["tta_model"], "module": model})
    return wrapped.eval()


@torch.no_grad()
def predict(model: nn.Module, batch: object, cfg: PartCfg) -> list[Det3DDataSample]:
    """Predict on a collated batch as a test does, in half precision where `test_cfg.fp16` asks for it."""
    device = next(model.parameters(), torch.empty(0)).device
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    with torch.autocast(device.type, dtype=dtype, enabled=bool((cfg.get("test_cfg") or {}).get("fp16"))):
        found: list[Det3DDataSample] = cast("Any", model).test_step(batch)
    return found


class CloudPipeline:
    """A config's test pipeline, for clouds that are named by their file or given as points.

    A cloud has no annotation, no image and no earlier sweeps: transforms that load annotations are left out, and
    `LoadPointsFromMultiSweeps` treats it as a frame without sweeps.

    Args:
        cfg: The config; of several test data sets the first is read.
        tta: Take `tta_pipeline`, which makes several views of each cloud.
    """

    def __init__(self, cfg: PartCfg, *, tta: bool = False) -> None:
        loader, dataset = _test_loader(cfg)
        steps = cfg["tta_pipeline"] if tta else dataset.get("pipeline") or ()
        self._steps = [step for step in steps if _name(step) != "LoadAnnotations3D"]
        self._box_type, self._box_mode = get_box_type(dataset.get("box_type_3d") or "LiDAR")
        self._for_files = Compose(self._steps)
        self.collate = build_function(
            loader.get("collate_fn") or {"type": "pseudo_collate"}, "test_dataloader.collate_fn"
        )

    @cached_property
    def _for_points(self) -> Compose:
        steps = deepcopy(self._steps)
        loading = next((step for step in steps if _name(step) in LOADERS), None)
        if loading is None:
            raise InputError("the test pipeline has no LoadPointsFromFile, so points cannot take the place of a file")
        loading["type"] = "LoadPointsFromDict"
        loading.pop("data_root", None)
        return Compose(steps)

    def __call__(self, cloud: CloudLike, name: str | None = None) -> LoadedCloud:
        """Load a cloud and return the packed sample, or a list of its views.

        Args:
            cloud: File or points.
            name: Its `sample_idx`; the file's name without suffix by default.

        Raises:
            InputError: The file cannot be read, or a transform dropped the sample.
        """
        sample: Sample = {"box_type_3d": self._box_type, "box_mode_3d": self._box_mode, "timestamp": 1}
        if isinstance(cloud, str | Path):
            path = str(cloud)
            sample |= {"lidar_path": path, "lidar_points": {"lidar_path": path}, "sample_idx": name or Path(path).stem}
        else:
            sample |= {"points": cloud.detach().cpu().numpy() if isinstance(cloud, Tensor) else cloud}
            sample |= {"sample_idx": name} if name is not None else {}
        with seeded_generators(0):
            made: LoadedCloud | None = (self._for_files if "lidar_path" in sample else self._for_points)(sample)
        if made is None:
            raise InputError(f"{sample.get('lidar_path', 'points')}: the test pipeline returned no sample")
        return made


def as_config(cfg: PartCfg) -> Config:
    """Return a config of one's own: a copy of a `Config`, or one made of a dict."""
    return cfg.copy() if isinstance(cfg, Config) else Config(cfg)


def _name(step: object) -> str:
    """Return the type of a transform's config without its scope; empty for anything else."""
    return str(step.get("type")).rpartition(".")[2] if isinstance(step, Mapping) else ""


def _test_loader(cfg: PartCfg) -> tuple[PartCfg, PartCfg]:
    """Return the configs of the first test loader and of its data set, out of its wrappers.

    Raises:
        InputError: There is none.
    """
    loader = cfg.get("test_dataloader")
    loader = loader[0] if isinstance(loader, list | tuple) and loader else loader
    dataset = loader.get("dataset") if isinstance(loader, Mapping) else None
    while isinstance(dataset, Mapping) and ("dataset" in dataset or dataset.get("datasets")):
        dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
    if not isinstance(loader, Mapping) or not isinstance(dataset, Mapping) or not dataset.get("pipeline"):
        raise InputError("the config has no test_dataloader.dataset.pipeline, which says how a cloud is loaded")
    return loader, dataset


def _class_names(cfg: PartCfg, trained: Sequence[str] | None) -> tuple[str, ...]:
    """Return the class names: the checkpoint's, else those of the config's test data set, else those of its class."""
    if trained:
        return tuple(map(str, trained))
    given = cfg.get("test_dataloader")
    if given is None:
        return tuple(cfg.get("class_names") or ())
    dataset = _test_loader(cfg)[1]
    own = dataset.get("metainfo") or {}
    kind = dataset.get("type")
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    default = getattr(kind, "METAINFO", {}).get("classes", ())
    return tuple(own.get("classes") or own.get("CLASSES") or cfg.get("class_names") or default)
