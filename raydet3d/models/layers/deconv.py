"""`Deconv`: a transposed convolution with a fast path on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.ops import map_to_rows


class Deconv(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` that computes kernel size 1 and stride 1 on channels-last maps as a matrix product.

    Torch has no fast path for that case on a CPU.
    """

    @override
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        pointwise = self.kernel_size == self.stride == (1, 1) and self.padding == self.output_padding == (0, 0)
        plain = pointwise and self.groups == 1 and self.bias is None and output_size is None
        if not plain or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x, output_size)
        batch, _, height, width = x.shape
        rows = map_to_rows(x) @ self.weight.flatten(1)  # (B * H * W, C_out)
        return rows.view(batch, height, width, self.out_channels).permute(0, 3, 1, 2)
