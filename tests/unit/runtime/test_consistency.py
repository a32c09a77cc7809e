"""Sections of a config that contradict each other are found, and those that only look so are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydet3d.config import Config, configs_root
from raydet3d.errors import InputError
from raydet3d.runtime.consistency import check_consistency, find_contradictions, warn_of_contradictions

ROOT = configs_root()
assert ROOT is not None
SHIPPED = [path for path in sorted(ROOT.rglob("*.py")) if "_base_" not in path.parts]
POINTPILLARS = Config.fromfile("pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py").to_dict()
CLASSES = ["Pedestrian", "Cyclist", "Car"]


def center_config() -> dict[str, Any]:
    """The parts of a CenterPoint config that say things twice."""
    names = ["car", "truck", "bus", "pedestrian"]
    grid = {"point_cloud_range": [-51.2, -51.2, -5, 51.2, 51.2, 3], "voxel_size": [0.2, 0.2, 8]}
    dataset = {"type": "NuScenesDataset", "metainfo": {"classes": names}}
    pts = {
        "grid_size": [512, 512, 1],
        "voxel_size": [0.2, 0.2, 8],
        "point_cloud_range": grid["point_cloud_range"],
        "out_size_factor": 4,
        "code_weights": [1.0] * 8 + [0.2, 0.2],
    }
    return {
        "train_cfg": {"by_epoch": True, "max_epochs": 20, "val_interval": 20},
        "train_dataloader": {
            "sampler": {"type": "DefaultSampler"},
            "dataset": {"type": "CBGSDataset", "dataset": dataset},
        },
        "model": {
            "type": "CenterPoint",
            "data_preprocessor": {"voxel_layer": grid},
            "pts_voxel_encoder": {"type": "PillarFeatureNet", "in_channels": 5, "feat_channels": [64], **grid},
            "pts_middle_encoder": {"type": "PointPillarsScatter", "in_channels": 64, "output_shape": [512, 512]},
            "pts_backbone": {
                "type": "SECOND",
                "in_channels": 64,
                "out_channels": [64, 128, 256],
                "layer_strides": [2, 2, 2],
            },
            "pts_neck": {
                "type": "SECONDFPN",
                "in_channels": [64, 128, 256],
                "out_channels": [128, 128, 128],
                "upsample_strides": [0.5, 1, 2],
            },
            "pts_bbox_head": {
                "type": "CenterHead",
                "in_channels": 384,
                "tasks": [
                    {"num_class": 1, "class_names": ["car"]},
                    {"num_class": 2, "class_names": ["truck", "bus"]},
                    {"num_class": 1, "class_names": ["pedestrian"]},
                ],
                "common_heads": {"reg": (2, 2), "height": (1, 2), "dim": (3, 2), "rot": (2, 2), "vel": (2, 2)},
                "bbox_coder": {
                    "type": "CenterPointBBoxCoder",
                    "code_size": 9,
                    "out_size_factor": 4,
                    "voxel_size": [0.2, 0.2],
                    "pc_range": [-51.2, -51.2],
                },
            },
            "train_cfg": {"pts": pts},
            "test_cfg": {"pts": {"out_size_factor": 4, "voxel_size": [0.2, 0.2], "pc_range": [-51.2, -51.2]}},
        },
    }


def changed(base: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy with one key changed; numbers in the key are positions in lists."""
    cfg = copy.deepcopy(base)
    *parents, last = [int(word) if word.isdigit() else word for word in key.split("/")]
    inner: Any = cfg
    for word in parents:
        inner = inner[word] if not isinstance(inner, dict) or word in inner else inner.setdefault(word, {})
    inner[last] = value
    return cfg


LATE = [{"type": "LinearLR", "begin": 80}, {"type": "MultiStepLR", "milestones": [90, 95]}]
DATASET = "train_dataloader/dataset/dataset"


