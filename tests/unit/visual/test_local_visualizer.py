"""Det3DLocalVisualizer's tasks, and its methods that draw one thing after the other."""

import numpy as np
import pytest
import torch
from PIL import Image

from raydet3d.errors import InputError
from raydet3d.structures import CameraInstance3DBoxes, LiDARInstance3DBoxes
from raydet3d.visual import Det3DLocalVisualizer
from raydet3d.visual.bev import GROUND_TRUTH_COLOR, PALETTE

LIDAR2IMG = np.array([[300.0, -300, 0, 0], [100, 0, -300, 0], [1, 0, 0, 0]])
IMAGE = np.full((200, 600, 3), 90, np.uint8)
POINTS = torch.rand(300, 6) * torch.tensor([40.0, 40, 2, 1, 1, 1]) - torch.tensor([0.0, 20, 2, 0, 0, 0])
BOXES = LiDARInstance3DBoxes(torch.tensor([[20.0, 2, -1.7, 4, 2, 1.5, 0.3]]))
LABELS = torch.tensor([2])


def build(**kwargs):
    return Det3DLocalVisualizer(bev_size=400, **kwargs)


def sample(**meta):
    found = {"bboxes_3d": BOXES, "labels_3d": LABELS, "scores_3d": torch.tensor([0.9])}
    return {"gt_instances_3d": {"bboxes_3d": BOXES, "labels_3d": LABELS}, "pred_instances_3d": found, **meta}


def drawn(task, visualizer=None, inputs=None, data=None, **kwargs):
    visualizer = visualizer or build()
    inputs = {"points": POINTS, "img": IMAGE} if inputs is None else inputs
    visualizer.add_datasample("a", inputs, data or sample(lidar2img=LIDAR2IMG), vis_task=task, **kwargs)
    return visualizer.get_image()


def has(picture, color, tolerance=40):
    return bool((np.abs(picture.astype(int) - color).sum(-1) < tolerance).any())


def test_one_camera_ground_truth_left_and_predictions_right():
    picture = drawn("mono_det")
    assert picture.shape == (200, 2 * 600 + 4, 3)
    left, right = picture[:, :600], picture[:, 604:]
    assert has(left, GROUND_TRUTH_COLOR)
    assert not has(left, PALETTE[2])
    assert has(right, PALETTE[2])
    assert not has(right, GROUND_TRUTH_COLOR)
    assert drawn("mono_det", draw_pred=False).shape == IMAGE.shape
    # Without an image the scene is drawn from above.
    assert drawn("mono_det", inputs={"points": POINTS}).shape[1] != 600


def test_camera_boxes_that_know_their_camera_only():
    """A camera whose axes are the LiDAR's own, turned: the box is where the LiDAR's projection has it."""
    inner = np.array([[300.0, 0, 300], [0, 300, 100], [0, 0, 1]])
    boxes = BOXES.convert_to("camera")
    assert isinstance(boxes, CameraInstance3DBoxes)
    data = {"gt_instances_3d": {"bboxes_3d": boxes, "labels_3d": LABELS}, "cam2img": inner}
    mine = drawn("mono_det", data=data, draw_pred=False)
    outer = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    matrix = np.concatenate([inner @ outer, np.zeros((3, 1))], 1)
    theirs = drawn("mono_det", data={**sample(), "lidar2img": matrix}, draw_pred=False)
    assert np.abs(mine.astype(int) - theirs).max() < 60
    assert has(mine, GROUND_TRUTH_COLOR)


def test_several_cameras_in_a_grid():
    views = {"lidar2img": np.stack([LIDAR2IMG] * 5), "img_path": None}
    for images in ([IMAGE] * 5, torch.from_numpy(np.stack([IMAGE] * 5)).permute(0, 3, 1, 2)):
        picture = drawn("multi-view_det", inputs={"points": POINTS, "img": images}, data=sample(**views))
        above = drawn("lidar_det", inputs={"points": POINTS}, data=sample())
        tile = (above.shape[1] - 8) // 3
        rows = 2 * round(200 * tile / 600) + 4
        assert len(picture) == pytest.approx(rows + len(above), abs=4)
    alone = drawn("multi-view_det", build(multi_imgs_col=2), {"img": [IMAGE] * 4}, sample(**views))
    assert alone.shape == (2 * 200 + 4, 2 * 600 + 4, 3)


def test_images_are_read_from_files_that_the_sample_names(tmp_path):
    paths = []
    for number in range(2):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(IMAGE + number).save(paths[-1])
    data = sample(lidar2img=[LIDAR2IMG] * 2, img_path=paths)
    picture = drawn("multi-view_det", inputs={}, data=data)
    assert (picture == 90).all(-1).any()
    assert (picture == 91).all(-1).any()


def test_points_in_the_colours_of_their_classes():
    visualizer = build()
    visualizer.dataset_meta = {"classes": ("road", "tree"), "palette": [(255, 0, 255), (0, 255, 0)]}
    labels = np.where(np.arange(300) < 150, 0, 255)
    data = {"gt_pts_seg": {"pts_semantic_mask": labels}, "pred_pts_seg": {"pts_semantic_mask": torch.ones(300)}}
    picture = drawn("lidar_seg", visualizer, data=data)
    half = picture.shape[1] // 2
    left, right = picture[120:, :half], picture[120:, half:]  # without the legends
    assert has(left, (255, 0, 255), 1)
    assert not has(left, (0, 255, 0), 1)
    assert has(right, (0, 255, 0), 1)
    assert not has(right, (255, 0, 255), 1)
    one = drawn("lidar_seg", visualizer, data=data, draw_gt=False)
    assert one.shape[1] < picture.shape[1]
    assert has(drawn("lidar_seg", build(mask_color=[(1, 200, 200)] * 2), data=data), (1, 200, 200), 1)


