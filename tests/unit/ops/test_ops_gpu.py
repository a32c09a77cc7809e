"""The operators give on a GPU what they give on the CPU."""

import pytest
import torch

from raydet3d import ops
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from tests.kit.close import assert_close

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")]

PILLARS = {"voxel_size": [0.16, 0.16, 4], "point_cloud_range": [0, -39.68, -3, 69.12, 39.68, 1]}


def boxes(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    rows = torch.rand(count, 7, generator=generator)
    return rows * torch.tensor([30, 30, 1, 4, 2, 2, 6.0]) + torch.tensor([20, -15, -2, 0.5, 0.5, 0.5, -3.0])


def cloud(count: int) -> torch.Tensor:
    spread = torch.rand(count, 4, generator=torch.Generator().manual_seed(0))
    return spread * torch.tensor([80, 90, 5, 1.0]) - torch.tensor([5, 45, 3.5, 0])


@pytest.mark.parametrize("max_voxels", [40000, 3000])
def test_voxelize(max_voxels: int) -> None:
    points = cloud(60_000)
    limits = {"max_num_points": 3, "max_voxels": max_voxels}
    expected = ops.voxelize_hard(points, **PILLARS, **limits)
    for got, want in zip(ops.voxelize_hard(points.cuda(), **PILLARS, **limits), expected, strict=True):
        assert got.device.type == "cuda"
        assert got.dtype == want.dtype
        assert_close(got, want)
    assert_close(ops.voxelize_dynamic(points.cuda(), **PILLARS), ops.voxelize_dynamic(points, **PILLARS))
    for got, want in zip(
        ops.voxelize_hard(points[:0].cuda(), **PILLARS, **limits),
        ops.voxelize_hard(points[:0], **PILLARS, **limits),
        strict=True,
    ):
        assert got.shape == want.shape


def test_overlaps() -> None:
    one, two, bev = boxes(200), boxes(150), [0, 1, 3, 4, 6]
    assert_close(ops.rotated_iou_3d(one.cuda(), two.cuda()), ops.rotated_iou_3d(one, two), atol=1e-5)
    assert_close(
        ops.rotated_iou_bev(one[:, bev].cuda(), two[:, bev].cuda()),
        ops.rotated_iou_bev(one[:, bev], two[:, bev]),
        atol=1e-5,
    )
    a, b = ops.nearest_bev(one), ops.nearest_bev(two)
    assert_close(ops.aligned_iou(a.cuda(), b.cuda()), ops.aligned_iou(a, b), atol=1e-6)


def test_suppression() -> None:
    some, bev = boxes(600), [0, 1, 3, 4, 6]
    scores = torch.rand(600, generator=torch.Generator().manual_seed(1)).mul(50).round()
    for threshold in (0.01, 0.3):
        expected = ops.nms_rotated(some[:, bev], scores, threshold)
        assert ops.nms_rotated(some[:, bev].cuda(), scores.cuda(), threshold).tolist() == expected.tolist()
    assert ops.nms_circle(some.cuda(), scores.cuda(), 4.0).tolist() == ops.nms_circle(some, scores, 4.0).tolist()


def test_points_in_boxes_and_structures() -> None:
    points, found = cloud(20_000), LiDARInstance3DBoxes(boxes(40))
    inside = found.to("cuda").points_in_boxes(points.cuda())
    assert (inside.cpu() != found.points_in_boxes(points)).sum() <= 2  # points within a rounding error of a face
    instances = InstanceData(bboxes_3d=found, labels_3d=torch.arange(40)).to("cuda")
    chosen = instances[instances.labels_3d > 30]
    assert chosen.bboxes_3d.device.type == "cuda"
    assert len(chosen.cpu()) == 9
    found.rotate(0.3)
    there = instances.bboxes_3d
    there.rotate(0.3)
    assert_close(there.convert_to("camera").tensor, found.convert_to("camera").tensor, atol=1e-5)


def test_samples_travel_from_pinned_memory() -> None:
    boxes_3d = LiDARInstance3DBoxes(boxes(5))
    sample = Det3DDataSample(metainfo={"sample_idx": 3})
    sample.gt_instances_3d = InstanceData(bboxes_3d=boxes_3d, labels_3d=torch.arange(5))
    pinned = sample.pin_memory()
    assert pinned.gt_instances_3d.labels_3d.is_pinned()
    assert pinned.gt_instances_3d.bboxes_3d.tensor.is_pinned()
    preprocessor = MODELS.build({"type": "Det3DDataPreprocessor", "non_blocking": True}).cuda()
    batch = {"inputs": {"points": [cloud(100).pin_memory()]}, "data_samples": [pinned]}
    ready = preprocessor(batch, True)
    assert_close(ready["inputs"]["points"][0], cloud(100))
    moved = ready["data_samples"][0].gt_instances_3d
    assert moved.labels_3d.is_cuda
    assert_close(moved.bboxes_3d.tensor, boxes(5))
