import math

import numpy as np
import pytest
import torch

from raydet3d.ops import aligned_iou, nearest_bev, rotated_intersection_bev, rotated_iou_3d, rotated_iou_bev
from tests.kit.close import assert_close


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


class TestRotated:
    def test_answers_known_by_hand(self) -> None:
        square = boxes((0, 0, 2, 2, 0))
        others = boxes(
            (0, 0, 2, 2, 0),  # itself
            (1, 0, 2, 2, 0),  # half of it: 2 / 6
            (1, 1, 2, 2, 0),  # a quarter of it: 1 / 7
            (2, 0, 2, 2, 0),  # touching
            (0, 0, 1, 1, 0.3),  # inside: 1 / 4
            (0, 0, 2, 2, math.pi / 4),  # the octagon: 8 (sqrt(2) - 1)
            (0, 0, 4, 1, 0),  # a cross: 2 / (4 + 4 - 2)
        )
        octagon = 8 * (math.sqrt(2) - 1)
        area = [4, 2, 1, 0, 1, octagon, 2]
        assert_close(rotated_intersection_bev(square, others)[0], area, atol=1e-6)
        iou = [1, 2 / 6, 1 / 7, 0, 1 / 4, octagon / (8 - octagon), 2 / 6]
        assert_close(rotated_iou_bev(square, others)[0], iou, atol=1e-6)
        assert_close(
            rotated_iou_bev(others, square, mode="iof")[:, 0], np.array(area) / [4, 4, 4, 4, 1, 4, 4], atol=1e-6
        )

    def test_yaw_is_counter_clockwise(self) -> None:
        """A long thin box turned left by 45 degrees covers a small one at the front left, not at the front right."""
        thin = boxes((0, 0, 10, 1, math.pi / 4))
        left, right = boxes((2, 2, 0.5, 0.5, 0)), boxes((2, -2, 0.5, 0.5, 0))
        assert rotated_intersection_bev(thin, left).item() == pytest.approx(0.25, abs=1e-6)
        assert rotated_intersection_bev(thin, right).item() == 0

    def test_height_counts_from_the_bottom(self) -> None:
        low = boxes((0, 0, 0, 2, 2, 2, 0))
        others = boxes((0, 0, 1, 2, 2, 2, 0), (0, 0, 2, 2, 2, 2, 0), (0, 0, -1, 2, 2, 4, 0), (0, 0, 5, 2, 2, 2, 0))
        assert_close(rotated_iou_3d(low, others)[0], [4 / 12, 0, 8 / 16, 0], atol=1e-6)
        assert_close(rotated_iou_3d(low, others, mode="iof")[0], [0.5, 0, 1, 0], atol=1e-6)
        with_velocity = torch.cat((low, torch.ones(1, 2)), dim=1)
        assert_close(rotated_iou_3d(with_velocity, others)[0], [4 / 12, 0, 8 / 16, 0], atol=1e-6)

    @pytest.mark.parametrize("count", [(0, 3), (3, 0), (0, 0)])
    def test_no_boxes(self, count: tuple[int, int]) -> None:
        one, two = torch.zeros(count[0], 7), torch.zeros(count[1], 7)
        assert rotated_iou_3d(one, two).shape == count
        assert rotated_iou_bev(one[:, :5], two[:, :5]).shape == count
        assert rotated_intersection_bev(one[:, :5], two[:, :5]).shape == count

    def test_what_is_not_a_box_overlaps_nothing(self) -> None:
        good = boxes((0, 0, 2, 2, 0))
        nan, inf = float("nan"), float("inf")
        bad = boxes((0, 0, 0, 0, 0), (0, 0, nan, 2, 0), (nan, 0, 2, 2, 0), (0, 0, inf, inf, 0), (0, 0, 2, 2, nan))
        assert_close(rotated_iou_bev(good, bad), np.zeros((1, 5)))
        assert_close(rotated_iou_bev(bad, bad), np.zeros((5, 5)))
        assert_close(rotated_intersection_bev(bad[1:], good), np.zeros((4, 1)))

    def test_dtype_and_no_gradient(self) -> None:
        for dtype in (torch.float32, torch.float64):
            box = boxes((0, 0, 2, 2, 0)).to(dtype).requires_grad_()
            overlap = rotated_iou_bev(box, box)
            assert overlap.dtype == dtype
            assert not overlap.requires_grad

    def test_more_pairs_than_fit_into_one_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from raydet3d.ops import iou

        generator = torch.Generator().manual_seed(0)
        many = torch.rand(30, 5, generator=generator) * 3 + 0.1
        whole = rotated_iou_bev(many, many)
        monkeypatch.setattr(iou, "_PAIRS_PER_STEP", 7)
        assert torch.equal(rotated_iou_bev(many, many), whole)

    def test_mode_is_checked(self) -> None:
        with pytest.raises(ValueError, match="'giou'"):
            rotated_iou_bev(torch.ones(1, 5), torch.ones(1, 5), mode="giou")


class TestAligned:
    def loop(self, one: np.ndarray, two: np.ndarray, mode: str) -> np.ndarray:
        table = np.zeros((len(one), len(two)))
        for i, (ax1, ay1, ax2, ay2) in enumerate(one):
            for j, (bx1, by1, bx2, by2) in enumerate(two):
                shared = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
                first = (ax2 - ax1) * (ay2 - ay1)
                whole = first + (bx2 - bx1) * (by2 - by1) - shared if mode == "iou" else first
                table[i, j] = shared / max(whole, 1e-6)
        return table

    @pytest.mark.parametrize("mode", ["iou", "iof"])
    @pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1, 1), (0, 4), (4, 0)])
    def test_against_a_loop(self, mode: str, shape: tuple[int, int]) -> None:
        rng = np.random.default_rng(5)

        def some(count: int) -> np.ndarray:
            corner = rng.uniform(0, 5, (count, 2))
            return np.concatenate((corner, corner + rng.uniform(0, 3, (count, 2))), axis=1)

        one, two = some(shape[0]), some(shape[1])
        table = aligned_iou(torch.from_numpy(one), torch.from_numpy(two), mode=mode)
        assert table.shape == shape
        assert_close(table, self.loop(one, two, mode), atol=1e-12)

    def test_in_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from raydet3d.ops import iou

        some = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)).cumsum(1)
        whole = aligned_iou(some[:9], some)
        monkeypatch.setattr(iou, "_ENTRIES_PER_STEP", 120)
        assert torch.equal(aligned_iou(some[:9], some), whole)
        assert torch.equal(aligned_iou(some, some[:9]), whole.T)

    def test_no_area(self) -> None:
        point = torch.zeros(1, 4)
        assert aligned_iou(point, point).item() == 0


def test_nearest_bev_swaps_beyond_45_degrees() -> None:
    degrees = [0, 44, 46, 90, 134, 136, 180, -44, -46, 270, 359]
    rows = boxes(*[(10, 20, 0, 4, 2, 1, math.radians(d)) for d in degrees])
    lengthwise, across = [8, 19, 12, 21], [9, 18, 11, 22]
    turned = {46, 90, 134, -46, 270}
    assert_close(nearest_bev(rows), [across if d in turned else lengthwise for d in degrees], atol=1e-6)
