"""`Scale`: a learned factor, by mmcv's name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override


class Scale(nn.Module):
    """Multiplies its input by a learned number.

    Args:
        scale: Initial value.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
