"""`PointPillarsScatter`: features of pillars to a dense bird's-eye-view map.

Shapes: V pillars, C channels, B batch, H and W size of the map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from raydet3d.ops import cast_to_autocast
from raydet3d.registry import MODELS


@MODELS.register_module()
class PointPillarsScatter(nn.Module):
    """Writes each pillar's feature to its cell of a map of zeros.

    Args:
        in_channels: C.
        output_shape: (H, W).
    """

    def __init__(self, in_channels: int, output_shape: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.height, self.width = map(int, output_shape)

    def forward(self, features: Tensor, coors: Tensor, batch_size: int) -> Tensor:
        """Scatter the features of a batch.

        Args:
            features: (V, C).
            coors: (V, 4) batch, z, y, x.
            batch_size: B, frames without pillars included.

        Returns:
            (B, C, H, W), stored channels-last.
        """
        features = cast_to_autocast(features)  # otherwise the next convolution casts the whole map
        cells = batch_size * self.height * self.width
        sample, _, y, x = coors.long().unbind(1)
        cell = (sample * self.height + y) * self.width + x
        canvas = features.new_zeros(cells, self.in_channels).index_copy(0, cell, features)
        return canvas.view(batch_size, self.height, self.width, self.in_channels).permute(0, 3, 1, 2)
