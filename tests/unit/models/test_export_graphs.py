"""Which parts of a detector are dense graphs, and the names of the outputs."""

from __future__ import annotations

import pytest
import torch

from raydet3d.models.detector_parts import detector_parts
from raydet3d.models.export_graphs import dense_graphs, name_outputs
from raydet3d.registry import MODELS
from tests.kit.lidar import center_point, fill, second
from tests.kit.pointpillars import reduced


def test_anchor_outputs_have_published_names_and_a_level_only_where_there_are_several() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    assert list(name_outputs(([one], [one], [one]))) == ["cls_score", "bbox_pred", "dir_cls_pred"]
    assert list(name_outputs(([one], [one], [None]))) == ["cls_score", "bbox_pred"]
    named = name_outputs(([one, two], [one, two], [one, two]))
    assert list(named)[:3] == ["level0_cls_score", "level1_cls_score", "level0_bbox_pred"]
    assert named["level1_dir_cls_pred"] is two


def test_center_outputs_begin_with_the_heatmap_and_have_a_task_only_where_there_are_several() -> None:
    maps = {"reg": torch.zeros(1), "vel": torch.zeros(2), "heatmap": torch.zeros(3), "extra": torch.zeros(4)}
    assert list(name_outputs(([maps],))) == ["heatmap", "reg", "vel", "extra"]
    named = name_outputs(([maps], [maps]))
    assert list(named)[:2] == ["task0_heatmap", "task0_reg"]
    assert named["task1_vel"] is maps["vel"]


def test_outputs_of_other_heads_are_numbered() -> None:
    assert list(name_outputs({"a": torch.zeros(1), "b": [torch.zeros(1), None]})) == ["output0", "output1"]


@pytest.mark.parametrize(
    ("cfg", "names", "left_out"),
    [
        (reduced(), ["pts_voxel_encoder", "pts_backbone_neck_head"], {"middle_encoder"}),
        (center_point(), ["pts_voxel_encoder", "pts_backbone_neck_head"], {"pts_middle_encoder"}),
        (center_point("voxel01"), ["pts_backbone_neck_head"], {"pts_voxel_encoder", "pts_middle_encoder"}),
        (second(), ["pts_backbone_neck_head"], {"voxel_encoder", "middle_encoder"}),
    ],
    ids=["pointpillars", "centerpoint-pillar", "centerpoint-voxel", "second"],
)
def test_what_is_in_no_graph_has_a_reason(cfg: dict[str, object], names: list[str], left_out: set[str]) -> None:
    graphs, reasons = dense_graphs(MODELS.build(cfg))
    assert [graph.name for graph in graphs] == names
    assert set(reasons) == left_out
    assert all(reasons.values())


def test_parts_come_in_the_order_of_a_frame() -> None:
    names = [part.name for part in detector_parts(MODELS.build(center_point())).values()]
    assert names == [
        "data_preprocessor",
        *("pts_voxel_encoder", "pts_middle_encoder", "pts_backbone", "pts_neck", "pts_bbox_head"),
    ]


@pytest.mark.parametrize("changes", [{}, {"legacy": False, "with_distance": True}, {"with_cluster_center": False}])
def test_each_input_feature_has_a_name(changes: dict[str, object]) -> None:
    """The names are formulas: computed for one point they give the channels."""
    kind = {"type": "PillarFeatureNet", "feat_channels": [8], "voxel_size": [2, 2, 4], **changes}
    encoder = MODELS.build({**kind, "point_cloud_range": [0, 0, 0, 4, 4, 4]})
    fill(encoder)
    points = torch.tensor([[[0.5, 2.25, 1.0, 0.3], [1.5, 3.0, 2.0, 0.6]]])
    (features,) = encoder.input_features(points, torch.tensor([2]), torch.tensor([[0, 0, 1, 0]]))
    known = {"x": 0.5, "y": 2.25, "z": 1.0, "point[3]": 0.3, "norm(x, y, z)": points[0, 0, :3].norm()}
    for axis, center, mean in (("x", 1, 1), ("y", 3, 2.625), ("z", 2, 1.5)):
        known[f"{axis} - {axis}_pillar_center"] = known[axis] - center
        known[f"{axis} - {axis}_mean_of_points"] = known[axis] - mean
    expected = [float(known[name]) for name in encoder.feature_names(4)]
    assert features[0].tolist() == pytest.approx(expected)
