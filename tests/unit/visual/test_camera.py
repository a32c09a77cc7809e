"""Boxes on an image: corners where the pinhole camera has them, edges cut before they pass behind it."""

import numpy as np
import pytest

from raydet3d.visual.bev import GROUND_TRUTH_COLOR, PALETTE, BoxSet
from raydet3d.visual.camera import NEAR, draw_boxes_on_image, project_edges

# Focal length 100 px, centre (200, 100); the camera looks along the LiDAR's x.
LIDAR2IMG = np.array([[100.0, 0, 200], [0, 100, 100], [0, 0, 1]]) @ np.array(
    [[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]
)


def test_edges_of_a_box_ahead():
    """A cube of 2 m, its back face at 9 m, its front at 11 m, bottom at -1 m: u = 200 -+ 100/x, v = 100 +- 100/x."""
    edges = project_edges(np.array([[10.0, 0, -1, 2, 2, 2, 0]]), LIDAR2IMG)[0]
    ends = {tuple(end) for end in edges[:12].reshape(-1, 2).round(6)}
    expected = {(200 + a * 100 / x, 100 + b * 100 / x) for x in (9, 11) for a in (-1, 1) for b in (-1, 1)}
    assert ends == {(round(u, 6), round(v, 6)) for u, v in expected}
    cross = edges[12:].reshape(-1, 2)
    assert np.abs(cross - [200, 100]).round(6).tolist() == [[round(100 / 11, 6)] * 2] * 4  # the face ahead


def test_boxes_behind_are_not_drawn_and_half_behind_are_cut():
    behind, half = project_edges(np.array([[-10.0, 0, -1, 2, 2, 2, 0], [0.0, 0, -1, 4, 2, 2, 0]]), LIDAR2IMG)
    assert np.isnan(behind).all()
    drawn = half[np.isfinite(half).all((1, 2))]
    # 4 edges of the front face, the 4 along it, and the cross; the latter begin where x is NEAR
    assert len(drawn) == 10
    assert np.abs(half[8:12, 0] - [200, 100]).round(6) == pytest.approx(100 / NEAR)


def test_colours_and_size():
    image = np.zeros((200, 400, 3), np.uint8)
    truth = BoxSet(np.array([[10.0, 4, -1, 2, 2, 2, 0]]), np.array([0]))
    found = BoxSet(np.array([[10.0, -4, -1, 2, 2, 2, 0]]), np.array([1]), np.array([0.4]))
    out = draw_boxes_on_image(image, truth, found, lidar2img=LIDAR2IMG, width=800)
    assert out.shape == (400, 800, 3)
    left, right = out[:, :400].reshape(-1, 3), out[:, 400:].reshape(-1, 3)
    assert (left == GROUND_TRUTH_COLOR).all(1).any()
    assert not (left == PALETTE[1]).all(1).any()
    assert (right == PALETTE[1]).all(1).any()
    assert not (right == GROUND_TRUTH_COLOR).all(1).any()
    assert not image.any()
    same = draw_boxes_on_image(image + 7, BoxSet(), BoxSet(), lidar2img=LIDAR2IMG)
    assert (same == image + 7).all()
