"""The anchor head: targets by hand, losses against the plain formulas over whole maps, predictions of known maps."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raydet3d.errors import InputError
from raydet3d.registry import MODELS
from raydet3d.structures import InstanceData, LiDARInstance3DBoxes
from tests.kit.pointpillars import a_sample, reduced

CELLS, CHANNELS = 16, 24


def head_config(**changes):
    cfg = reduced(cells=CELLS, voxel=0.64, channels=8)
    head = {**cfg["bbox_head"], "train_cfg": cfg["train_cfg"], "test_cfg": cfg["test_cfg"]}
    train = changes.pop("train", {})
    test = changes.pop("test", {})
    head["train_cfg"] = {**head["train_cfg"], **train}
    head["test_cfg"] = {**head["test_cfg"], **test}
    return {**head, **changes}


def make(**changes):
    head = MODELS.build(head_config(**changes))
    torch.manual_seed(0)
    head.init_weights()
    return head


def at(y, x, size, rotation):
    """An anchor's number in a frame."""
    return (y * CELLS + x) * 6 + size * 2 + rotation


def place(y, x):
    """Centre of a cell of 0.64 m."""
    return (x + 0.5) * 0.64, (y + 0.5) * 0.64 - 5.12


def car(y, x, yaw=0.0, shift=(0.0, 0.0)):
    cx, cy = place(y, x)
    return [cx + shift[0], cy + shift[1], -1.78, 3.9, 1.6, 1.56, yaw]


SAMPLES = [
    a_sample([car(4, 5), [*place(10, 3), -0.6, 0.8, 0.6, 1.73, 2.0]], [2, 0]),
    a_sample([], []),
    a_sample([car(12, 9, yaw=-1.4), car(3, 9, yaw=3.0), [*place(8, 8), -0.6, 1.9, 0.7, 1.6, 0.4]], [2, 2, 1]),
]
DEVICE = torch.device("cpu")


