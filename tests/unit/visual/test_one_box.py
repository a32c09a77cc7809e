"""One box and one cloud placed by hand: their pixels in each view and from each frame of reference."""

import numpy as np
import pytest
import torch

from raydet3d.structures import LiDARInstance3DBoxes
from raydet3d.visual import Det3DLocalVisualizer
from raydet3d.visual.bev import GROUND_TRUTH_COLOR, PALETTE

# A box from x 18 to 22, y 4 to 6, z -1.7 to -0.2; four points at places that no box covers.
BOX = LiDARInstance3DBoxes(torch.tensor([[20.0, 5, -1.7, 4, 2, 1.5, 0]]))
POINTS = torch.tensor([[10.0, -5, -1, 0], [30.0, 15, 2, 0], [5.0, 0, -1, 0], [35.0, -15, 2, 0]])
LIDAR2IMG = np.array([[300.0, -300, 0, 0], [100, 0, -300, 0], [1, 0, 0, 0]])  # looks along x, 600 x 200 pixels
RANGE = [0, -20, 40, 20]  # 400 pixels: 10 a metre
AXES = {
    0: torch.eye(3),
    1: torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]),
    2: torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
}
FRAMES = {0: "lidar", 1: "camera", 2: "depth"}


def draw(mode=0, task="lidar_det", boxes=BOX, kind="gt_instances_3d", image=None, **kwargs):
    visualizer = Det3DLocalVisualizer(bev_size=400, pcd_mode=mode, point_cloud_range=RANGE, line_width=1, **kwargs)
    points = torch.cat([POINTS[:, :3] @ AXES[mode].T, POINTS[:, 3:]], 1)
    fields = {"bboxes_3d": boxes, "labels_3d": torch.tensor([1])}
    if kind == "pred_instances_3d":
        fields["scores_3d"] = torch.tensor([0.9])
    inputs = {"points": points} | ({} if image is None else {"img": image})
    meta = {} if image is None else {"lidar2img": LIDAR2IMG}
    visualizer.add_datasample("a", inputs, {kind: fields, **meta}, vis_task=task, draw_pred=kind == "pred_instances_3d")
    return visualizer.get_image()


def found(picture, row, column, color, reach=1, tolerance=250):
    part = picture[row - reach : row + reach + 1, column - reach : column + reach + 1].astype(int)
    return bool((np.abs(part - color).sum(-1) < tolerance).any())


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize(
    ("kind", "color"), [("gt_instances_3d", GROUND_TRUTH_COLOR), ("pred_instances_3d", PALETTE[1])]
)
def test_birds_eye_view(mode, kind, color):
    """Row 10 (40 - x), column 10 (20 - y), below the header."""
    boxes = BOX if mode == 0 else BOX.convert_to(FRAMES[mode])
    picture = draw(mode, boxes=boxes, kind=kind)[-400:]
    for row, column in ((200, 140), (200, 160), (180, 150), (220, 150), (180, 140), (220, 160), (174, 150)):
        assert found(picture, row, column, color), (row, column)
    for row, column in ((200, 130), (230, 160), (170, 140), (232, 150), (200, 346)):
        assert not found(picture, row, column, color), (row, column)
    low, high = picture[300, 250], picture[100, 50]
    assert high.sum() > low.sum() > 150
    assert (picture[350, 200] == low).all()
    assert (picture[50, 350] == high).all()
    assert (picture == draw(0, kind=kind)[-400:]).mean() > 0.999


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_camera_view(mode):
    """Corner (x, y, z) at column 300 - 300 y / x, row 100 - 300 z / x."""
    boxes = BOX if mode == 0 else BOX.convert_to(FRAMES[mode])
    image = np.full((200, 600, 3), 90, np.uint8)
    picture = draw(mode, "mono_det", boxes, image=image)
    assert picture.shape == (200, 600, 3)
    for x in (18, 22):
        for y in (4, 6):
            for z in (-1.7, -0.2):
                row, column = round(100 - 300 * z / x), round(300 - 300 * y / x)
                assert found(picture, row, column, GROUND_TRUTH_COLOR), (x, y, z)
    rows, columns = np.nonzero((picture != 90).any(-1))
    assert (columns.min(), columns.max()) == pytest.approx((300 - 100, 300 - 300 * 4 / 22), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((100 + 60 / 22, 100 + 510 / 18), abs=2)


def test_drawing_is_deterministic():
    image = np.full((200, 600, 3), 90, np.uint8)
    first, second = (draw(task="multi-modality_det", kind="pred_instances_3d", image=image) for _ in range(2))
    assert (first == second).all()


def test_a_box_drawn_over_a_cloud():
    visualizer = Det3DLocalVisualizer(bev_size=400, point_cloud_range=RANGE, line_width=1)
    cloud = torch.cat([POINTS, torch.tensor([[20.0, 5, -1, 0]])])
    visualizer.set_points(cloud, points_color=(0, 0, 1), points_size=5)
    assert (visualizer.get_image()[-400:][302, 252] == (0, 0, 255)).all()
    assert (visualizer.get_image()[-400:][202, 152] == (0, 0, 255)).all()
    visualizer.draw_bboxes_3d(BOX, bbox_color=(0, 1, 0), points_in_box_color=(1, 0, 0))
    picture = visualizer.get_image()[-400:]
    assert (picture[302, 252] == (0, 0, 255)).all()
    assert (picture[202, 152] == (255, 0, 0)).all()
    assert found(picture, 200, 140, (0, 255, 0))


def test_axes_and_filling_are_those_asked_for():
    plain = draw()[-400:]
    axes = draw(frame_cfg={"size": 4, "origin": [10, 0, 0]})[-400:]
    assert found(axes, 280, 200, (255, 0, 0))  # from (10, 0) ahead
    assert found(axes, 300, 180, (0, 255, 0))  # and to the left
    assert not found(plain, 280, 200, (255, 0, 0))
    inside = [draw(alpha=alpha)[-400:][195, 155].astype(int) for alpha in (0, 0.5, 1)]
    assert inside[0].sum() < inside[1].sum() < inside[2].sum()
