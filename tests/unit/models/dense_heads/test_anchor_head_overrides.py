"""Published methods of `Anchor3DHead`: results of both paths, and subclasses that override each of the methods."""

import pytest
import torch
from torch import nn

from raydet3d.models import Anchor3DHead, DeltaXYZWLHRBBoxCoder, Max3DIoUAssigner
from raydet3d.registry import MODELS, TASK_UTILS
from tests.unit.models.dense_heads.test_anchor3d_head import CELLS, CHANNELS, SAMPLES, head_config

SIZE = (CELLS, CELLS)
DEVICE = torch.device("cpu")


class PublishedPath(Anchor3DHead):
    """Overrides a method without changing it, so that losses and predictions take the published path."""

    def forward_single(self, x):
        return super().forward_single(x)


def build(cls=Anchor3DHead, seed=0, **changes):
    with MODELS.temporary(**({} if cls is Anchor3DHead else {cls.__name__: cls})):
        head = MODELS.build({**head_config(**changes), "type": cls.__name__})
    torch.manual_seed(seed)
    head.init_weights()
    nn.init.normal_(head.conv_cls.weight, std=0.3)
    return head


def features(dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(len(SAMPLES), CHANNELS, CELLS, CELLS, dtype=dtype)


ASSIGNER = {"type": "Max3DIoUAssigner", "pos_iou_thr": 0.6, "neg_iou_thr": 0.3, "min_pos_iou": 0.3}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"assign_per_class": False},
        {"assign_per_class": False, "train": {"assigner": ASSIGNER}},
        {"use_direction_classifier": False},
        {"diff_rad_by_sin": False, "train": {"pos_weight": 2.0, "code_weight": [1.0, 1, 1, 1, 1, 1, 0.5]}},
    ],
    ids=["per class", "all classes", "one assigner", "no direction", "weights"],
)
def test_both_paths_give_the_same_losses_gradients_and_boxes(changes):
    results = []
    for cls in (Anchor3DHead, PublishedPath):
        head = build(cls, **changes).double()
        x = features(torch.float64).requires_grad_()
        losses = head.loss([x], SAMPLES)
        assert all(isinstance(value, list) for value in losses.values())
        total = sum(loss for (loss,) in losses.values())
        gradients = torch.autograd.grad(total, [x, *head.parameters()])
        results.append((losses, gradients, head.predict([x], SAMPLES)))
    (losses, gradients, boxes), (expected, expected_gradients, expected_boxes) = results
    assert list(losses) == list(expected)
    for name, (value,) in expected.items():
        torch.testing.assert_close(losses[name][0], value, rtol=1e-6, atol=0)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    for ours, theirs in zip(boxes, expected_boxes, strict=True):
        assert len(ours) > 0
        assert ours.labels_3d.tolist() == theirs.labels_3d.tolist()
        torch.testing.assert_close(ours.bboxes_3d.tensor, theirs.bboxes_3d.tensor)
        torch.testing.assert_close(ours.scores_3d, theirs.scores_3d)


def test_dense_targets_equal_the_sparse_ones():
    head = build()
    metas = [sample.metainfo for sample in SAMPLES]
    anchors = head.get_anchors([SIZE], metas, device="cpu")
    assert (len(anchors), len(anchors[0]), tuple(anchors[0][0].shape)) == (3, 1, (1, CELLS, CELLS, 3, 2, 7))
    truth = [sample.gt_instances_3d for sample in SAMPLES]
    labels, weights, boxes, box_weights, directions, dir_weights, num_pos, num_neg = head.anchor_target_3d(
        anchors, truth, metas, num_classes=3
    )
    sparse = head.sparse_targets(SIZE, SAMPLES, DEVICE)
    flat = labels[0].flatten()
    positive = (flat < 3).nonzero().squeeze(1)
    assert positive.tolist() == sparse.positive.sort().values.tolist()
    assert flat[sparse.positive].tolist() == sparse.labels.tolist()
    assert (weights[0].flatten() == 0).nonzero().squeeze(1).tolist() == sparse.ignored.sort().values.tolist()
    assert torch.equal(boxes[0].view(-1, 7)[sparse.positive], sparse.bbox_targets)
    assert directions[0].flatten()[sparse.positive].tolist() == sparse.dir_targets.tolist()
    assert box_weights[0].sum() == 7 * dir_weights[0].sum() == 7 * len(positive)
    assert num_pos == sparse.avg_factor
    assert num_neg == (weights[0].flatten() > 0).sum() - len(positive)


