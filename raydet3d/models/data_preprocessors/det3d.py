"""`Det3DDataPreprocessor`: a collated batch to the model's device, its points grouped into voxels.

Legend: B batch · N points · C numbers per point · V voxels · P points per voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.ops import grid_size, voxelize_hard
from raydet3d.registry import MODELS, TASK_UTILS


@dataclass(frozen=True)
class VoxelLayer:
    """Keys of `voxel_layer`.

    Attributes:
        max_num_points: P.
        point_cloud_range: x, y, z of the lower and of the upper corner; metres.
        voxel_size: Along x, y, z; metres.
        max_voxels: The most voxels of a frame; a pair is for training and for testing.
        deterministic: Accepted as published configs may carry it; ours always is.
    """

    max_num_points: int
    point_cloud_range: Sequence[float]
    voxel_size: Sequence[float]
    max_voxels: int | Sequence[int] = 20000
    deterministic: bool = True

    def limit(self, training: bool) -> int:
        """The most voxels of a frame."""
        if isinstance(self.max_voxels, int):
            return self.max_voxels
        return self.max_voxels[0 if training else 1]


@MODELS.register_module()
class Det3DDataPreprocessor(nn.Module):
    """Moves a batch to the device and groups its points into voxels.

    Args:
        voxel: Whether to make voxels.
        voxel_type: "hard": a limited number of points per voxel, and of voxels.
        voxel_layer: See `VoxelLayer`.
        non_blocking: Do not wait for copies from pinned memory.
    """

    def __init__(
        self,
        voxel: bool = False,
        voxel_type: str = "hard",
        voxel_layer: Mapping[str, Any] | None = None,
        non_blocking: bool = False,
    ) -> None:
        super().__init__()
        if voxel_type != "hard":
            raise InputError(f"Det3DDataPreprocessor: voxel_type is 'hard', got {voxel_type!r}")
        if voxel and voxel_layer is None:
            raise InputError("Det3DDataPreprocessor: voxel=True needs a voxel_layer")
        self.voxel = voxel
        self.non_blocking = non_blocking
        self.device = torch.device("cpu")
        self.voxel_layer: VoxelLayer | None = None
        if voxel_layer is not None:
            self.voxel_layer = layer = TASK_UTILS.build({**voxel_layer, "type": VoxelLayer})
            for key, least in (
                ("max_num_points", layer.max_num_points),
                ("max_voxels", min(layer.limit(training) for training in (True, False))),
            ):
                if least < 1:
                    raise InputError(f"voxel_layer: {key} is 1 or more where voxel_type is 'hard', got {least}")
            try:
                grid_size(self.voxel_layer.voxel_size, self.voxel_layer.point_cloud_range)
            except ValueError as error:
                raise InputError(f"voxel_layer: {error}") from None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Where `to`, `cuda` and `cpu` meet: a module without parameters learns its device from what they do to one.
        super()._apply(fn, recurse)
        self.device = fn(torch.empty(0, device=self.device)).device
        return self

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: `inputs` with `points`, B tensors (N, C), and `data_samples`, B of them or None.
            training: Which limit on voxels holds.

        Returns:
            The same on the device; `inputs` has `voxels` besides: a dict of `voxels` (V, P, C), `num_points` (V,) and
            `coors` (V, 4) as batch, z, y, x.
        """
        inputs = {key: self._move(value) for key, value in data["inputs"].items()}
        samples = data.get("data_samples")
        if samples is not None and self.device.type != "cpu":
            samples = [sample.to(self.device) for sample in samples]
        if self.voxel:
            inputs["voxels"] = self.voxelize(inputs["points"], training=training)
        return {"inputs": inputs, "data_samples": samples}

    def _move(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self.device, non_blocking=self.non_blocking)
        return [self._move(item) for item in value] if isinstance(value, list | tuple) else value

    @torch.no_grad()
    def voxelize(self, points: Sequence[Tensor], *, training: bool) -> dict[str, Tensor]:
        """Group the points of each frame; frames without a point have no voxel."""
        layer = self.voxel_layer
        assert layer is not None
        parts = []
        for frame, cloud in enumerate(points):
            voxels, coords, num_points = voxelize_hard(
                cloud,
                voxel_size=layer.voxel_size,
                point_cloud_range=layer.point_cloud_range,
                max_num_points=layer.max_num_points,
                max_voxels=layer.limit(training),
            )
            parts.append((voxels, num_points, F.pad(coords, (1, 0), value=frame)))
        voxels, num_points, coors = (torch.cat(column) for column in zip(*parts, strict=True))
        return {"voxels": voxels, "num_points": num_points, "coors": coors}