class TestTargets:
    def test_an_object_on_its_anchor(self):
        head = make()
        targets = head.sparse_targets((CELLS, CELLS), [a_sample([car(4, 5)], [2])], DEVICE)
        index = targets.positive.tolist().index(at(4, 5, size=2, rotation=0))
        assert targets.labels[index] == 2
        assert targets.bbox_targets[index].tolist() == pytest.approx([0] * 7, abs=1e-6)
        # Only anchors of the car's size, all near it.
        assert ((targets.positive % 6) // 2).unique().tolist() == [2]
        assert targets.avg_factor == len(targets.positive)

    def test_headings_and_directions(self):
        """A car at 2.0 is nearest to the 1.57 anchor; halves begin at -pi/2: 2.0 + pi/2 > pi, so the second one."""
        head = make()
        for yaw, rotation, half in ((2.0, 1, 1), (-1.2, 1, 0), (0.1, 0, 0), (3.0, 0, 1), (-3.0, 0, 1), (1.5, 1, 0)):
            targets = head.sparse_targets((CELLS, CELLS), [a_sample([car(4, 5, yaw=yaw)], [2])], DEVICE)
            index = targets.positive.tolist().index(at(4, 5, 2, rotation))
            assert targets.bbox_targets[index, 6].item() == pytest.approx(yaw - 1.57 * rotation, abs=1e-5)
            assert targets.dir_targets[index] == half, yaw

    def test_frames_are_kept_apart_and_counted(self):
        head = make()
        whole = head.sparse_targets((CELLS, CELLS), SAMPLES, DEVICE)
        frame = whole.positive // (CELLS * CELLS * 6)
        assert sorted(set(frame.tolist())) == [0, 2]
        counts = [int((frame == i).sum()) for i in range(3)]
        assert whole.avg_factor == counts[0] + 1 + counts[2]  # the empty frame counts as one
        for i, sample in enumerate(SAMPLES):
            alone = head.sparse_targets((CELLS, CELLS), [sample], DEVICE)
            mine = frame == i
            assert (whole.positive[mine] - i * CELLS * CELLS * 6).tolist() == alone.positive.tolist()
            torch.testing.assert_close(whole.bbox_targets[mine], alone.bbox_targets)

    def test_anchors_of_a_class_see_their_own_objects_only(self):
        """A car labelled as a pedestrian: car anchors stay background; SECOND's way takes the label as it is."""
        wrong = [a_sample([car(4, 5)], [0])]
        targets = make().sparse_targets((CELLS, CELLS), wrong, DEVICE)
        assert 2 not in (targets.positive % 6 // 2).tolist()
        every = make(assign_per_class=False).sparse_targets((CELLS, CELLS), wrong, DEVICE)
        assert at(4, 5, 2, 0) in every.positive.tolist()
        assert every.labels.unique().tolist() == [0]

    def test_one_assigner_for_all_sizes(self):
        assigner = {"type": "Max3DIoUAssigner", "pos_iou_thr": 0.6, "neg_iou_thr": 0.3, "min_pos_iou": 0.3}
        head = make(assign_per_class=False, train={"assigner": assigner})
        targets = head.sparse_targets((CELLS, CELLS), SAMPLES[:1], DEVICE)
        assert at(4, 5, 2, 0) in targets.positive.tolist()
        assert sorted(targets.labels.unique().tolist()) == [0, 2]
        # The car's best anchor is its own size's; no other size overlaps it enough.
        mine = targets.positive[targets.labels == 2]
        assert (mine % 6 // 2).unique().tolist() == [2]

    def test_a_calculator_of_the_users_goes_the_long_way(self):
        """Assigning by comparing all with all (as other overlaps need) gives the same."""
        from raydet3d.models.task_modules.iou_calculators import BboxOverlapsNearest3D
        from raydet3d.registry import TASK_UTILS

        class Mine(BboxOverlapsNearest3D):
            pass

        wanted = make().sparse_targets((CELLS, CELLS), SAMPLES, DEVICE)
        with TASK_UTILS.temporary(Mine=Mine):
            assigners = [{**one, "iou_calculator": {"type": "Mine"}} for one in head_config()["train_cfg"]["assigner"]]
            head = make(train={"assigner": assigners})
        assert not head.bbox_assigner[0].supports_grid
        found = head.sparse_targets((CELLS, CELLS), SAMPLES, DEVICE)
        for name in ("positive", "labels", "bbox_targets", "dir_targets", "ignored", "avg_factor"):
            assert torch.equal(getattr(found, name), getattr(wanted, name)), name

    def test_objects_of_no_class_and_numpy_labels(self):
        sample = a_sample([car(4, 5), car(8, 9)], [2, -1])
        sample.gt_instances_3d = InstanceData(bboxes_3d=sample.gt_instances_3d.bboxes_3d, labels_3d=np.array([2, -1]))
        targets = make(assign_per_class=False).sparse_targets((CELLS, CELLS), [sample], DEVICE)
        assert targets.labels.unique().tolist() == [2]


def dense_losses(head, feats, samples, beta=1 / 9):
    """The published formulas over whole maps, one-hot targets and all."""
    (cls,), (reg,), (direction,) = head([feats])
    targets = head.sparse_targets((CELLS, CELLS), samples, DEVICE)
    count = len(samples) * CELLS * CELLS * 6
    cls = cls.permute(0, 2, 3, 1).reshape(count, 3)
    reg = reg.permute(0, 2, 3, 1).reshape(count, 7)[targets.positive]
    direction = direction.permute(0, 2, 3, 1).reshape(count, 2)[targets.positive]
    one_hot = torch.zeros_like(cls)
    one_hot[targets.positive, targets.labels] = 1
    weight = torch.ones(count, 1, dtype=cls.dtype)
    weight[targets.ignored] = 0
    p = cls.sigmoid()
    focal = F.binary_cross_entropy(p, one_hot, reduction="none")
    focal = focal * (one_hot * 0.25 * (1 - p) ** 2 + (1 - one_hot) * 0.75 * p**2)
    total = float(targets.avg_factor) + torch.finfo(torch.float32).eps
    wanted = targets.bbox_targets.to(reg)
    error = reg[:, :6] - wanted[:, :6]
    error = torch.cat((error, torch.sin(reg[:, 6:] - wanted[:, 6:])), 1).abs()
    smooth = torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)
    log_p = direction.log_softmax(1)[torch.arange(len(direction)), targets.dir_targets]
    return {
        "loss_cls": (focal * weight).sum() / total,
        "loss_bbox": 2 * smooth.sum() / total,
        "loss_dir": -0.2 * log_p.sum() / total,
    }


@pytest.mark.parametrize("samples", [SAMPLES, [SAMPLES[1], SAMPLES[1]]], ids=["objects", "no objects"])
def test_losses_equal_the_formulas_over_whole_maps(samples):
    head = make().double()
    feats = torch.randn(len(samples), CHANNELS, CELLS, CELLS, dtype=torch.float64, requires_grad=True)
    feats_last = feats.to(memory_format=torch.channels_last)
    parameters = [feats, *head.parameters()]
    losses = head.loss([feats_last], samples)
    wanted = dense_losses(head, feats, samples)
    assert list(losses) == list(wanted)
    for name, value in wanted.items():
        assert losses[name][0].item() == pytest.approx(value.item(), rel=1e-6), name  # anchors are float32
    mine = torch.autograd.grad(sum(loss for (loss,) in losses.values()), parameters)
    theirs = torch.autograd.grad(sum(wanted.values()), parameters, allow_unused=True)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-5, atol=1e-9)


def test_every_parameter_has_a_gradient_without_objects():
    head = make()
    losses = head.loss([torch.randn(2, CHANNELS, CELLS, CELLS)], [SAMPLES[1]] * 2)
    sum(loss for (loss,) in losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    assert head.conv_reg.weight.grad.abs().max() == 0


def test_code_weight_and_pos_weight():
    feats = [torch.randn(3, CHANNELS, CELLS, CELLS)]
    plain = make().loss(feats, SAMPLES)
    heavy = make(train={"code_weight": [2.0] * 7}).loss(feats, SAMPLES)
    assert heavy["loss_bbox"][0].item() == pytest.approx(2 * plain["loss_bbox"][0].item(), rel=1e-5)
    # The dense way, taken where positives are weighted, agrees with the sparse one at a weight of one.
    same = make(train={"pos_weight": 1.0}).loss(feats, SAMPLES)
    assert same["loss_cls"][0].item() == pytest.approx(plain["loss_cls"][0].item(), rel=1e-5)
    more = make(train={"pos_weight": 3.0}).loss(feats, SAMPLES)
    assert more["loss_cls"][0] > same["loss_cls"][0]


def test_losses_are_float32_under_autocast():
    head = make()
    feats = torch.randn(3, CHANNELS, CELLS, CELLS)
    wanted = head.loss([feats], SAMPLES)
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss([feats.bfloat16()], SAMPLES)
    for name, (value,) in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(wanted[name][0].item(), rel=0.03)


class Rigged(torch.nn.Module):
    """A map that makes the head say what a test wants: one channel per output, biases aside."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        for conv in (head.conv_cls, head.conv_reg, head.conv_dir_cls):
            torch.nn.init.zeros_(conv.weight)
            torch.nn.init.zeros_(conv.bias)
        torch.nn.init.constant_(head.conv_cls.bias, -10)
        self.feats = torch.zeros(2, CHANNELS, CELLS, CELLS)
        self.used = 0

    def say(self, frame, anchor, label, score, deltas=(0,) * 7, half=0):
        """Let one anchor find something; a channel of its own carries it."""
        cell, slot = divmod(anchor, 6)
        channel, self.used = self.used, self.used + 1
        self.feats[frame, channel, cell // CELLS, cell % CELLS] = 1
        with torch.no_grad():
            self.head.conv_cls.weight[slot * 3 + label, channel, 0, 0] = math.log(score / (1 - score)) + 10
            self.head.conv_reg.weight[slot * 7 : slot * 7 + 7, channel, 0, 0] = torch.tensor(deltas, dtype=torch.float)
            self.head.conv_dir_cls.weight[slot * 2 + half, channel, 0, 0] = 1

    def predict(self):
        return self.head.predict([self.feats], [a_sample([], []), a_sample([], [])])


class TestPredict:
    def test_boxes_scores_and_headings(self):
        rigged = Rigged(make())
        rigged.say(0, at(4, 5, 2, 0), label=2, score=0.9, deltas=(0, 0, 0, 0, 0, 0, 0.1), half=0)
        rigged.say(0, at(12, 5, 2, 0), label=2, score=0.7, deltas=(0, 0, 0, 0, 0, 0, 0.1), half=1)
        rigged.say(0, at(8, 12, 0, 1), label=0, score=0.5, deltas=(0.5, 0, 0, math.log(2), 0, 0, 0), half=1)
        found, nothing = rigged.predict()
        assert len(nothing) == 0
        assert isinstance(nothing.bboxes_3d, LiDARInstance3DBoxes)
        assert found.labels_3d.tolist() == [0, 2, 2]  # class by class
        assert found.scores_3d.tolist() == pytest.approx([0.5, 0.9, 0.7], abs=1e-5)
        boxes = found.bboxes_3d.tensor
        x, y = place(8, 12)
        # 0.5 diagonals of a 0.8 x 0.6 anchor (1 m) to the right, twice as long; 1.57 in the second half: turned round.
        assert boxes[0].tolist() == pytest.approx([x + 0.5, y, -0.6, 1.6, 0.6, 1.73, 1.57 + math.pi], abs=1e-4)
        assert boxes[1, 6].item() == pytest.approx(0.1, abs=1e-5)
        assert boxes[2, 6].item() == pytest.approx(0.1 + math.pi, abs=1e-5)

    def test_what_headings_mean_is_what_targets_say(self):
        """Encoding an object and predicting exactly that gives the object back, for headings all round."""
        for yaw in np.linspace(-3.1, 3.1, 12):
            head = make()
            sample = a_sample([car(6, 6, yaw=float(yaw), shift=(0.14, -0.2))], [2])
            targets = head.sparse_targets((CELLS, CELLS), [sample], DEVICE)
            rigged = Rigged(head)
            rigged.say(
                0, int(targets.positive[0]), 2, 0.9, targets.bbox_targets[0].tolist(), int(targets.dir_targets[0])
            )
            found = rigged.predict()[0].bboxes_3d.tensor[0]
            wanted = sample.gt_instances_3d.bboxes_3d.tensor[0]
            torch.testing.assert_close(found[:6], wanted[:6], atol=1e-4, rtol=0)
            assert math.cos(float(found[6] - wanted[6])) == pytest.approx(1, abs=1e-5)

    def test_suppresses_within_a_class_only(self):
        rigged = Rigged(make())
        rigged.say(0, at(4, 5, 2, 0), label=2, score=0.6)
        rigged.say(0, at(4, 6, 2, 0), label=2, score=0.8)  # 0.64 m further: overlaps
        rigged.say(0, at(4, 5, 1, 0), label=1, score=0.5)  # another class on the same place
        rigged.say(0, at(9, 5, 2, 0), label=2, score=0.05)  # below score_thr
        found = rigged.predict()[0]
        assert list(zip(found.labels_3d.tolist(), found.scores_3d.round(decimals=2).tolist(), strict=True)) == [
            (1, 0.5),
            (2, pytest.approx(0.8)),
        ]

    def test_keeps_the_best_of_too_many(self):
        rigged = Rigged(make(test={"max_num": 2, "use_rotate_nms": False}))
        for i, score in enumerate((0.3, 0.9, 0.5)):
            rigged.say(1, at(2 + 5 * i, 5, 2, 0), label=2, score=score)
        assert rigged.predict()[1].scores_3d.tolist() == pytest.approx([0.9, 0.5], abs=1e-5)

    def test_looks_at_the_best_anchors_only(self):
        rigged = Rigged(make(test={"nms_pre": 1}))
        for i, score in enumerate((0.3, 0.9)):
            rigged.say(0, at(2 + 5 * i, 5, 2, 0), label=2, score=score)
        assert rigged.predict()[0].scores_3d.tolist() == pytest.approx([0.9], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train": {"assigner": []}}, "one per size of anchor"),
        ({"num_classes": 2}, "assign_per_class"),
        ({"bbox_coder": {"type": "DeltaXYZWLHRBBoxCoder", "code_size": 9}}, "code_size"),
        ({"test": {"nms_across_levels": True}}, "nms_across_levels"),
        ({"test": {"score_th": 0.1}}, "did you mean 'score_thr'"),
        ({"train": {"pos_weigth": 1}}, "did you mean 'pos_weight'"),
    ],
)
def test_refuses(change, says):
    with pytest.raises(InputError, match=says):
        make(**change)


def test_refuses_to_train_without_an_assigner():
    head = MODELS.build({**head_config(), "train_cfg": None})
    with pytest.raises(InputError, match="train_cfg"):
        head.loss([torch.zeros(1, CHANNELS, CELLS, CELLS)], [SAMPLES[0]])
