"""Describe an exported detector: what a program needs to prepare the graphs' inputs and to read their outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import raydet3d
from raydet3d.data.datasets.custom_conventions import read_conventions
from raydet3d.data.transforms.custom_loading import LoadCustomPointsFromFile
from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg
from raydet3d.models import BaseModel, Det3DDataPreprocessor
from raydet3d.models.detector_parts import detector_parts
from raydet3d.models.export_graphs import LAYERED_ENCODERS
from raydet3d.ops import grid_size
from raydet3d.runtime.example_frames import loading_steps, num_point_features
from raydet3d.runtime.graph_files import ExportedGraph, GraphTensors

_NEEDED = ("data_preprocessor", "voxel_encoder", "middle_encoder", "backbone", "bbox_head")
# What a head's outputs are decoded with, where the head has it.
_HEAD_SETTINGS = (
    *("num_classes", "class_names", "use_direction_classifier", "dir_offset", "dir_limit_offset", "box_code_size"),
    *("norm_bbox", "with_velocity", "num_anchors"),
)
_HEAD_CONFIGS = ("bbox_coder", "anchor_generator", "common_heads", "tasks")


def exportable(model: nn.Module) -> BaseModel:
    """Return a model in evaluation mode, if it is a detector that can be exported.

    Raises:
        InputError: It has other parts than those detectors.
    """
    missing = [part for part in _NEEDED if part not in detector_parts(model)]
    preprocessor = getattr(model, "data_preprocessor", None)
    has_voxels = isinstance(preprocessor, Det3DDataPreprocessor) and preprocessor.voxel_layer is not None
    if missing or not has_voxels or not isinstance(model, BaseModel):
        lacks = ", ".join(missing) or "a Det3DDataPreprocessor with a voxel_layer"
        raise InputError(
            f"{type(model).__name__} has no {lacks}; a detector on voxels with {', '.join(_NEEDED)} can be exported"
        )
    return model.eval()


def describe_deployment(
    cfg: PartCfg, model: nn.Module, exported: Sequence[ExportedGraph], tensors: Mapping[str, GraphTensors]
) -> dict[str, object]:
    """Describe an exported detector, for a JSON file; what JSON has not is to be given by its text.

    Args:
        cfg: The config.
        model: The detector, of `init_model`.
        exported: Its graphs.
        tensors: Input and outputs of each graph for some batch, by the graph's name, for their shapes.
    """
    parts = detector_parts(model)
    preprocessor, encoder, head = (parts[name].module for name in ("data_preprocessor", "voxel_encoder", "bbox_head"))
    assert isinstance(preprocessor, Det3DDataPreprocessor)
    assert preprocessor.voxel_layer is not None
    layer = preprocessor.voxel_layer
    features = num_point_features(cfg)
    head_cfg = cfg["model"].get("pts_bbox_head") or cfg["model"]["bbox_head"]
    return {
        "raydet3d": raydet3d.__version__,
        "torch": torch.__version__,
        "detector": type(model).__name__,
        "graphs": {one.graph.name: _describe_graph(one, *tensors[one.graph.name]) for one in exported},
        "classes": vars(model)["dataset_meta"]["classes"],
        "points": {"num_features": features, "loading": [_describe_loading(step) for step in loading_steps(cfg)]},
        "voxels": {
            "type": preprocessor.voxel_type,
            "point_cloud_range": list(layer.point_cloud_range),
            "voxel_size": list(layer.voxel_size),
            "grid_size": list(grid_size(layer.voxel_size, layer.point_cloud_range)),
            "max_num_points": layer.max_num_points,
            "max_voxels": layer.limit(False),
        },
        "voxel_encoder": {
            "type": type(encoder).__name__,
            "input_features": encoder.feature_names(features) if isinstance(encoder, LAYERED_ENCODERS) else None,
        },
        "middle_encoder": {
            "type": type(parts["middle_encoder"].module).__name__,
            "output_shape": list(tensors["pts_backbone_neck_head"][0].shape[1:]),
        },
        "head": {
            "type": type(head).__name__,
            **{name: getattr(head, name) for name in _HEAD_SETTINGS if hasattr(head, name)},
            **{name: head_cfg[name] for name in _HEAD_CONFIGS if name in head_cfg},
        },
        "post_processing": {"score": "sigmoid", **_settings(getattr(head, "test_cfg", None))},
    }


def _describe_graph(one: ExportedGraph, given: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, object]:
    """Describe a graph's file; the first axis is given by its name, since its size is free."""
    axis = one.graph.dynamic_axis
    return {
        "file": one.file_name,
        "sha256": hashlib.sha256(one.data).hexdigest(),
        "input": {"name": one.graph.input_name, "shape": [axis, *given.shape[1:]], "dtype": "float32"},
        "outputs": {name: {"shape": [axis, *outputs[name].shape[1:]], "dtype": "float32"} for name in one.output_names},
    }


def _settings(test_cfg: object) -> dict[str, object]:
    """Return a head's test settings."""
    given = asdict(test_cfg) if is_dataclass(test_cfg) and not isinstance(test_cfg, type) else test_cfg
    return dict(given) if isinstance(given, Mapping) else {}


def _describe_loading(step: PartCfg) -> dict[str, object]:
    """Describe a transform that loads points; of own recordings, with the axes, units and columns of their clouds."""
    described = {key: value for key, value in step.items() if key not in ("backend_args", "file_client_args")}
    if str(step["type"]).rpartition(".")[2] == LoadCustomPointsFromFile.__name__:
        described["conventions"] = asdict(read_conventions(Path(step["data_root"])))
    return described
