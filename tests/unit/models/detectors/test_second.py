"""SECOND: training and prediction, frames without points or objects, checkpoints of both published sparse layouts."""

import pytest
import torch

from raydet3d.checkpoint.load_weights import load_checkpoint
from raydet3d.registry import MODELS
from tests.kit.lidar import HALF, second
from tests.kit.pointpillars import a_frame, a_sample

NO_POINTS = torch.zeros(0, 4)


def make(seed=0):
    torch.manual_seed(seed)
    model = MODELS.build(second())
    model.init_weights()
    return model


def frame(seed=0):
    return a_frame(torch.Generator().manual_seed(seed), half=HALF, objects=3, background=600)


def batch_of(*frames):
    return {"inputs": {"points": [f[0] for f in frames]}, "data_samples": [f[1] for f in frames]}


def test_learns():
    model = make()
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum = 0.1  # 60 steps are too few for the published 0.01
    batch = batch_of(frame(0), frame(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    totals = []
    for _ in range(60):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
        assert list(losses) == ["loss_cls", "loss_bbox", "loss_dir"]
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.35 * totals[0]
    model.eval()
    for sample in model.val_step(batch):
        truth = sample.gt_instances_3d.bboxes_3d.tensor
        boxes = sample.pred_instances_3d.bboxes_3d.tensor
        assert len(boxes)
        assert (torch.cdist(truth[:, :2], boxes[:, :2]).amin(dim=1) < 0.7).float().mean() >= 0.6


@pytest.mark.parametrize(
    "frames",
    [
        [frame(0), (NO_POINTS, a_sample([], []))],
        [(NO_POINTS, frame(1)[1]), (NO_POINTS, frame(1)[1])],
        [(frame(2)[0], a_sample([], []))],
        [(frame(0)[0][:1], frame(0)[1])],
    ],
    ids=["last empty", "no points", "no objects", "one point"],
)
def test_frames_with_nothing_in_them(frames):
    model = make()
    batch = batch_of(*frames)
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert len(model.eval().val_step(batch)) == len(frames)


def spconv2(weights):
    """The weights as spconv 2 lays them out."""
    return {
        name: value.permute(4, 0, 1, 2, 3).contiguous() if value.ndim == 5 else value for name, value in weights.items()
    }


@pytest.mark.parametrize("layout", [dict, spconv2], ids=["mmcv", "spconv 2"])
def test_checkpoints_of_both_sparse_layouts_load(layout, tmp_path):
    source, target = make(0).eval(), make(1).eval()
    path = tmp_path / "published.pth"
    torch.save({"meta": {"epoch": 80}, "state_dict": layout(source.state_dict())}, path)
    load_checkpoint(target, path, strict=True)
    batch = batch_of(frame(0))
    mine, theirs = (model(**model.data_preprocessor(batch, False), mode="tensor")[0][0] for model in (target, source))
    assert torch.equal(mine, theirs)
    other = make(2)
    other.load_state_dict(layout(source.state_dict()))
    assert torch.equal(other.middle_encoder.conv_out[0].weight, source.middle_encoder.conv_out[0].weight)
