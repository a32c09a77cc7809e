"""CenterPoint: training and prediction of each kind, frames without points or objects, velocity, autocast."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from tests.kit.lidar import HALF, center_point
from tests.kit.pointpillars import a_frame, a_sample

NO_POINTS = torch.zeros(0, 4)
KINDS = {
    "pillars": center_point(),
    "voxels": center_point("voxel01"),
    "deformable": center_point(dcn=True),
    "velocity": center_point(velocity=True),
}


def make(kind="pillars", **changes):
    torch.manual_seed(0)
    model = MODELS.build({**KINDS[kind], **changes})
    model.init_weights()
    return model


def frame(seed=0, velocity=False):
    points, sample = a_frame(torch.Generator().manual_seed(seed), half=HALF, objects=3, background=600)
    return points, with_velocity(sample) if velocity else sample


def with_velocity(sample):
    boxes = sample.gt_instances_3d.bboxes_3d.tensor
    rows = torch.cat((boxes, torch.ones(len(boxes), 2)), dim=1)
    moving = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    moving.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(rows, box_dim=9), labels_3d=sample.gt_instances_3d.labels_3d
    )
    return moving


def batch_of(*frames):
    return {"inputs": {"points": [f[0] for f in frames]}, "data_samples": [f[1] for f in frames]}


@pytest.mark.parametrize("kind", KINDS)
def test_learns(kind):
    model = make(kind)
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum = 0.1
    batch = batch_of(frame(0, kind == "velocity"), frame(1, kind == "velocity"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    totals = []
    for _ in range(100):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert list(losses) == [f"task{t}.loss_{part}" for t in (0, 1) for part in ("heatmap", "bbox")]
    assert totals[-1] < 0.35 * totals[0]
    model.eval()
    for sample in model.val_step(batch):
        truth = sample.gt_instances_3d.bboxes_3d.tensor
        found = sample.pred_instances_3d
        boxes = found.bboxes_3d.tensor
        assert boxes.shape[1] == (9 if kind == "velocity" else 7)
        assert set(found.labels_3d.tolist()) <= {0, 1, 2}
        near = torch.cdist(truth[:, :3], boxes[:, :3]) < 0.7
        same = sample.gt_instances_3d.labels_3d[:, None] == found.labels_3d
        assert (near & same).any(1).float().mean() >= 0.6


@pytest.mark.parametrize(
    "frames",
    [
        [frame(0), (NO_POINTS, a_sample([], []))],
        [(NO_POINTS, frame(1)[1])],
        [(frame(2)[0], a_sample([], []))],
        [(frame(0)[0], a_sample([[500.0, 500, 0, 4, 2, 1.5, 0]], [2]))],
    ],
    ids=["last empty", "no points", "no objects", "out of range"],
)
@pytest.mark.parametrize("kind", ["pillars", "voxels"])
def test_frames_with_nothing_in_them(kind, frames):
    model = make(kind)
    batch = batch_of(*frames)
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert len(model.eval().val_step(batch)) == len(frames)


def test_autocast_keeps_losses_and_boxes_in_float32():
    model = make()
    batch = batch_of(frame(0))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
        assert all(value.dtype == torch.float32 for value in losses.values())
        model.eval()
        (sample,) = model.val_step(batch)
    assert sample.pred_instances_3d.bboxes_3d.tensor.dtype == torch.float32


def test_boxes_without_velocity_are_refused_by_a_head_with_velocity():
    model = make("velocity")
    with pytest.raises(InputError, match="velocity"):
        model(**model.data_preprocessor(batch_of(frame(0)), True), mode="loss")


def test_the_image_branch_is_refused():
    with pytest.raises(InputError, match="img_backbone"):
        make(img_backbone={"type": "ResNet"})


def test_published_properties_and_features():
    model = make().eval()
    batch = model.data_preprocessor(batch_of(frame(0), frame(1)), False)
    images, maps = model.extract_feat(batch["inputs"], [sample.metainfo for sample in batch["data_samples"]])
    assert images is None
    assert [tuple(one.shape) for one in maps] == [(2, 48, 32, 32)]
    assert model.with_pts_bbox
    assert model.with_pts_neck
    assert not model.with_img_backbone