def test_mmdet3ds_arguments_change_the_picture():
    """By position, as in MMDetection3D: colours by name, one for all classes; lines and texts on camera images."""

    def build_with(color="b", text="w", width=3):
        return Det3DLocalVisualizer(
            "visualizer", None, None, 0, None, None, color, text, None, width, None, 0.8, 3, {"frameon": False}
        )

    def camera(**changes):
        return drawn("mono_det", build_with(**changes), draw_gt=True)

    plain, blue = camera(), (0, 0, 255)
    assert has(plain[:, 604:], blue, 1)
    assert has(camera(color=["g", "g", (1, 200, 200)])[:, 604:], (1, 200, 200), 1)
    assert has(plain[:40], (255, 255, 255), 1)
    assert not has(camera(text="r")[:40], (255, 255, 255), 1)
    thick = camera(width=9)
    assert (thick == blue).all(-1).sum() > 1.5 * (plain == blue).all(-1).sum()


def test_points_with_colours_of_their_own():
    red = POINTS.clone()
    red[:, 3:] = torch.tensor([1.0, 0, 0])
    picture = drawn("lidar_det", inputs={"points": red}, data={}, show_pcd_rgb=True)
    assert has(picture, (255, 0, 0), 1)


def test_clouds_with_other_axes():
    """The same cloud in a camera's and in a depth sensor's axes gives the same picture."""
    x, y, z = POINTS[:, :3].T
    expected = drawn("lidar_det", inputs={"points": POINTS}, data={})
    for mode, points in ((1, torch.stack([-y, -z, x], 1)), (2, torch.stack([-y, x, z], 1))):
        assert (drawn("lidar_det", build(pcd_mode=mode), {"points": points}, {}) == expected).all()
    with pytest.raises(InputError, match="pcd_mode must be 0"):
        build(pcd_mode=3)


def test_o3d_save_path_holds_the_birds_eye_view(tmp_path):
    both = drawn("multi-modality_det", o3d_save_path=tmp_path / "a" / "above.png")
    above = np.asarray(Image.open(tmp_path / "a" / "above.png"))
    assert (both[: len(above)] == above).all()
    assert len(both) > len(above)


class TestOneAfterTheOther:
    def test_a_cloud_with_boxes(self, tmp_path):
        visualizer = build()
        visualizer.set_points(POINTS)
        plain = visualizer.get_image()
        visualizer.draw_bboxes_3d(BOXES, bbox_color=(1, 0, 1))
        assert has(visualizer.get_image(), (255, 0, 255))
        assert not has(plain, (255, 0, 255))
        visualizer.set_points(POINTS[:5], vis_mode="add")
        visualizer.draw_seg_mask(np.concatenate([POINTS[:, :3], np.tile([0.0, 255, 0], (300, 1))], 1))
        assert has(visualizer.get_image(), (0, 255, 0), 1)
        visualizer.show(tmp_path / "seen.png")
        assert (np.asarray(Image.open(tmp_path / "seen.png")) == visualizer.get_image()).all()
        assert (build(points=POINTS).get_image() == plain).all()
        with pytest.raises(InputError, match="vis_mode must be 'replace' or 'add', got 'more'"):
            visualizer.set_points(POINTS, vis_mode="more")

    def test_boxes_on_a_plain_view_from_above(self):
        """A camera's box 10 m ahead, 2 m to the right, 4 m wide and 2 m deep; 20 pixels a metre, 400 wide."""
        boxes = CameraInstance3DBoxes(torch.tensor([[2.0, 0, 10, 4, 1.5, 2, 0]]))
        visualizer = build()
        visualizer.set_bev_image(bev_shape=400)
        assert visualizer.get_image().max() == 0
        visualizer.draw_bev_bboxes(boxes, scale=20, edge_colors="w", face_colors="w")
        rows, columns = np.nonzero(visualizer.get_image()[..., 0] > 128)
        assert (columns.min(), columns.max()) == pytest.approx((200, 280), abs=2)
        assert (rows.min(), rows.max()) == pytest.approx((180, 220), abs=2)

    def test_boxes_and_points_on_an_image(self):
        visualizer = build(image=IMAGE)
        visualizer.draw_proj_bboxes_3d(BOXES, {"lidar2img": LIDAR2IMG}, edge_colors="r", face_colors="none")
        where = (visualizer.get_image() != IMAGE).any(-1)
        corners = BOXES.corners[0].numpy()
        pixels = np.concatenate([corners, np.ones((8, 1))], 1) @ LIDAR2IMG.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        rows, columns = np.nonzero(where)
        assert (columns.min(), columns.max()) == pytest.approx((pixels[:, 0].min(), pixels[:, 0].max()), abs=3)
        assert (rows.min(), rows.max()) == pytest.approx((pixels[:, 1].min(), pixels[:, 1].max()), abs=3)
        with pytest.raises(InputError, match="needs lidar2img or cam2img"):
            visualizer.draw_proj_bboxes_3d(BOXES, {})

        visualizer.set_image(IMAGE)
        points = torch.tensor([[10.0, 0, 0], [-10, 0, 0], [20, 4, 0]])  # the second lies behind
        visualizer.draw_points_on_image(points, LIDAR2IMG, sizes=1, max_depth=20)
        rows, columns = np.nonzero((visualizer.get_image() != IMAGE).any(-1))
        assert sorted(zip(columns.tolist(), rows.tolist(), strict=True)) == [(240, 100), (300, 100)]
