"""Anchor generators: boxes of a few sizes and headings at every cell of the bird's-eye grid.

Legend: H, W bird's-eye grid · S sizes · R rotations · C numbers of an anchor (x, y, z bottom, dx, dy, dz, yaw, ...).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.registry import TASK_UTILS


@TASK_UTILS.register_module()
class Anchor3DRangeGenerator:
    """Anchors spread evenly over a range, its two ends included (SECOND).

    Args:
        ranges: One (x0, y0, z0, x1, y1, z1) per size, or one for all; metres.
        sizes: One (dx, dy, dz) per kind of anchor; metres.
        scales: Factor on the sizes, per feature map.
        rotations: Headings; radians. Published configs say 1.57, not pi / 2, and mean it.
        custom_values: Numbers that every anchor ends with (velocity).
        reshape_out: Accepted as published configs carry it; our shape is always (1, H, W, S, R, C).
        size_per_range: Each size has its own range; False combines the first range with all sizes.
    """

    def __init__(
        self,
        ranges: Sequence[Sequence[float]],
        sizes: Sequence[Sequence[float]] = ((3.9, 1.6, 1.56),),
        scales: Sequence[float] = (1,),
        rotations: Sequence[float] = (0, 1.5707963),
        custom_values: Sequence[float] = (),
        reshape_out: bool = True,
        size_per_range: bool = True,
    ) -> None:
        name = type(self).__name__
        for values, length, key in ((ranges, 6, "ranges"), (sizes, 3, "sizes")):
            for value in values:
                if len(value) != length:
                    raise InputError(f"{name}: each of {key} has {length} numbers, got {list(value)}")
        if not size_per_range or len(ranges) == 1:
            ranges = [ranges[0]] * len(sizes)
        if len(ranges) != len(sizes):
            raise InputError(
                f"{name}: {len(ranges)} ranges for {len(sizes)} sizes; give one range each, or one for all"
            )
        self.ranges = [tuple(map(float, span)) for span in ranges]
        self.sizes = [tuple(map(float, size)) for size in sizes]
        self.scales = tuple(scales)
        self.rotations = tuple(map(float, rotations))
        self.custom_values = tuple(map(float, custom_values))
        self.reshape_out = reshape_out

    @property
    def num_levels(self) -> int:
        """Feature maps that anchors are made for."""
        return len(self.scales)

    @property
    def num_base_anchors(self) -> int:
        """Anchors per cell."""
        return len(self.sizes) * len(self.rotations)

    @property
    def box_code_size(self) -> int:
        """Numbers of an anchor."""
        return 7 + len(self.custom_values)

    def grid(self, size: tuple[int, int], *, level: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """Make the anchors of one feature map.

        Args:
            size: Its (H, W).
            level: Which one, where there are several.
            device: Where to put them.

        Returns:
            (1, H, W, S, R, C).
        """
        kinds = [
            self._one_kind(size, span, tuple(self.scales[level] * side for side in sides), device)
            for span, sides in zip(self.ranges, self.sizes, strict=True)
        ]
        return torch.stack(kinds, dim=2)[None]

    def _one_kind(
        self, size: tuple[int, int], span: Sequence[float], sides: Sequence[float], device: torch.device | str
    ) -> Tensor:
        height, width = size
        x = self._places(span[0], span[3], width, device)
        y = self._places(span[1], span[4], height, device)
        z = self._places(span[2], span[5], 1, device)
        out = torch.empty(height, width, len(self.rotations), self.box_code_size, device=device)
        out[..., 0] = x[None, :, None]
        out[..., 1] = y[:, None, None]
        out[..., 2] = z
        out[..., 3:6] = torch.tensor(sides, device=device)
        out[..., 6] = torch.tensor(self.rotations, device=device)
        if self.custom_values:
            out[..., 7:] = torch.tensor(self.custom_values, device=device)
        return out

    def _places(self, low: float, high: float, count: int, device: torch.device | str) -> Tensor:
        """Where anchors stand along one axis."""
        return torch.linspace(low, high, count, device=device)


@TASK_UTILS.register_module()
class AlignedAnchor3DRangeGenerator(Anchor3DRangeGenerator):
    """Anchors at the centres of the grid's cells (PointPillars).

    Args:
        ranges: See `Anchor3DRangeGenerator`.
        sizes: See there.
        scales: See there.
        rotations: See there.
        custom_values: See there.
        reshape_out: See there.
        size_per_range: See there.
        align_corner: Put them at the cells' lower corners instead.
    """

    def __init__(
        self,
        ranges: Sequence[Sequence[float]],
        sizes: Sequence[Sequence[float]] = ((3.9, 1.6, 1.56),),
        scales: Sequence[float] = (1,),
        rotations: Sequence[float] = (0, 1.5707963),
        custom_values: Sequence[float] = (),
        reshape_out: bool = True,
        size_per_range: bool = True,
        align_corner: bool = False,
    ) -> None:
        super().__init__(ranges, sizes, scales, rotations, custom_values, reshape_out, size_per_range)
        self.align_corner = align_corner

    def _places(self, low: float, high: float, count: int, device: torch.device | str) -> Tensor:
        borders = torch.linspace(low, high, count + 1, device=device)
        if not self.align_corner:
            borders = borders + (borders[1] - borders[0]) / 2
        return borders[:count]