class ForwardSingle(Anchor3DHead):
    def forward_single(self, x):
        scores, boxes, directions = super().forward_single(x)
        return scores + 1, boxes, directions


class GetAnchors(Anchor3DHead):
    def get_anchors(self, featmap_sizes, input_metas, device="cuda"):
        anchors = super().get_anchors(featmap_sizes, input_metas, device=device)
        return [[level + torch.tensor([0.1, 0, 0, 0, 0, 0, 0]) for level in levels] for levels in anchors]


class AnchorTarget3D(Anchor3DHead):
    def anchor_target_3d(self, *args, **kwargs):
        labels, weights, *rest = super().anchor_target_3d(*args, **kwargs)
        return (labels, [2 * one for one in weights], *rest)


class AnchorTarget3DSingle(Anchor3DHead):
    def anchor_target_3d_single(self, *args, **kwargs):
        labels, weights, *rest = super().anchor_target_3d_single(*args, **kwargs)
        return (labels, 2 * weights, *rest)


class AnchorTargetSingleAssigner(Anchor3DHead):
    def anchor_target_single_assigner(self, bbox_assigner, anchors, gt_instance_3d, *args, **kwargs):
        result = super().anchor_target_single_assigner(bbox_assigner, anchors, gt_instance_3d, *args, **kwargs)
        return (result[0], 2 * result[1], *result[2:])


class LossByFeat(Anchor3DHead):
    def loss_by_feat(self, cls_scores, bbox_preds, dir_cls_preds, *args, **kwargs):
        losses = super().loss_by_feat(cls_scores, bbox_preds, dir_cls_preds, *args, **kwargs)
        return {**losses, "loss_cls": [2 * one for one in losses["loss_cls"]]}


class LossByFeatSingle(Anchor3DHead):
    def _loss_by_feat_single(self, cls_score, *args, **kwargs):
        scores, boxes, directions = super()._loss_by_feat_single(cls_score, *args, **kwargs)
        return 2 * scores, boxes, directions


class AddSinDifference(Anchor3DHead):
    @staticmethod
    def add_sin_difference(boxes1, boxes2):
        return boxes1 + 1, boxes2


@pytest.mark.parametrize(
    ("cls", "changed", "factor"),
    [
        (ForwardSingle, "loss_cls", None),
        (GetAnchors, "loss_bbox", None),
        (AnchorTarget3D, "loss_cls", 2),
        (AnchorTarget3DSingle, "loss_cls", 2),
        (AnchorTargetSingleAssigner, "loss_cls", 2),
        (LossByFeat, "loss_cls", 2),
        (LossByFeatSingle, "loss_cls", 2),
        (AddSinDifference, "loss_bbox", None),
    ],
)
def test_an_override_takes_effect_in_loss(cls, changed, factor):
    plain = build().loss([features()], SAMPLES)
    losses = build(cls).loss([features()], SAMPLES)
    assert list(losses) == list(plain)
    if factor is None:
        assert losses[changed][0].item() != pytest.approx(plain[changed][0].item(), rel=1e-3)
    else:
        assert losses[changed][0].item() == pytest.approx(factor * plain[changed][0].item(), rel=1e-5)
    for name in set(plain) - {changed}:
        if cls is not GetAnchors:
            assert losses[name][0].item() == pytest.approx(plain[name][0].item(), rel=1e-5)


def test_overrides_of_predictions_take_effect():
    class PredictByFeat(Anchor3DHead):
        def predict_by_feat(self, cls_scores, bbox_preds, dir_cls_preds, batch_input_metas=None, cfg=None, **kwargs):
            return ["replaced"] * len(batch_input_metas)

    class PredictByFeatSingle(Anchor3DHead):
        def _predict_by_feat_single(self, *args, **kwargs):
            found = super()._predict_by_feat_single(*args, **kwargs)
            return found[found.scores_3d > 0.9]

    x = [features()]
    assert build(PredictByFeat).predict(x, SAMPLES) == ["replaced"] * 3
    for found, every in zip(build(PredictByFeatSingle).predict(x, SAMPLES), build().predict(x, SAMPLES), strict=True):
        assert len(found) == int((every.scores_3d > 0.9).sum())


