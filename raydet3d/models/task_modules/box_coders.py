"""Box coders: from a box and its anchor to the numbers that the network learns, and back.

Legend: N boxes · C numbers of a box. Boxes are (x, y, z of the bottom centre, dx, dy, dz, yaw, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydet3d.registry import TASK_UTILS


@TASK_UTILS.register_module()
class DeltaXYZWLHRBBoxCoder:
    """Differences to an anchor: positions in units of its diagonal and height, log ratios of sizes, angle difference.

    Further numbers (velocity) are plain differences. Source: VoxelNet (Zhou & Tuzel 2018), section 3.1, with z taken
    at the middle of the box.

    Args:
        code_size: Numbers per box.
    """

    def __init__(self, code_size: int = 7) -> None:
        self.code_size = code_size

    @staticmethod
    def encode(anchors: Tensor, boxes: Tensor) -> Tensor:
        """Tell how boxes differ from their anchors.

        Args:
            anchors: (N, 7+).
            boxes: (N, 7+), as many numbers as the anchors have.

        Returns:
            (N, 7+) deltas.
        """
        size, size_a = boxes[..., 3:6], anchors[..., 3:6]
        diagonal = torch.sqrt(size_a[..., 0] ** 2 + size_a[..., 1] ** 2)
        shift = boxes[..., :3] - anchors[..., :3]
        middle, middle_a = boxes[..., 2] + size[..., 2] / 2, anchors[..., 2] + size_a[..., 2] / 2
        head = torch.stack(
            (shift[..., 0] / diagonal, shift[..., 1] / diagonal, (middle - middle_a) / size_a[..., 2]), dim=-1
        )
        return torch.cat((head, torch.log(size / size_a), boxes[..., 6:] - anchors[..., 6:]), dim=-1)

    @staticmethod
    def decode(anchors: Tensor, deltas: Tensor) -> Tensor:
        """Turn deltas back into boxes.

        Args:
            anchors: (N, 7+).
            deltas: (N, 7+), as many numbers as the anchors have.

        Returns:
            (N, 7+) boxes.
        """
        size_a = anchors[..., 3:6]
        diagonal = torch.sqrt(size_a[..., 0] ** 2 + size_a[..., 1] ** 2)
        size = torch.exp(deltas[..., 3:6]) * size_a
        x = deltas[..., 0] * diagonal + anchors[..., 0]
        y = deltas[..., 1] * diagonal + anchors[..., 1]
        middle = deltas[..., 2] * size_a[..., 2] + anchors[..., 2] + size_a[..., 2] / 2
        head = torch.stack((x, y, middle - size[..., 2] / 2), dim=-1)
        return torch.cat((head, size, deltas[..., 6:] + anchors[..., 6:]), dim=-1)
