"""`VoxelNet`: training and prediction steps, batches with empty frames, autocast, determinism."""

from contextlib import nullcontext

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.models import VoxelNet
from raydet3d.registry import MODELS
from tests.kit.pointpillars import a_frame, a_sample, reduced

HALF = 5.12  # 16 cells of 0.64 m


def make(seed=0):
    torch.manual_seed(seed)
    model = MODELS.build(reduced(cells=16, voxel=0.64, channels=8))
    model.init_weights()
    return model


def batch_of(*frames):
    return {"inputs": {"points": [f[0] for f in frames]}, "data_samples": [f[1] for f in frames]}


def frame(seed=0, objects=3, background=600):
    return a_frame(torch.Generator().manual_seed(seed), half=HALF, objects=objects, background=background)


EMPTY = (torch.zeros(0, 4), a_sample([], []))
NO_POINTS = (torch.zeros(0, 4), frame(1)[1])
NO_OBJECTS = (frame(2)[0], a_sample([], []))
OUT_OF_RANGE = (torch.full((30, 4), 1e4), a_sample([[500.0, 500, 0, 4, 2, 1.5, 0]], [2]))


class PlainOptim:
    """The part of an optim wrapper that `train_step` uses."""

    def __init__(self, model, lr):
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def optim_context(self, model):
        return nullcontext()

    def update_params(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def test_learns():
    """A few steps on two frames: the loss falls to well below its half, and the objects are found."""
    model = make()
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum = 0.1  # 60 steps are too few for the published 0.01
    batch = batch_of(frame(0), frame(1))
    optim = PlainOptim(model, lr=5e-3)
    logs = [model.train_step(batch, optim) for _ in range(60)]
    assert list(logs[0]) == ["loss", "loss_cls", "loss_bbox", "loss_dir"]
    parts = sum(logs[0][name] for name in ("loss_cls", "loss_bbox", "loss_dir"))
    assert logs[0]["loss"].item() == pytest.approx(parts.item())
    assert not logs[0]["loss"].requires_grad
    assert logs[-1]["loss"] < 0.35 * logs[0]["loss"]
    model.eval()
    found = model.val_step(batch)
    for sample in found:
        truth = sample.gt_instances_3d.bboxes_3d.tensor
        boxes = sample.pred_instances_3d.bboxes_3d.tensor
        assert len(boxes)
        distance = torch.cdist(truth[:, :2], boxes[:, :2]).amin(dim=1)
        assert (distance < 0.7).float().mean() >= 0.6


@pytest.mark.parametrize(
    "frames",
    [
        [frame(0), EMPTY],
        [EMPTY, frame(0)],
        [EMPTY, EMPTY],
        [NO_POINTS, frame(0)],
        [NO_OBJECTS, NO_OBJECTS],
        [frame(0), NO_POINTS],
        [OUT_OF_RANGE],
        [(frame(0)[0][:1], frame(0)[1])],
    ],
    ids=["last empty", "first empty", "all empty", "no points", "no objects", "last no points", "out", "one point"],
)
def test_frames_with_nothing_in_them(frames):
    model = make()
    batch = batch_of(*frames)
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    model.eval()
    found = model.test_step(batch)
    assert len(found) == len(frames)
    assert all(len(s.pred_instances_3d.bboxes_3d) == len(s.pred_instances_3d.scores_3d) for s in found)


def test_an_empty_neighbour_changes_nothing():
    """In evaluation, a frame's predictions do not depend on what else is in the batch."""
    model = make().eval()
    torch.nn.init.normal_(model.bbox_head.conv_cls.weight, std=0.5)
    torch.nn.init.constant_(model.bbox_head.conv_cls.bias, -2)
    with torch.no_grad():
        alone = model.val_step(batch_of(frame(0)))[0].pred_instances_3d
        beside = model.val_step(batch_of(EMPTY, frame(0), EMPTY))[1].pred_instances_3d
    assert len(alone) > 0
    torch.testing.assert_close(beside.bboxes_3d.tensor, alone.bboxes_3d.tensor, rtol=1e-4, atol=1e-4)
    assert beside.labels_3d.tolist() == alone.labels_3d.tolist()


def test_modes():
    model = make()
    ready = model.data_preprocessor(batch_of(frame(0)), False)
    (cls,), (reg,), (direction,) = model(**ready, mode="tensor")
    assert [tuple(m.shape[1:]) for m in (cls, reg, direction)] == [(18, 16, 16), (42, 16, 16), (12, 16, 16)]
    with pytest.raises(ValueError, match="mode"):
        model(**ready, mode="train")


def test_bfloat16_autocast_trains():
    model = make()
    batch = batch_of(frame(0), frame(1))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
    wanted = model(**model.data_preprocessor(batch, True), mode="loss")
    for name, (value,) in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(wanted[name][0].item(), rel=0.05)
    model.parse_losses(losses)[0].backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in model.parameters())


def test_the_same_step_twice_is_the_same_to_the_bit():
    states = []
    for _ in range(2):
        model = make(seed=3)
        optim = PlainOptim(model, lr=1e-2)
        for seed in range(3):
            model.train_step(batch_of(frame(seed), frame(seed + 5)), optim)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_needs_a_head():
    cfg = reduced(cells=16, channels=8)
    del cfg["bbox_head"]
    with pytest.raises(InputError, match="bbox_head"):
        MODELS.build(cfg)


def test_methods_overridden_by_a_plug_in_are_used():
    calls = []

    class Plugin(VoxelNet):
        def extract_feat(self, batch_inputs_dict):
            calls.append("extract_feat")
            return super().extract_feat(batch_inputs_dict)

        def loss(self, batch_inputs_dict, batch_data_samples, **kwargs):
            calls.append("loss")
            return {**super().loss(batch_inputs_dict, batch_data_samples, **kwargs), "loss_extra": torch.ones(())}

        def predict(self, batch_inputs_dict, batch_data_samples, **kwargs):
            calls.append("predict")
            return super().predict(batch_inputs_dict, batch_data_samples, **kwargs)

        def _forward(self, batch_inputs_dict, data_samples=None, **kwargs):
            calls.append("_forward")
            return super()._forward(batch_inputs_dict, data_samples, **kwargs)

        def add_pred_to_datasample(self, data_samples, data_instances_3d=None, data_instances_2d=None):
            calls.append("add_pred_to_datasample")
            return super().add_pred_to_datasample(data_samples, data_instances_3d, data_instances_2d)

        def parse_losses(self, losses):
            calls.append("parse_losses")
            return super().parse_losses(losses)

    with MODELS.temporary(Plugin=Plugin):
        model = MODELS.build({**reduced(cells=16, voxel=0.64, channels=8), "type": "Plugin"})
    log = model.train_step(batch_of(frame(0)), PlainOptim(model, lr=1e-3))
    assert log["loss_extra"].item() == 1
    assert calls == ["loss", "extract_feat", "parse_losses"]
    calls.clear()
    model.val_step(batch_of(frame(0)))
    assert calls == ["predict", "extract_feat", "add_pred_to_datasample"]
    calls.clear()
    model(**model.data_preprocessor(batch_of(frame(0)), False), mode="tensor")
    assert calls == ["_forward", "extract_feat"]
