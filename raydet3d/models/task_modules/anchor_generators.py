"""Anchor generators: boxes of a few sizes and rotations at every cell of the bird's-eye-view map.

Shapes: D, H, W size of the map along z, y, x (D is 1), S sizes, R rotations, C numbers of an anchor (x, y, z of the
bottom centre, dx, dy, dz, yaw, custom values); LiDAR frame, metres and radians.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.registry import TASK_UTILS

Device = torch.device | str


@TASK_UTILS.register_module()
class Anchor3DRangeGenerator:
    """Anchors spread evenly over a range, both ends included (SECOND).

    Args:
        ranges: One (x0, y0, z0, x1, y1, z1) per size, or one for all; metres.
        sizes: (dx, dy, dz) of each size; metres.
        scales: Factor on the sizes, per feature map.
        rotations: Yaws; radians. Published configs use 1.57, not pi / 2.
        custom_values: Further numbers of every anchor (velocity).
        reshape_out: Return (D * H * W * S * R, C) anchors instead of (D, H, W, S, R, C).
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
        """Number of feature maps."""
        return len(self.scales)

    @property
    def num_base_anchors(self) -> int:
        """Anchors per cell, S * R."""
        return len(self.sizes) * len(self.rotations)

    @property
    def box_code_size(self) -> int:
        """C."""
        return 7 + len(self.custom_values)

    def grid_anchors(self, featmap_sizes: Sequence[Sequence[int]], device: Device = "cuda") -> list[Tensor]:
        """Make the anchors of all feature maps.

        Args:
            featmap_sizes: (H, W) or (D, H, W) of each.
            device: Where the anchors are made.

        Returns:
            For each map (D, H, W, S, R, C), or (D * H * W * S * R, C) with `reshape_out`.
        """
        anchors = [
            self.single_level_grid_anchors(size, scale, device=device)
            for size, scale in zip(featmap_sizes, self.scales, strict=True)
        ]
        return [one.reshape(-1, one.shape[-1]) for one in anchors] if self.reshape_out else anchors

    def single_level_grid_anchors(self, featmap_size: Sequence[int], scale: float, device: Device = "cuda") -> Tensor:
        """Make the (D, H, W, S, R, C) anchors of one feature map of (H, W) or (D, H, W) cells."""
        return torch.cat(
            [
                self.anchors_single_range(featmap_size, span, scale, [size], self.rotations, device=device)
                for span, size in zip(self.ranges, self.sizes, strict=True)
            ],
            dim=-3,
        )

    def anchors_single_range(
        self,
        feature_size: Sequence[int],
        anchor_range: Sequence[float],
        scale: float = 1,
        sizes: Sequence[Sequence[float]] = ((3.9, 1.6, 1.56),),
        rotations: Sequence[float] = (0, 1.5707963),
        device: Device = "cuda",
    ) -> Tensor:
        """Make the anchors of one range.

        Args:
            feature_size: (H, W) or (D, H, W).
            anchor_range: (x0, y0, z0, x1, y1, z1).
            scale: Factor on the sizes.
            sizes: S times (dx, dy, dz).
            rotations: R yaws.
            device: Where the anchors are made.

        Returns:
            (D, H, W, S, R, C).
        """
        depth, height, width = (1, *feature_size)[-3:]
        x = self._positions(anchor_range[0], anchor_range[3], width, device)
        y = self._positions(anchor_range[1], anchor_range[4], height, device)
        z = self._positions(anchor_range[2], anchor_range[5], depth, device)
        shape = (depth, height, width, len(sizes), len(rotations), self.box_code_size)
        anchors = torch.empty(shape, device=device)
        anchors[..., 0] = x[:, None, None]
        anchors[..., 1] = y[:, None, None, None]
        anchors[..., 2] = z[:, None, None, None, None]
        anchors[..., 3:6] = torch.tensor([[scale * side for side in size] for size in sizes], device=device)[:, None]
        anchors[..., 6] = torch.tensor(rotations, device=device)
        if self.custom_values:
            anchors[..., 7:] = torch.tensor(self.custom_values, device=device)
        return anchors

    def _positions(self, low: float, high: float, count: int, device: Device) -> Tensor:
        """Return the positions of the anchors along one axis."""
        return torch.linspace(low, high, count, device=device)


@TASK_UTILS.register_module()
class AlignedAnchor3DRangeGenerator(Anchor3DRangeGenerator):
    """Anchors at the centres of the grid's cells (PointPillars).

    Args:
        ranges: As for `Anchor3DRangeGenerator`, like the next six.
        sizes: (dx, dy, dz) of each size.
        scales: Factor on the sizes, per feature map.
        rotations: Yaws.
        custom_values: Further numbers of every anchor.
        reshape_out: Return flat anchors.
        size_per_range: Each size has its own range.
        align_corner: Put the anchors at the lower corners of the cells instead.
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

    @override
    def _positions(self, low: float, high: float, count: int, device: Device) -> Tensor:
        borders = torch.linspace(low, high, count + 1, device=device)
        if not self.align_corner:
            borders = borders + (borders[1] - borders[0]) / 2
        return borders[:count]


@TASK_UTILS.register_module()
class AlignedAnchor3DRangeGeneratorPerCls(AlignedAnchor3DRangeGenerator):
    """Anchors at the centres of the cells, on a map of its own size for each class (SSN).

    Args:
        ranges: One (x0, y0, z0, x1, y1, z1) per class; metres.
        sizes: (dx, dy, dz) of each class; metres.
        scales: One factor on the sizes.
        rotations: As for `AlignedAnchor3DRangeGenerator`, like the next four.
        custom_values: Further numbers of every anchor.
        reshape_out: Not used: anchors are always flat.
        size_per_range: Each size has its own range.
        align_corner: Put the anchors at the lower corners of the cells instead.
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
        super().__init__(ranges, sizes, scales, rotations, custom_values, reshape_out, size_per_range, align_corner)
        if len(self.scales) != 1:
            raise InputError(f"AlignedAnchor3DRangeGeneratorPerCls: there is one level, so one scale, got {scales}")

    def grid_anchors(  # type: ignore[override]
        self, featmap_sizes: Sequence[Sequence[int]], device: Device = "cuda"
    ) -> list[list[Tensor]]:
        """Make the anchors of the only level.

        Args:
            featmap_sizes: (H, W) of the map of each class.
            device: Where the anchors are made.

        Returns:
            One list with (R * H * W, C) anchors of each class.
        """
        return [self.multi_cls_grid_anchors(featmap_sizes, self.scales[0], device=device)]

    def multi_cls_grid_anchors(
        self, featmap_sizes: Sequence[Sequence[int]], scale: float, device: Device = "cuda"
    ) -> list[Tensor]:
        """Make the (R * H * W, C) anchors of each class on its map of (H, W) cells."""
        anchors = []
        for size, span, cells in zip(self.sizes, self.ranges, featmap_sizes, strict=True):
            grid = self.anchors_single_range(cells, span, scale, [size], self.rotations, device=device)
            anchors.append(grid[0, :, :, 0].permute(2, 0, 1, 3).reshape(-1, self.box_code_size))  # (H, W, R, C)
        return anchors
