"""Box coders: regression targets of boxes relative to anchors, and back.

Shapes: N boxes, C numbers of a box (x, y, z of the bottom centre, dx, dy, dz, yaw, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from raydet3d.registry import TASK_UTILS


class BaseBBoxCoder:
    """Base class of box coders; subclasses define `encode` and `decode`.

    Attributes:
        encode_size: Numbers of an encoded box, for coders of 2D boxes.
    """

    encode_size = 4

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Encode ground-truth boxes relative to boxes."""
        raise NotImplementedError

    def decode(self, bboxes: Tensor, bboxes_pred: Tensor) -> Tensor:
        """Decode predictions relative to boxes."""
        raise NotImplementedError


@TASK_UTILS.register_module()
class DeltaXYZWLHRBBoxCoder(BaseBBoxCoder):
    """Offsets to an anchor: positions in units of its diagonal and height, log ratios of sizes, difference of yaws.

    Further numbers (velocity) are plain differences. z is taken at the centre of the box.
    Source: VoxelNet (Zhou & Tuzel 2018), section 3.1.

    Args:
        code_size: C.
    """

    def __init__(self, code_size: int = 7) -> None:
        self.code_size = code_size

    @staticmethod
    @override
    def encode(src_boxes: Tensor, dst_boxes: Tensor) -> Tensor:
        """Encode boxes relative to anchors.

        Args:
            src_boxes: (..., C) anchors.
            dst_boxes: (..., C) boxes.

        Returns:
            (..., C) deltas.
        """
        size, anchor_size = dst_boxes[..., 3:6], src_boxes[..., 3:6]
        diagonal = torch.sqrt(anchor_size[..., 0] ** 2 + anchor_size[..., 1] ** 2)
        offset = dst_boxes[..., :3] - src_boxes[..., :3]
        center_z = dst_boxes[..., 2] + size[..., 2] / 2
        anchor_center_z = src_boxes[..., 2] + anchor_size[..., 2] / 2
        position = torch.stack(
            (offset[..., 0] / diagonal, offset[..., 1] / diagonal, (center_z - anchor_center_z) / anchor_size[..., 2]),
            dim=-1,
        )
        return torch.cat((position, torch.log(size / anchor_size), dst_boxes[..., 6:] - src_boxes[..., 6:]), dim=-1)

    @staticmethod
    @override
    def decode(anchors: Tensor, deltas: Tensor) -> Tensor:
        """Decode boxes relative to anchors.

        Args:
            anchors: (..., C).
            deltas: (..., C).

        Returns:
            (..., C) boxes.
        """
        anchor_size = anchors[..., 3:6]
        diagonal = torch.sqrt(anchor_size[..., 0] ** 2 + anchor_size[..., 1] ** 2)
        size = torch.exp(deltas[..., 3:6]) * anchor_size
        x = deltas[..., 0] * diagonal + anchors[..., 0]
        y = deltas[..., 1] * diagonal + anchors[..., 1]
        center_z = deltas[..., 2] * anchor_size[..., 2] + anchors[..., 2] + anchor_size[..., 2] / 2
        position = torch.stack((x, y, center_z - size[..., 2] / 2), dim=-1)
        return torch.cat((position, size, deltas[..., 6:] + anchors[..., 6:]), dim=-1)
