"""The picture to draw on: pixels where they belong, arguments as MMEngine's visualizer has them."""

import numpy as np
import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.visual import Visualizer
from raydet3d.visual.canvas import to_color

GRAY = np.full((60, 80, 3), 100, np.uint8)


def canvas():
    return Visualizer(image=GRAY)


def changed(visualizer):
    """Where the picture is not gray any more."""
    return (visualizer.get_image() != GRAY).any(-1)


def near(visualizer, x, y, color, tolerance=30):
    return bool((np.abs(visualizer.get_image()[y, x].astype(int) - color) <= tolerance).all())


def test_boxes_have_edges_and_faces():
    drawn = canvas().draw_bboxes(torch.tensor([10, 20, 40, 50]), edge_colors="r", line_widths=2, alpha=1)
    assert near(drawn, 25, 20, (255, 0, 0))
    assert near(drawn, 10, 35, (255, 0, 0))
    assert near(drawn, 25, 35, (100, 100, 100))
    filled = canvas().draw_bboxes(np.array([[10, 20, 40, 50]]), face_colors=(0, 0, 200), alpha=0.5)
    assert near(filled, 25, 35, (50, 50, 150))
    with pytest.raises(InputError, match="x0 <= x1"):
        canvas().draw_bboxes([40, 20, 10, 50])


def test_each_shape_has_its_own_colour_style_and_width():
    two = np.array([[5, 5, 35, 25], [45, 5, 75, 25]])
    drawn = canvas().draw_bboxes(
        two, edge_colors=["b", (255, 255, 0)], line_styles=["-", "--"], line_widths=[2, 4], alpha=1
    )
    assert near(drawn, 20, 5, (0, 0, 255))
    row = drawn.get_image()[5, 45:75].astype(int)
    yellow = (np.abs(row - (255, 255, 0)) < 30).all(-1)
    assert 0.3 < yellow.mean() < 0.9  # dashes
    with pytest.raises(InputError, match="3 values for 2 shapes"):
        canvas().draw_bboxes(two, edge_colors=["b", "r", "g"])
    with pytest.raises(InputError, match=r"no line style '=='"):
        canvas().draw_bboxes(two, line_styles="==")


def test_lines_circles_polygons_and_points():
    drawn = canvas().draw_lines(torch.tensor([10, 70]), torch.tensor([30, 30]), colors="m", line_widths=2)
    assert near(drawn, 40, 30, (255, 0, 255))
    drawn = canvas().draw_circles(np.array([40, 30]), np.array([15]), edge_colors="c", line_widths=2, alpha=1)
    assert near(drawn, 55, 30, (0, 255, 255), 60)
    assert near(drawn, 40, 30, (100, 100, 100))
    triangle = torch.tensor([[10.0, 50], [40, 10], [70, 50]])
    drawn = canvas().draw_polygons(triangle, face_colors="y", alpha=1)
    assert near(drawn, 40, 40, (255, 215, 0))
    assert near(drawn, 12, 12, (100, 100, 100))
    drawn = canvas().draw_points(np.array([[20, 20], [60, 40]]), colors=["r", "b"], sizes=np.array([25, 100]))
    assert near(drawn, 20, 20, (255, 0, 0))
    assert near(drawn, 60, 40, (0, 0, 255))
    for marker in ("s", "x", "+"):
        assert changed(canvas().draw_points([40, 30], marker=marker, sizes=64)).any()
    with pytest.raises(InputError, match="marker must be"):
        canvas().draw_points([40, 30], marker="*")


@pytest.mark.parametrize(
    ("across", "down", "side"),
    [("left", "top", (slice(30, None), slice(40, None))), ("right", "bottom", (slice(None, 31), slice(None, 41)))],
)
def test_texts_are_drawn_at_their_positions(across, down, side):
    drawn = canvas().draw_texts("ab", [40, 30], colors="w", horizontal_alignments=across, vertical_alignments=down)
    where = changed(drawn)
    assert where.any()
    assert where[side].sum() == where.sum()


