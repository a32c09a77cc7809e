"""Heat maps of object centres (CenterPoint).

Shapes: K objects, C classes, H and W size of the map.
Source: CornerNet (Law & Deng 2018) for the radius, CenterPoint (Yin et al. 2021), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_radius(det_size: Sequence[Tensor], min_overlap: float = 0.5) -> Tensor:
    """Return the radius within which a box of the same size keeps an overlap with an object.

    The published formula is kept: it leaves out the division by the leading coefficient of the quadratic equations, so
    that radii are larger than CornerNet's.

    Args:
        det_size: Heights and widths of objects in cells, two tensors of one shape.
        min_overlap: Smallest overlap.

    Returns:
        Radii in cells, of the same shape.

    Example:
        >>> gaussian_radius((torch.tensor(2.0), torch.tensor(5.0)), min_overlap=0.1).round(decimals=4)
        tensor(1.6292)
    """
    height, width = det_size
    total, area = height + width, height * width
    radii = []
    for a, b, c in (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4.0 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    ):
        radii.append((b + torch.sqrt(b**2 - 4 * a * c)) / 2)
    return torch.minimum(torch.minimum(radii[0], radii[1]), radii[2])


def draw_heatmap_gaussian(heatmap: Tensor, center: Tensor, radius: int, k: float = 1) -> Tensor:
    """Draw a Gaussian around a cell into a heat map, in place, by the element-wise maximum.

    Args:
        heatmap: (H, W).
        center: x and y of the cell, whole numbers.
        radius: Radius in cells; the standard deviation is (2 * radius + 1) / 6.
        k: Factor on the Gaussian.

    Returns:
        The heat map.
    """
    cell = torch.as_tensor(center, device=heatmap.device)[:2].long().view(1, 2)
    channel = torch.zeros(1, dtype=torch.long, device=heatmap.device)
    draw_gaussians(heatmap[None], channel, cell, torch.full_like(channel, int(radius)), k)
    return heatmap


def draw_gaussians(heatmaps: Tensor, channels: Tensor, centers: Tensor, radii: Tensor, k: float = 1) -> None:
    """Draw Gaussians of several objects at once, in place, by the element-wise maximum.

    Args:
        heatmaps: (C, H, W).
        channels: (K,) channel of each object.
        centers: (K, 2) cell of each, x and y.
        radii: (K,) radius of each in cells.
        k: Factor on the Gaussians.
    """
    if not len(centers):
        return
    _, height, width = heatmaps.shape
    reach = int(radii.max())
    offset = torch.arange(-reach, reach + 1, device=heatmaps.device)
    sigma = (2 * radii + 1).double() / 6
    square = (offset[:, None] ** 2 + offset**2).double()  # (window y, window x)
    values = torch.exp(-square / (2 * sigma * sigma)[:, None, None]).to(heatmaps.dtype) * k  # (K, window, window)
    x, y = centers[:, :1] + offset, centers[:, 1:] + offset  # (K, window)
    near = offset.abs() <= radii[:, None]
    inside_x = near & (x >= 0) & (x < width)
    inside_y = near & (y >= 0) & (y < height)
    inside = inside_y[:, :, None] & inside_x[:, None]
    cell = (channels[:, None] * height + y)[:, :, None] * width + x[:, None]
    if not heatmaps.is_contiguous():
        drawn = heatmaps.contiguous()
        drawn.view(-1).scatter_reduce_(0, cell[inside], values[inside], "amax")
        heatmaps.copy_(drawn)
    else:
        heatmaps.view(-1).scatter_reduce_(0, cell[inside], values[inside], "amax")
