"""`HardSimpleVFE`: the mean of each voxel's points (SECOND, CenterPoint on voxels)."""

from __future__ import annotations

from torch import Tensor, nn

from raydet3d.registry import MODELS


@MODELS.register_module()
class HardSimpleVFE(nn.Module):
    """Averages the points of each voxel.

    Args:
        num_features: Features of a point that are used.
    """

    def __init__(self, num_features: int = 4) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor, num_points: Tensor, coors: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Average points.

        Args:
            features: (V, P, C) points, zero where a slot is empty.
            num_points: (V,) numbers of points.
            coors: (V, 4) batch, z, y, x; not used.
            *args: Not used; the published detectors pass features of images.
            **kwargs: Not used.

        Returns:
            (V, num_features).
        """
        return features[:, :, : self.num_features].sum(dim=1) / num_points.to(features)[:, None]