def test_texts_with_a_background_and_letters_from_everywhere():
    drawn = canvas().draw_texts(
        ["a", "Größe"], [[5, 5], [5, 30]], font_sizes=[12, 14], bboxes={"facecolor": "red", "alpha": 1}
    )
    assert (np.abs(drawn.get_image().astype(int) - (255, 0, 0)) < 20).all(-1).sum() > 50
    plain, other = canvas().draw_texts("ö", [5, 5]).get_image(), canvas().draw_texts("ß", [5, 5]).get_image()
    assert (plain != other).any()  # not the same empty box
    with pytest.raises(InputError, match="vertical alignment must be one of top"):
        canvas().draw_texts("a", [1, 1], vertical_alignments="middle")


def test_masks():
    mask = np.zeros((60, 80), bool)
    mask[10:20, 30:40] = True
    drawn = canvas().draw_binary_masks(torch.from_numpy(mask), colors=(200, 0, 0), alphas=0.5)
    assert (changed(drawn) == mask).all()
    assert drawn.get_image()[15, 35].tolist() == [150, 50, 50]
    with pytest.raises(InputError, match=r"masks of \(3, 3\) pixels do not fit"):
        canvas().draw_binary_masks(np.ones((3, 3), bool))


@pytest.mark.parametrize(("given", "color"), [("r", (255, 0, 0)), ("#0080ff", (0, 128, 255)), ((1, 2, 3), (1, 2, 3))])
def test_colours(given, color):
    assert to_color(given) == color


@pytest.mark.parametrize("given", ["rosy", (1, 2), (0, 0, 300)])
def test_invalid_colours_are_refused(given):
    with pytest.raises(InputError, match="colour"):
        to_color(given)


def test_set_and_get_image(caplog):
    visualizer = Visualizer()
    with pytest.raises(ValueError, match="has no image yet"):
        visualizer.draw_points([1, 1])
    visualizer.set_image(np.full((4, 5), 300.0))
    assert visualizer.get_image().shape == (4, 5, 3)
    assert visualizer.get_image().max() == 255
    with pytest.raises(ValueError, match=r"\(H, W, 3\) or \(H, W\), got \(4,\)"):
        visualizer.set_image(np.zeros(4))
    for _ in range(2):
        visualizer.show(GRAY)
    assert (visualizer.get_image() == GRAY).all()
    assert caplog.text.count("show() opens no window") == 1


class TestFeatureMaps:
    def test_mean_and_strongest_channel(self):
        maps = torch.zeros(3, 4, 4)
        maps[0, 0, 0], maps[2, 3, 3] = 1.0, 9.0
        mean = Visualizer.draw_featmap(maps, resize_shape=(4, 4)).astype(int)
        most = Visualizer.draw_featmap(maps, channel_reduction="select_max").astype(int)
        assert mean[3, 3, 0] > mean[3, 3, 2]  # hot
        assert (most[0, 0] == most[1, 1]).all()  # the first channel is not in it
        assert (mean[0, 0] != mean[1, 1]).any()

    def test_channels_side_by_side_over_a_picture(self):
        maps = torch.rand(6, 15, 20)
        drawn = Visualizer.draw_featmap(maps, GRAY, channel_reduction=None, topk=4, arrangement=(2, 2))
        assert drawn.shape == (2 * 60 + 4, 2 * 80 + 4, 3)
        for match, args in {
            "is too small for 5 channels": {"topk": 5, "arrangement": (2, 2)},
            "all of 6 channels make no picture": {"topk": -1},
        }.items():
            with pytest.raises(InputError, match=match):
                Visualizer.draw_featmap(maps, channel_reduction=None, **args)
        with pytest.raises(InputError, match=r"takes a tensor \(C, H, W\), got \(3, 3\)"):
            Visualizer.draw_featmap(torch.zeros(3, 3))
        with pytest.raises(InputError, match="channel_reduction must be"):
            Visualizer.draw_featmap(maps, channel_reduction="sum")
