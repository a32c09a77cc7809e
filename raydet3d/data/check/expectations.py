"""What a config expects of its data: classes, range, voxels, anchors, and how clouds are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from raydet3d.config import ConfigDict, PartCfg


@dataclass(frozen=True)
class Anchor:
    """An anchor.

    Args:
        size: dx, dy, dz in metres.
        bottom: z of its bottom face in the LiDAR frame.
        min_iou: Least IoU with which an object is assigned to it.
    """

    size: tuple[float, float, float]
    bottom: float
    min_iou: float


@dataclass(frozen=True)
class Expectations:
    """What a config expects; whatever it does not state is empty.

    Args:
        classes: Classes that are trained.
        point_cloud_range: x, y, z of the lower corner, x, y, z of the upper one.
        voxel_size: dx, dy, dz.
        max_num_points: Points that are kept of a voxel; -1 is all.
        max_voxels: Voxels that are kept of a training frame; -1 is all.
        anchors: Anchors that may be assigned to each class.
        has_own_anchors: Whether each class has anchors of its own, whose heights can be compared with its objects.
        num_sweeps: Earlier sweeps that are loaded into each frame.
    """

    classes: tuple[str, ...] = ()
    point_cloud_range: tuple[float, ...] = ()
    voxel_size: tuple[float, ...] = ()
    max_num_points: int = -1
    max_voxels: int = -1
    anchors: Mapping[str, tuple[Anchor, ...]] = field(default_factory=dict)
    has_own_anchors: bool = False
    num_sweeps: int = 0


def loading_steps(pipeline: Sequence[PartCfg]) -> list[PartCfg]:
    """Return the configs of the transforms at the beginning of a pipeline that load points."""
    return [step for step in pipeline if isinstance(step, Mapping) and re.match("Load.*Points", _short(step))]


def read_expectations(cfg: ConfigDict) -> Expectations:
    """Read what a config expects of its data; parts of unknown types are passed over."""
    dataset = next(iter_datasets((cfg.get("train_dataloader") or {}).get("dataset")), ConfigDict())
    metainfo = dataset.get("metainfo") or {}
    classes = tuple(metainfo.get("classes") or metainfo.get("CLASSES") or ())
    model = ConfigDict(cfg.get("model") or {})
    layer = (model.get("data_preprocessor") or {}).get("voxel_layer") or {}
    steps = [ConfigDict(step) for step in dataset.get("pipeline") or () if isinstance(step, Mapping)]
    filters = [step["point_cloud_range"] for step in steps if _short(step) == "PointsRangeFilter"]
    limits = layer.get("point_cloud_range") or cfg.get("point_cloud_range") or (filters or [()])[0]
    max_voxels = layer.get("max_voxels", -1)
    anchors, is_own = _read_anchors(model, classes)
    return Expectations(
        classes=classes,
        point_cloud_range=tuple(map(float, limits)),
        voxel_size=tuple(map(float, layer.get("voxel_size") or ())),
        max_num_points=int(layer.get("max_num_points", -1)),
        max_voxels=int(max_voxels[0] if isinstance(max_voxels, Sequence) else max_voxels),
        anchors=anchors,
        has_own_anchors=is_own,
        num_sweeps=sum(int(step.get("sweeps_num", 10)) for step in steps if _short(step).endswith("MultiSweeps")),
    )


def iter_datasets(cfg: ConfigDict | None) -> Iterator[ConfigDict]:
    """Yield the configs of the data sets inside of wrappers (`dataset=...`, `datasets=[...]`)."""
    if not cfg:
        return
    if isinstance(cfg.get("dataset"), Mapping):
        yield from iter_datasets(cfg["dataset"])
    elif isinstance(cfg.get("datasets"), Sequence):
        for one in cfg["datasets"]:
            yield from iter_datasets(one)
    elif cfg.get("type"):
        yield ConfigDict(cfg)


def _short(step: PartCfg) -> str:
    return str(step.get("type")).rpartition(".")[2]


def _read_anchors(model: ConfigDict, classes: Sequence[str]) -> tuple[dict[str, tuple[Anchor, ...]], bool]:
    """Return the anchors of each class, and whether these are its own."""
    head = model.get("bbox_head") or model.get("pts_bbox_head") or {}
    generator = ConfigDict(head.get("anchor_generator") or {})
    ranges, sizes = generator.get("ranges") or (), generator.get("sizes") or ()
    if not ranges or not sizes or not isinstance(sizes[0], Sequence):
        return {}, False
    train = head.get("train_cfg") or model.get("train_cfg") or {}
    assigners = (train.get("pts") or train).get("assigner") or {}
    is_own = len(sizes) == len(classes) and (isinstance(assigners, Sequence) or _short(generator).endswith("PerCls"))
    assigners = list(assigners) if isinstance(assigners, Sequence) else [assigners]
    anchors = [
        Anchor(
            (float(size[0]), float(size[1]), float(size[2])),
            float(ranges[i if len(ranges) == len(sizes) else 0][2]),
            float(assigners[i if len(assigners) == len(sizes) else 0].get("pos_iou_thr", 0.5)),
        )
        for i, size in enumerate(sizes)
    ]
    return {name: (anchors[i],) if is_own else tuple(anchors) for i, name in enumerate(classes)}, is_own
