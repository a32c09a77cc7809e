"""`CenterHead`: targets by hand, predictions of perfect maps, circle and rotated suppression, published methods."""

import math

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.models import CenterHead
from raydet3d.ops import clip_sigmoid
from raydet3d.registry import MODELS
from raydet3d.structures import InstanceData, LiDARInstance3DBoxes
from tests.kit.lidar import center_point


def head_of(velocity=False, kind=CenterHead, **changes):
    cfg = center_point(velocity=velocity)
    head = {
        **cfg["pts_bbox_head"],
        "type": kind,
        "train_cfg": cfg["train_cfg"]["pts"],
        "test_cfg": cfg["test_cfg"]["pts"],
    }
    torch.manual_seed(0)
    built = MODELS.build({**head, **changes})
    built.init_weights()
    return built


def truth_of(rows, labels):
    rows = torch.tensor(rows, dtype=torch.float32)
    rows = rows.view(-1, 7) if rows.ndim < 2 else rows
    return InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(rows, box_dim=rows.shape[1]), labels_3d=torch.tensor(labels, dtype=torch.long)
    )


CAR = [5.0, 1.0, -1.5, 3.9, 1.6, 1.5, 0.3]
CYCLIST = [8.0, -3.0, -1.4, 1.8, 0.6, 1.7, -2.0]
PEDESTRIAN = [2.0, 3.0, -1.4, 0.8, 0.6, 1.7, 1.0]


def test_heat_maps_begin_at_the_bias_of_the_config():
    head = head_of()
    for task in head.task_heads:
        assert torch.all(task.heatmap[-1].bias == task.init_bias)


def test_targets():
    head = head_of()
    boxes = [CAR, CYCLIST, PEDESTRIAN, [5, 30, 0, 4, 2, 1.5, 0]]
    heatmaps, encoded, cells, masks = head.get_targets([truth_of(boxes, [2, 1, 0, 2])])
    assert [tuple(one.shape) for one in heatmaps] == [(1, 2, 32, 32), (1, 1, 32, 32)]
    assert [tuple(one.shape) for one in encoded] == [(1, 50, 8), (1, 50, 8)]
    # Cells of 32 cm; classes stand in their order inside a task.
    x, y = 5 / 0.32, (1 + 5.12) / 0.32
    assert cells[1][0, 0] == int(y) * 32 + int(x)
    assert masks[1][0].tolist() == [1] + [0] * 49  # the second car is out of range
    assert masks[0][0].tolist() == [1, 1] + [0] * 48
    assert heatmaps[1][0, 0, int(y), int(x)] == 1
    assert (heatmaps[0] == 1).sum() == 2
    wanted = [x - int(x), y - int(y), -0.75, *(math.log(s) for s in CAR[3:6]), math.sin(0.3), math.cos(0.3)]
    assert encoded[1][0, 0].tolist() == pytest.approx(wanted, abs=1e-5)
    px, py = 2 / 0.32, (3 + 5.12) / 0.32
    assert encoded[0][0, 0, :2].tolist() == pytest.approx([px - int(px), py - int(py)], abs=1e-5)


def test_more_objects_than_max_objs_are_left_out():
    head = head_of(train_cfg={**center_point()["train_cfg"]["pts"], "max_objs": 2})
    _, _, _, masks = head.get_targets([truth_of([CAR, PEDESTRIAN, PEDESTRIAN, PEDESTRIAN], [2, 0, 0, 0])])
    assert [mask.sum().item() for mask in masks] == [2, 1]


def test_velocities_are_targets_and_unknown_ones_have_no_loss():
    head = head_of(velocity=True)
    truth = truth_of([[*CAR, 2.0, -1.0], [*CYCLIST, math.nan, 0.5]], [2, 1])
    _, encoded, _, _ = head.get_targets([truth])
    assert encoded[1][0, 0, 8:].tolist() == [2, -1]
    losses = head.loss_by_feat(head([torch.randn(1, 48, 32, 32)]), [truth])
    assert all(torch.isfinite(value) for value in losses.values())


def maps_of(head, truth):
    """Maps that say the truth."""
    heatmaps, encoded, cells, _ = head.get_targets([truth])
    outs = []
    for heat, boxes, cell in zip(heatmaps, encoded, cells, strict=True):
        maps = torch.zeros(1, boxes.shape[2], 32 * 32)
        for slot in range(boxes.shape[1]):
            if boxes[0, slot].any():
                maps[0, :, cell[0, slot]] = boxes[0, slot]
        parts = dict(
            zip(
                ("reg", "height", "dim", "rot", "vel"),
                maps.view(1, -1, 32, 32).split([2, 1, 3, 2, 2][: 5 if boxes.shape[2] == 10 else 4], dim=1),
                strict=False,
            )
        )
        outs.append([{**parts, "heatmap": torch.logit(heat.clamp(1e-4, 1 - 1e-4))}])
    return outs


