"""The dense parts of a detector as graphs with one tensor in and named tensors out, for export.

Names are those that deployed stacks read: `pts_voxel_encoder` (`input_features` to `pillar_features`) and
`pts_backbone_neck_head` (`spatial_features` to one output for each map of the head). What lies between them, the
scatter of pillars or a sparse middle encoder, is no dense graph.

Shapes: B batch, V voxels, P points of a voxel, C channels, H and W size of a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn
from typing_extensions import override

from raydet3d.models.detector_parts import Part, detector_parts
from raydet3d.models.middle_encoders.pillar_scatter import PointPillarsScatter
from raydet3d.models.voxel_encoders.hard_vfe import HardVFE
from raydet3d.models.voxel_encoders.pillar_encoder import PillarFeatureNet

LAYERED_ENCODERS = (PillarFeatureNet, HardVFE)
ANCHOR_OUTPUTS = ("cls_score", "bbox_pred", "dir_cls_pred")
CENTER_OUTPUTS = ("heatmap", "reg", "height", "dim", "rot", "vel")

HeadOutputs: TypeAlias = "Tensor | Mapping[str, HeadOutputs] | Sequence[HeadOutputs] | None"
"""What a head's `forward` returns: tensors in nested lists and dicts."""


@dataclass(frozen=True)
class Graph:
    """A part of a detector that can be exported.

    Attributes:
        name: Name of its file, without the ending.
        module: One tensor in, a tuple of tensors out.
        input_name: Name of the input.
        dynamic_axis: Name of the input's first axis, whose size is free.
    """

    name: str
    module: nn.Module
    input_name: str
    dynamic_axis: str


class EncoderGraph(nn.Module):
    """The layers of a voxel encoder, (V, P, C_in) to (V, 1, C)."""

    def __init__(self, encoder: PillarFeatureNet | HardVFE) -> None:
        super().__init__()
        self.layers = encoder.pfn_layers if isinstance(encoder, PillarFeatureNet) else encoder.vfe_layers

    @override
    def forward(self, input_features: Tensor) -> tuple[Tensor, ...]:
        x = input_features
        for layer in self.layers:
            x = layer(x)
        return (x if x.ndim == 3 else x.unsqueeze(1),)


class DenseGraph(nn.Module):
    """Backbone, neck and head, (B, C, H, W) to the maps of the head."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        super().__init__()
        self.backbone = parts["backbone"].module
        self.neck = parts["neck"].module if "neck" in parts else None
        self.bbox_head = parts["bbox_head"].module

    @override
    def forward(self, spatial_features: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(spatial_features)
        return tuple(name_outputs(self.bbox_head(self.neck(maps) if self.neck is not None else maps)).values())


def name_outputs(outputs: HeadOutputs) -> dict[str, Tensor]:
    """Name the tensors that a head's `forward` returns.

    A name is `[task{t}_][level{l}_]NAME`, counted from 0; a prefix is left out where there is one task or one level.
    NAME is the map's (`heatmap`, `reg`, `height`, `dim`, `rot`, `vel`) for a centre head, and `cls_score`, `bbox_pred`,
    `dir_cls_pred` for an anchor head. The tensors of other heads are `output0`, `output1`, ...

    Args:
        outputs: Of a centre head, for each task a dict for each level; of an anchor head, three lists over the levels.
    """
    if isinstance(outputs, Sequence) and all(isinstance(one, Sequence) and one for one in outputs):
        rows = [list(one) for one in outputs if isinstance(one, Sequence)]
        levels = [level for row in rows for level in row]
        if all(isinstance(level, Mapping) for level in levels):
            return _name_tasks(rows)
        if len(rows) == len(ANCHOR_OUTPUTS) and all(level is None or isinstance(level, Tensor) for level in levels):
            return {
                f"{_prefix('level', index, len(row))}{name}": level
                for name, row in zip(ANCHOR_OUTPUTS, rows, strict=True)
                for index, level in enumerate(row)
                if isinstance(level, Tensor)
            }
    return {f"output{index}": one for index, one in enumerate(_tensors(outputs))}


def _name_tasks(tasks: Sequence[Sequence[HeadOutputs]]) -> dict[str, Tensor]:
    named = {}
    for t, levels in enumerate(tasks):
        for number, maps in enumerate(levels):
            assert isinstance(maps, Mapping)
            for name in sorted(maps, key=lambda key: CENTER_OUTPUTS.index(key) if key in CENTER_OUTPUTS else 99):
                value = maps[name]
                assert isinstance(value, Tensor)
                named[f"{_prefix('task', t, len(tasks))}{_prefix('level', number, len(levels))}{name}"] = value
    return named


def _prefix(kind: str, index: int, count: int) -> str:
    return f"{kind}{index}_" if count > 1 else ""


def _tensors(outputs: HeadOutputs) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif outputs is not None:
        for one in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from _tensors(one)


def dense_graphs(model: nn.Module) -> tuple[list[Graph], dict[str, str]]:
    """Return the graphs of a detector, and for each part that is in none of them the reason.

    Args:
        model: A detector with a voxel encoder, a middle encoder, a backbone and a head.

    Returns:
        The graphs, in the order in which a frame passes through them, and reasons by the name of the part.
    """
    parts = detector_parts(model)
    graphs, left_out = [], {}
    encoder = parts["voxel_encoder"]
    if isinstance(encoder.module, LAYERED_ENCODERS):
        graph = EncoderGraph(encoder.module)
        graphs.append(Graph("pts_voxel_encoder", graph, "input_features", "num_voxels"))
    else:
        left_out[encoder.name] = _why_not_encoder(encoder.module)
    middle = parts["middle_encoder"]
    left_out[middle.name] = (
        "it copies each pillar's feature to its cell of a map of zeros, which the program that runs the graphs does"
        if isinstance(middle.module, PointPillarsScatter)
        else "sparse convolutions have no operator in ONNX or in a dense graph"
    )
    graphs.append(Graph("pts_backbone_neck_head", DenseGraph(parts), "spatial_features", "batch"))
    return graphs, left_out


def _why_not_encoder(encoder: nn.Module) -> str:
    if not list(encoder.parameters()):
        return "it has no parameters: it averages the points of each voxel"
    if type(encoder).__name__.startswith("Dynamic"):
        return "it groups any number of points by voxel, which is no dense graph"
    return f"only {' and '.join(kind.__name__ for kind in LAYERED_ENCODERS)} can be exported"