def test_a_box_coder_of_a_plug_in_is_used_for_targets_and_predictions():
    class HalfCoder(DeltaXYZWLHRBBoxCoder):
        @staticmethod
        def encode(src_boxes, dst_boxes):
            return DeltaXYZWLHRBBoxCoder.encode(src_boxes, dst_boxes) / 2

        @staticmethod
        def decode(anchors, deltas):
            return DeltaXYZWLHRBBoxCoder.decode(anchors, deltas * 2)

    plain = build().sparse_targets(SIZE, SAMPLES, DEVICE)
    with TASK_UTILS.temporary(HalfCoder=HalfCoder):
        head, dense = (build(cls, bbox_coder={"type": "HalfCoder"}) for cls in (Anchor3DHead, PublishedPath))
    assert torch.equal(head.sparse_targets(SIZE, SAMPLES, DEVICE).bbox_targets, plain.bbox_targets / 2)
    one, other = (h.loss([features()], SAMPLES)["loss_bbox"][0].item() for h in (head, dense))
    assert one == pytest.approx(other, rel=1e-5)
    one, other = (h.predict([features()], SAMPLES)[0].bboxes_3d.tensor for h in (head, dense))
    torch.testing.assert_close(one, other)


def test_an_assigner_of_a_plug_in_is_called_by_its_published_method():
    calls = []

    class NoPositives(Max3DIoUAssigner):
        def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, **kwargs):
            calls.append(len(pred_instances.priors))
            result = super().assign(pred_instances, gt_instances, gt_instances_ignore)
            result.gt_inds.clamp_(max=0)
            return result

    with TASK_UTILS.temporary(NoPositives=NoPositives):
        assigners = [{**one, "type": "NoPositives"} for one in head_config()["train_cfg"]["assigner"]]
        losses = build(train={"assigner": assigners}).loss([features()], SAMPLES)
    assert calls
    assert losses["loss_bbox"][0].item() == 0


def test_layers_replaced_by_a_plug_in_are_used():
    class TwoLayers(Anchor3DHead):
        def _init_layers(self):
            super()._init_layers()
            self.conv_cls = nn.Sequential(nn.Conv2d(CHANNELS, 8, 3, padding=1), nn.Conv2d(8, self.cls_out_channels, 1))

        def init_weights(self):
            for part in (self.conv_reg, self.conv_dir_cls, *self.conv_cls):
                nn.init.normal_(part.weight, std=0.1)

    with MODELS.temporary(TwoLayers=TwoLayers):
        head = MODELS.build({**head_config(), "type": "TwoLayers"})
    sum(loss for (loss,) in head.loss([features()], SAMPLES).values()).backward()
    assert head.conv_cls[0].weight.grad.abs().sum() > 0
    assert len(head.predict([features()], SAMPLES)) == 3


def test_several_levels_take_the_published_path():
    generator = {
        "type": "AlignedAnchor3DRangeGenerator",
        "ranges": [[0, -5.12, -1, 10.24, 5.12, -1]],
        "sizes": [[0.8, 0.6, 1.7], [3.9, 1.6, 1.5]],
        "rotations": [0, 1.57],
        "scales": [1, 2],
        "reshape_out": True,
    }
    head = build(anchor_generator=generator, assign_per_class=False, train={"assigner": ASSIGNER})
    maps = [features(), features()[..., ::2, ::2]]
    losses = head.loss(maps, SAMPLES)
    assert [len(value) for value in losses.values()] == [2, 2, 2]
    assert len(head.predict(maps, SAMPLES)) == 3


def test_a_subclass_may_read_settings_of_its_own_from_train_cfg():
    class WithSetting(Anchor3DHead):
        def loss_by_feat(self, *args, **kwargs):
            losses = super().loss_by_feat(*args, **kwargs)
            factor = self.train_cfg.get("my_factor", 1) * self.train_cfg["my_factor"] * self.train_cfg.my_factor
            return {name: [factor * one for one in value] for name, value in losses.items()}

    plain = build().loss([features()], SAMPLES)["loss_cls"][0].item()
    changed = build(WithSetting, train={"my_factor": 2}).loss([features()], SAMPLES)["loss_cls"][0].item()
    assert changed == pytest.approx(8 * plain, rel=1e-5)