@pytest.mark.parametrize("nms_type", ["rotate", "circle"])
@pytest.mark.parametrize("velocity", [False, True])
def test_maps_that_say_the_truth_give_the_boxes(nms_type, velocity):
    head = head_of(velocity, test_cfg={**center_point()["test_cfg"]["pts"], "nms_type": nms_type})
    tail = [1.5, -0.5] if velocity else []
    rows = [[*CAR, *tail], [*CYCLIST, *tail], [*PEDESTRIAN, *tail]]
    truth = truth_of(rows, [2, 1, 0])
    (found,) = head.predict_by_feat(maps_of(head, truth), [{"box_type_3d": LiDARInstance3DBoxes}])
    sure = found.scores_3d > 0.99
    order = found.labels_3d[sure].argsort(descending=True)
    assert found.labels_3d[sure][order].tolist() == [2, 1, 0]
    torch.testing.assert_close(found.bboxes_3d.tensor[sure][order], torch.tensor(rows), rtol=1e-4, atol=1e-4)


def test_losses_by_hand():
    head = head_of()
    truth = truth_of([CAR], [2])
    outs = head([torch.randn(1, 48, 32, 32)])
    losses = head.loss_by_feat(outs, [truth])
    heatmaps, encoded, cells, _ = head.get_targets([truth])
    heat, target = clip_sigmoid(outs[1][0]["heatmap"]), heatmaps[1]
    focal = -(heat.log() * (1 - heat) ** 2 * (target == 1)) - (1 - heat).log() * heat**2 * (1 - target) ** 4
    assert losses["task1.loss_heatmap"].item() == pytest.approx(focal.sum().item(), rel=1e-4)
    maps = torch.cat([outs[1][0][name] for name in ("reg", "height", "dim", "rot")], dim=1).flatten(2)
    difference = (maps[0, :, cells[1][0, 0]] - encoded[1][0, 0]).abs()
    assert losses["task1.loss_bbox"].item() == pytest.approx(0.25 * difference.sum().item() / (1 + 1e-4), rel=1e-4)
    assert losses["task0.loss_bbox"].item() == 0


class ClassWise(CenterHead):
    """A plug-in: heat map losses of each class on their own, targets and detections counted."""

    calls: list[str]

    def forward_single(self, x):
        self.calls = ["forward"]
        return super().forward_single(x)

    def get_targets_single(self, gt_instances_3d):
        self.calls.append("targets")
        return super().get_targets_single(gt_instances_3d)

    def loss_by_feat(self, preds_dicts, batch_gt_instances_3d, *args, **kwargs):
        heatmaps, _, _, _ = self.get_targets(batch_gt_instances_3d)
        losses = super().loss_by_feat(preds_dicts, batch_gt_instances_3d, *args, **kwargs)
        for task, levels in enumerate(preds_dicts):
            heat = clip_sigmoid(levels[0]["heatmap"])
            for index, name in enumerate(self.class_names[task]):
                part = self.loss_cls(heat[:, index], heatmaps[task][:, index], avg_factor=1)
                losses[f"{name}.loss_heatmap"] = part * self.train_cfg["class_factor"]
        return losses

    def get_task_detections(self, num_class_with_bg, batch_cls_preds, batch_reg_preds, batch_cls_labels, img_metas):
        self.calls.append(f"detections of {num_class_with_bg}")
        return super().get_task_detections(
            num_class_with_bg, batch_cls_preds, batch_reg_preds, batch_cls_labels, img_metas
        )


def test_a_subclass_overrides_the_published_methods():
    cfg = center_point()
    head = head_of(kind=ClassWise, train_cfg={**cfg["train_cfg"]["pts"], "class_factor": 0.5})
    model = MODELS.build(cfg)
    model.pts_bbox_head = head
    from tests.kit.pointpillars import a_frame

    points, sample = a_frame(torch.Generator().manual_seed(0), half=5.12, objects=3, background=300)
    batch = {"inputs": {"points": [points]}, "data_samples": [sample]}
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    assert {"Pedestrian.loss_heatmap", "Car.loss_heatmap", "task1.loss_bbox"} <= losses.keys()
    assert head.calls == ["forward", "targets", "targets"]
    model.eval().val_step(batch)
    assert head.calls == ["forward", "detections of 2", "detections of 1"]


def test_bad_settings_are_refused():
    coder = center_point()["pts_bbox_head"]["bbox_coder"]
    with pytest.raises(InputError, match="code_size"):
        head_of(bbox_coder={**coder, "code_size": 9})
    with pytest.raises(InputError, match="nms_type"):
        head_of(test_cfg={"nms_type": "soft"})
    with pytest.raises(InputError, match="height"):
        head_of(common_heads={"reg": (2, 2)})
    with pytest.raises(InputError, match="nms_thrr"):
        head_of(test_cfg={"nms_thrr": 0.2})
