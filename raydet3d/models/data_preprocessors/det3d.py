"""`Det3DDataPreprocessor`: moves a collated batch to the model's device and groups its points into voxels.

Shapes: B frames of a batch, N points, C features of a point, V voxels, P points of a voxel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.data_preprocessors.base import BaseDataPreprocessor
from raydet3d.models.module import BatchData, ConfigType
from raydet3d.ops import grid_size, voxelize_dynamic, voxelize_hard
from raydet3d.registry import MODELS, TASK_UTILS


@dataclass(frozen=True)
class VoxelLayer:
    """Settings of `voxel_layer`.

    Attributes:
        max_num_points: P.
        point_cloud_range: x, y, z of the lower and of the upper corner; LiDAR frame, metres.
        voxel_size: Along x, y, z; metres.
        max_voxels: Maximum number of voxels of a frame, or one for training and one for testing.
        deterministic: Accepted for published configs; voxelization is always deterministic.
    """

    max_num_points: int
    point_cloud_range: Sequence[float]
    voxel_size: Sequence[float]
    max_voxels: int | Sequence[int] = 20000
    deterministic: bool = True

    def limit(self, training: bool) -> int:
        """Return the maximum number of voxels of a frame."""
        if isinstance(self.max_voxels, int):
            return self.max_voxels
        return self.max_voxels[0 if training else 1]


@MODELS.register_module()
class Det3DDataPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device and groups its points into voxels.

    Voxels that the pipeline made (`VoxelizePoints`) are used as they are.

    Args:
        voxel: Whether to voxelize.
        voxel_type: "hard": limited numbers of points in a voxel and of voxels in a frame; "dynamic": all points.
        voxel_layer: See `VoxelLayer`.
        non_blocking: Copy asynchronously from pinned memory.
    """

    def __init__(
        self,
        voxel: bool = False,
        voxel_type: str = "hard",
        voxel_layer: ConfigType | None = None,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        if voxel_type not in ("hard", "dynamic"):
            raise InputError(f"Det3DDataPreprocessor: voxel_type must be 'hard' or 'dynamic', got {voxel_type!r}")
        if voxel and voxel_layer is None:
            raise InputError("Det3DDataPreprocessor: voxel=True needs a voxel_layer")
        self.voxel = voxel
        self.voxel_type = voxel_type
        self.voxel_layer: VoxelLayer | None = None
        if voxel_layer is not None:
            self.voxel_layer = layer = TASK_UTILS.build({**voxel_layer, "type": VoxelLayer})
            for key, least in (
                ("max_num_points", layer.max_num_points),
                ("max_voxels", min(layer.limit(training) for training in (True, False))),
            ):
                if least < 1 and voxel_type == "hard":
                    raise InputError(f"voxel_layer: {key} must be at least 1 for voxel_type='hard', got {least}")
            try:
                grid_size(layer.voxel_size, layer.point_cloud_range)
            except ValueError as error:
                raise InputError(f"voxel_layer: {error}") from None

    @override
    def forward(self, data: BatchData, training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: `inputs` with `points`, B tensors (N, C), and maybe their voxels; `data_samples`, B of them or None.
            training: Selects the limit on voxels.

        Returns:
            The same on the device; `inputs` also has `voxels`: a dict of `voxels` (V, P, C), `num_points` (V,) and
            `coors` (V, 4) as batch, z, y, x. For dynamic voxels it has the points in range, `voxels` (N, C), and the
            voxel of each, `coors` (N, 4).
        """
        assert isinstance(data, Mapping)
        inputs = self.cast_data(data["inputs"])
        samples = data.get("data_samples")
        if samples is not None and self.device.type != "cpu":
            samples = self.cast_data(samples)
        if self.voxel:
            made = inputs.get("voxels")
            inputs["voxels"] = self._stack(made) if made else self.voxelize(inputs["points"], training=training)
        return {"inputs": inputs, "data_samples": samples}

    def _stack(self, frames: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        """Concatenate voxels that the pipeline made; the number of the frame becomes the first of a voxel's indices."""
        layer = self.voxel_layer
        assert layer is not None
        first = frames["voxels"][0]
        if (first.ndim == 2) != (self.voxel_type == "dynamic") or (
            first.ndim == 3 and first.shape[1] != layer.max_num_points
        ):
            raise InputError(
                f"Det3DDataPreprocessor has voxel_type={self.voxel_type!r}, max_num_points={layer.max_num_points}, the "
                f"pipeline's VoxelizePoints made voxels of shape {tuple(first.shape)}; give both the same settings"
            )
        stacked = {key: torch.cat(list(parts)) for key, parts in frames.items() if key != "coors"}
        coors = [F.pad(part, (1, 0), value=frame) for frame, part in enumerate(frames["coors"])]
        return {**stacked, "coors": torch.cat(coors)}

    @torch.no_grad()
    def voxelize(self, points: Sequence[Tensor], *, training: bool) -> dict[str, Tensor]:
        """Group the points of each frame into voxels; a frame without points has no voxel.

        Args:
            points: B tensors (N, C).
            training: Selects the limit on voxels.

        Returns:
            See `forward`.
        """
        layer = self.voxel_layer
        assert layer is not None
        if self.voxel_type == "dynamic":
            return self._assign_voxels(points, layer)
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

    def _assign_voxels(self, points: Sequence[Tensor], layer: VoxelLayer) -> dict[str, Tensor]:
        """Find the voxel of every point; points out of range are dropped."""
        inside, coors = [], []
        for frame, cloud in enumerate(points):
            coords = voxelize_dynamic(cloud, voxel_size=layer.voxel_size, point_cloud_range=layer.point_cloud_range)
            known = (coords[:, 0] >= 0).nonzero().squeeze(1)
            inside.append(cloud[known])
            coors.append(F.pad(coords[known], (1, 0), value=frame))
        return {"voxels": torch.cat(inside), "coors": torch.cat(coors)}
