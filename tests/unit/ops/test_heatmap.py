"""Heat maps: radius by hand, Gaussians against a loop over cells."""

import math

import pytest
import torch

from raydet3d.ops import draw_gaussians, draw_heatmap_gaussian, gaussian_radius


def test_radius_is_the_least_of_three_roots_without_the_division():
    height, width, overlap = 2.0, 5.0, 0.1
    total, area = height + width, height * width
    coefficients = [
        (1, total, area * (1 - overlap) / (1 + overlap)),
        (4, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    ]
    wanted = min((b + math.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in coefficients)
    sizes = torch.tensor([height, height]), torch.tensor([width, width])
    assert gaussian_radius(sizes, min_overlap=overlap).tolist() == pytest.approx([wanted] * 2)


def by_loop(shape, objects):
    heat = torch.zeros(shape)
    for channel, (cx, cy), radius in objects:
        sigma = (2 * radius + 1) / 6
        for y in range(shape[1]):
            for x in range(shape[2]):
                if abs(x - cx) <= radius and abs(y - cy) <= radius:
                    value = math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
                    heat[channel, y, x] = max(float(heat[channel, y, x]), value)
    return heat


def test_gaussians_of_several_objects_overlap_by_their_maximum():
    objects = [(0, (3, 4), 2), (0, (5, 4), 3), (1, (0, 0), 2), (1, (11, 8), 4), (0, (3, 4), 1)]
    heat = torch.zeros(2, 9, 12)
    draw_gaussians(
        heat,
        torch.tensor([o[0] for o in objects]),
        torch.tensor([o[1] for o in objects]),
        torch.tensor([o[2] for o in objects]),
    )
    torch.testing.assert_close(heat, by_loop((2, 9, 12), objects), rtol=1e-6, atol=1e-7)
    assert heat[0, 4, 3] == heat[0, 4, 5] == heat[1, 0, 0] == 1


def test_one_gaussian_is_drawn_in_place_into_a_part_of_a_larger_map():
    maps = torch.zeros(3, 7, 7)
    part = maps[1, :, 1:]
    assert draw_heatmap_gaussian(part, torch.tensor([2, 3], dtype=torch.int32), 2, k=1) is part
    torch.testing.assert_close(maps[1, :, 1:], by_loop((1, 7, 6), [(0, (2, 3), 2)])[0])
    assert maps[0].sum() == maps[2].sum() == 0


def test_without_objects_nothing_is_drawn():
    heat = torch.zeros(1, 4, 4)
    none = torch.zeros(0, dtype=torch.long)
    draw_gaussians(heat, none, none.view(0, 2), none)
    assert heat.sum() == 0