def pipeline_place(kind: str) -> str:
    steps = POINTPILLARS["train_dataloader"]["dataset"]["dataset"]["pipeline"]
    return f"{DATASET}/pipeline/{[step['type'] for step in steps].index(kind)}"


PILLARS = [
    ("train_dataloader/dataset/dataset/metainfo/classes", ["Car"], ["num_classes=3", "[Car]"]),
    (f"{DATASET}/metainfo/classes", [*CLASSES, "Van"], ["num_classes=3", "Van"]),
    (f"{DATASET}/metainfo/classes", ["Car", "Car", "Van"], ["Car", "twice"]),
    ("val_dataloader/dataset/metainfo/classes", CLASSES[::-1], ["val_dataloader", "train_dataloader"]),
    ("test_dataloader/dataset/metainfo/classes", CLASSES[:2], ["test_dataloader", "train_dataloader"]),
    ("model/bbox_head/num_classes", 1, ["model.bbox_head.num_classes=1", "3 classes"]),
    (pipeline_place("PointShuffle"), {"type": "ObjectNameFilter", "classes": ["Car"]}, ["ObjectNameFilter", "[Car]"]),
    (f"{pipeline_place('ObjectSample')}/db_sampler/classes", CLASSES[::-1], ["db_sampler.classes", "label"]),
    (f"{pipeline_place('ObjectSample')}/db_sampler/classes", ["Pedestrian", "Cyclist"], ["'Car'", "not in"]),
    (f"{pipeline_place('ObjectSample')}/db_sampler/sample_groups", {"Van": 5}, ["pastes 'Van'"]),
    ("train_dataloader/sampler/type", "InfiniteSampler", ["train_dataloader.sampler", "max_iters"]),
    ("val_dataloader/sampler/type", "InfiniteSampler", ["val_dataloader.sampler", "never ends"]),
    ("test_dataloader/sampler/type", "mmengine.InfiniteSampler", ["test_dataloader.sampler", "never ends"]),
    ("model/middle_encoder/output_shape", [432, 496], ["output_shape=[432, 496]", "[496, 432]"]),
    ("model/data_preprocessor/voxel_layer/voxel_size", [0.32, 0.32, 4], ["voxel_size", "voxel_layer"]),
    ("model/data_preprocessor/voxel_layer/voxel_size", [0.16, 0.16, 2], ["makes 2 layers", "a height of 4"]),
    (
        "model/data_preprocessor/voxel_layer/point_cloud_range",
        [0, -40, -3, 69.12, 40, 1],
        ["500 cells along y", "250, 250, 252", "multiple of 8", "496 or 504"],
    ),
    ("model/voxel_encoder/point_cloud_range", [0, -40, -3, 70.4, 40, 1], ["voxel_encoder.point_cloud_range"]),
    ("model/voxel_encoder/in_channels", 5, ["in_channels=5", "loads 4"]),
    (f"{pipeline_place('LoadPointsFromFile')}/use_dim", 3, ["loads", "numbers a point"]),
    ("model/bbox_head/anchor_generator/sizes", [[0.8, 0.6, 1.73]], ["ranges", "sizes"]),
    ("model/bbox_head/anchor_generator/custom_values", [0, 0], ["code_size=7", "custom_values"]),
    ("model/bbox_head/bbox_coder/code_size", 9, ["code_size=9"]),
    ("model/train_cfg/assigner", POINTPILLARS["model"]["train_cfg"]["assigner"][:2], ["2 assigners", "3 sizes"]),
    ("model/bbox_head/anchor_generator/ranges", [[200, -40, -1, 270, 40, -1]] * 3, ["ranges", "point_cloud_range"]),
    ("model/neck/out_channels", [128, 128, 64], ["320 channels", "in_channels=384"]),
    ("model/backbone/in_channels", 32, ["64 channels", "backbone.in_channels=32"]),
    ("val_evaluator/type", "NuScenesMetric", ["NuScenesMetric", "KittiDataset"]),
    ("train_cfg/val_begin", 900, ["val_begin=900", "save_best"]),
]
CENTER = [
    ("model/pts_bbox_head/tasks/1/class_names", ["bus", "truck"], ["tasks", "order"]),
    ("model/pts_bbox_head/tasks/1/num_class", 1, ["num_class=1", "has 2"]),
    ("model/train_cfg/pts/grid_size", [256, 256, 1], ["grid_size", "voxel_layer"]),
    ("model/train_cfg/pts/out_size_factor", 8, ["train_cfg.pts.out_size_factor=8", "4"]),
    ("model/test_cfg/pts/out_size_factor", 8, ["test_cfg.pts.out_size_factor=8", "4"]),
    ("model/pts_bbox_head/bbox_coder/pc_range", [-54, -54], ["bbox_coder.pc_range"]),
    ("model/train_cfg/pts/code_weights", [1.0] * 8, ["8 numbers", "regresses 10"]),
    ("model/pts_bbox_head/bbox_coder/code_size", 7, ["code_size=7", "9 numbers"]),
    (
        "model/data_preprocessor/voxel_layer/point_cloud_range",
        [-51.4, -51.2, -5, 51.4, 51.2, 3],
        ["514 cells along x", "128, 129, 130", "512 or 520"],
    ),
    ("model/pts_neck/upsample_strides", [1, 2, 4], ["out_size_factor=4", "2"]),
]
CASES = [(POINTPILLARS, *case) for case in PILLARS] + [(center_config(), *case) for case in CENTER]


