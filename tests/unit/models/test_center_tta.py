"""`CenterPointTTAModel`: averages of flipped views do not depend on how the frame lies; several scales."""

import pytest
import torch

from raydet3d.data import Compose, pseudo_collate
from raydet3d.errors import InputError
from raydet3d.models import CenterPointTTAModel
from raydet3d.registry import MODELS
from raydet3d.structures import LiDARInstance3DBoxes
from tests.kit.lidar import center_point, fill
from tests.kit.pointpillars import reduced

SQUARE = [-5.12, -5.12, -3, 5.12, 5.12, 1]


def detector():
    cfg = center_point(velocity=True)
    cfg["data_preprocessor"]["voxel_layer"]["point_cloud_range"] = SQUARE
    cfg["pts_voxel_encoder"]["point_cloud_range"] = SQUARE
    cfg["pts_bbox_head"]["bbox_coder"]["pc_range"] = SQUARE[:2]
    model = MODELS.build(cfg)
    fill(model)
    return model.eval()


def views_of(points, scales=1.0):
    pipeline = Compose(
        [
            {
                "type": "MultiScaleFlipAug3D",
                "img_scale": (1333, 800),
                "pts_scale_ratio": scales,
                "flip": True,
                "pcd_horizontal_flip": True,
                "pcd_vertical_flip": True,
                "transforms": [
                    {
                        "type": "GlobalRotScaleTrans",
                        "rot_range": [0, 0],
                        "scale_ratio_range": [1.0, 1.0],
                        "translation_std": [0, 0, 0],
                    },
                    {"type": "RandomFlip3D", "sync_2d": False},
                ],
            },
            {"type": "Pack3DDetInputs", "keys": ["points"]},
        ]
    )
    return pseudo_collate([pipeline({"points": points.clone().numpy(), "box_type_3d": LiDARInstance3DBoxes})])


def frame():
    torch.manual_seed(0)
    return torch.rand(600, 4) * torch.tensor([10.0, 10, 3, 1]) - torch.tensor([5.0, 5, 2.5, 0])


def rows(sample):
    found = sample.pred_instances_3d
    order = found.scores_3d.argsort(descending=True)
    return found.bboxes_3d[order], found.scores_3d[order], found.labels_3d[order]


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_a_flipped_frame_has_the_flipped_boxes(direction):
    model = CenterPointTTAModel(detector())
    points = frame()
    flipped = points.clone()
    flipped[:, 1 if direction == "horizontal" else 0] *= -1
    (one,), (other,) = (model.test_step(views_of(given)) for given in (points, flipped))
    boxes, scores, labels = rows(one)
    other_boxes, other_scores, other_labels = rows(other)
    assert len(scores) > 10
    boxes.flip(direction)
    torch.testing.assert_close(other_scores, scores, rtol=1e-3, atol=1e-4)
    same = (other_labels == labels).float().mean()
    assert same > 0.95
    near = torch.cdist(boxes.tensor[:, :3], other_boxes.tensor[:, :3]).amin(dim=1)
    assert (near < 1e-2).float().mean() > 0.95
    nearest = torch.cdist(boxes.tensor[:, :6], other_boxes.tensor[:, :6]).argmin(dim=1)
    turned = boxes.tensor[:, 6] - other_boxes.tensor[nearest, 6]
    assert (torch.sin(turned).abs() < 1e-2).float().mean() > 0.9
    moved = (boxes.tensor[:, 7:] - other_boxes.tensor[nearest, 7:]).abs().amax(1)
    assert (moved < 1e-2).float().mean() > 0.9


def test_boxes_of_several_scales_are_in_the_frame_s_metres():
    model = CenterPointTTAModel(detector(), max_num=20)
    (found,) = model.test_step(views_of(frame(), [0.95, 1.0, 1.05]))
    boxes, scores, _ = rows(found)
    assert 0 < len(scores) <= 20
    assert (boxes.tensor[:, :2].abs() < 5.12 * 1.1).all()
    assert torch.equal(scores, found.pred_instances_3d.scores_3d)  # best first


def test_other_heads_are_refused():
    with pytest.raises(InputError, match="CenterHead"):
        CenterPointTTAModel(MODELS.build(reduced(cells=16, voxel=0.64, channels=8)))