def with_best(base: dict[str, Any]) -> dict[str, Any]:
    if "default_hooks" in base:
        base = changed(base, "default_hooks/checkpoint/save_best", "auto")
    return base


@pytest.mark.parametrize(("base", "key", "value", "words"), CASES, ids=[f"{c[1]}={str(c[2])[:30]}" for c in CASES])
def test_contradictions_are_refused_with_both_places(
    base: dict[str, Any], key: str, value: Any, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        check_consistency(changed(with_best(base), key, value))
    said = [found.message for found in find_contradictions(changed(with_best(base), key, value)) if found.is_error]
    assert "\n" not in str(caught.value)
    assert any(all(word in message for word in words) for message in said), said


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train_cfg/val_interval", 1000, ["val_interval=1000", "max_epochs"]),
        ("default_hooks/checkpoint/interval", 1000, ["interval=1000", "max_epochs"]),
        ("param_scheduler", LATE, ["param_scheduler[0].begin=80"]),
        ("param_scheduler", LATE, ["param_scheduler[1].milestones=[90, 95]"]),
        ("val_evaluator/ann_file", "elsewhere/infos.pkl", ["val_evaluator", "elsewhere/infos.pkl"]),
        ("model/data_preprocessor/voxel_layer/point_cloud_range", [0, -39.7, -3, 69.12, 39.68, 1], ["no multiple"]),
        (f"{pipeline_place('PointsRangeFilter')}/point_cloud_range", [0, -10, -3, 20, 10, 1], ["stays empty"]),
        (f"{pipeline_place('ObjectRangeFilter')}/point_cloud_range", [0, -80, -3, 69.12, 80, 1], ["no voxel is"]),
    ],
)
def test_what_may_be_meant_is_a_warning(
    key: str, value: Any, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cfg = changed(POINTPILLARS, key, value)
    assert any(all(word in found.message for word in words) for found in find_contradictions(cfg) if not found.is_error)
    warn_of_contradictions(cfg)
    assert any(all(word in record.getMessage() for word in words) for record in caplog.records)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shipped_configs_have_no_contradiction(path: Path) -> None:
    assert find_contradictions(Config.fromfile(path)) == []


def no_change(cfg: dict[str, Any]) -> None:
    return


def infinite_with_iterations(cfg: dict[str, Any]) -> None:
    cfg["train_cfg"] = {"by_epoch": False, "max_iters": 100}
    cfg["train_dataloader"]["sampler"] = {"type": "InfiniteSampler"}


def infinite_with_a_length(cfg: dict[str, Any]) -> None:
    cfg["train_dataloader"]["sampler"] = {"type": "InfiniteSampler"}
    cfg["train_dataloader"]["num_batch_per_epoch"] = 10


def seven_ranges_for_ten_classes(cfg: dict[str, Any]) -> None:
    names = [f"class{number}" for number in range(10)]
    for mode in ("train", "val", "test"):
        cfg.pop(f"{mode}_dataloader")
    cfg["train_dataloader"] = {"dataset": {"type": "NuScenesDataset", "metainfo": {"classes": names}}}
    head = cfg["model"]["bbox_head"]
    head["num_classes"], head["assign_per_class"] = 10, False
    limits = [0, -39.68, -1, 69.12, 39.68, -1]
    head["anchor_generator"] |= {"ranges": [limits] * 7, "sizes": [[1, 1, 1]] * 7, "custom_values": [0, 0]}
    head["bbox_coder"]["code_size"] = 9
    cfg["model"]["train_cfg"]["assigner"] = cfg["model"]["train_cfg"]["assigner"][0]


def class_agnostic_second_stage(cfg: dict[str, Any]) -> None:
    cfg["model"]["roi_head"] = {"type": "PointRCNNRoIHead", "bbox_head": {"num_classes": 1}}


def ignored_class(cfg: dict[str, Any]) -> None:
    cfg["model"] = {"type": "Cylinder3D", "decode_head": {"type": "Cylinder3DHead", "num_classes": 4}}


@pytest.mark.parametrize(
    "change",
    [
        no_change,
        infinite_with_iterations,
        infinite_with_a_length,
        seven_ranges_for_ten_classes,
        class_agnostic_second_stage,
        ignored_class,
    ],
)
def test_legal_configs_that_look_contradictory_are_accepted(change: Callable[[dict[str, Any]], None]) -> None:
    cfg = copy.deepcopy(POINTPILLARS)
    change(cfg)
    assert [found.message for found in find_contradictions(cfg)] == []
    assert find_contradictions(center_config()) == []


def test_ema_beside_sharded_weights_is_refused() -> None:
    cfg = {**POINTPILLARS, "custom_hooks": [{"type": "EMAHook"}]}
    check_consistency(cfg)
    with pytest.raises(InputError, match=r"custom_hooks\[0\] .*model_wrapper_cfg"):
        check_consistency({**cfg, "model_wrapper_cfg": {"type": "MMFullyShardedDataParallel"}})


def test_velocities_are_refused_for_a_data_set_without_them() -> None:
    cfg = changed(POINTPILLARS, "model/bbox_head/anchor_generator/custom_values", [0, 0])
    cfg = changed(cfg, "model/bbox_head/bbox_coder/code_size", 9)
    with pytest.raises(InputError, match="no velocity"):
        check_consistency(cfg)


@pytest.mark.parametrize("junk", [None, 3, "text", [], [1, [2]], {"type": None}, {"a": {"b": [None]}}])
@pytest.mark.parametrize("key", ["model", "train_dataloader", "val_evaluator", "train_cfg", "custom_hooks"])
def test_values_of_unexpected_kinds_are_passed_over(key: str, junk: Any) -> None:
    find_contradictions({**POINTPILLARS, key: junk})
    for path in ("model/bbox_head", "model/data_preprocessor/voxel_layer", f"{DATASET}/metainfo/classes", DATASET):
        find_contradictions(changed(POINTPILLARS, path, junk))


def test_several_contradictions_are_counted() -> None:
    cfg = changed(changed(POINTPILLARS, "model/bbox_head/num_classes", 1), "model/backbone/in_channels", 1)
    with pytest.raises(InputError, match="and 1 more contradiction"):
        check_consistency(cfg)
