"""`CenterPointBBoxCoder`: boxes from heat maps and regression maps.

Shapes: B batch, C classes of a task, H and W size of the map, n boxes.
Source: CenterPoint (Yin et al. 2021), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.task_modules.box_coders import BaseBBoxCoder
from raydet3d.registry import TASK_UTILS


@TASK_UTILS.register_module()
class CenterPointBBoxCoder(BaseBBoxCoder):
    """Decodes the highest cells of heat maps.

    Args:
        pc_range: x and y of the lower corner of the map; LiDAR frame, metres.
        out_size_factor: Voxels along a cell of the map.
        voxel_size: Along x and y; metres.
        post_center_range: x, y, z of the lower and of the upper corner that centres must lie in; None for all.
        max_num: Number of cells that are decoded.
        score_threshold: Scores up to this one are dropped; None for none.
        code_size: Numbers of a box: 9 with velocity, 7 without.
    """

    def __init__(
        self,
        pc_range: Sequence[float],
        out_size_factor: int,
        voxel_size: Sequence[float],
        post_center_range: Sequence[float] | None = None,
        max_num: int = 100,
        score_threshold: float | None = None,
        code_size: int = 9,
    ) -> None:
        if post_center_range is not None and len(post_center_range) != 6:
            raise InputError(
                f"CenterPointBBoxCoder: post_center_range has 6 numbers (x, y, z of two corners), got "
                f"{list(post_center_range)}"
            )
        self.pc_range = pc_range
        self.out_size_factor = out_size_factor
        self.voxel_size = voxel_size
        self.post_center_range = post_center_range
        self.max_num = max_num
        self.score_threshold = score_threshold
        self.code_size = code_size

    @override
    def encode(self, *args: object, **kwargs: object) -> Tensor:
        """Raise `NotImplementedError`: the head makes the targets, see `CenterHead.get_targets`."""
        raise NotImplementedError("CenterPointBBoxCoder does not encode; CenterHead.get_targets makes the targets")

    def _topk(self, scores: Tensor, K: int = 80) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Find the highest cells: the best K of each class, then the best K of those.

        Args:
            scores: (B, C, H, W).
            K: Number of cells.

        Returns:
            Scores, indices y * W + x, classes, y and x, each (B, n).
        """
        batch, classes, height, width = scores.shape
        count = min(K, height * width)
        best, cells = scores.view(batch, classes, -1).topk(count)
        top, chosen = best.view(batch, -1).topk(count)
        cell = cells.view(batch, -1).gather(1, chosen)
        return top, cell, chosen // count, (cell // width).float(), (cell % width).float()

    def _transpose_and_gather_feat(self, feat: Tensor, ind: Tensor) -> Tensor:
        """Gather the columns (B, n, C) of a map (B, C, H, W) at cells (B, n)."""
        flat = feat.flatten(2)
        return flat.gather(2, ind[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)

    @override
    def decode(  # type: ignore[override]
        self,
        heat: Tensor,
        rot_sine: Tensor,
        rot_cosine: Tensor,
        hei: Tensor,
        dim: Tensor,
        vel: Tensor | None,
        reg: Tensor | None = None,
        task_id: int = -1,
    ) -> list[dict[str, Tensor]]:
        """Decode the boxes of a task.

        Args:
            heat: (B, C, H, W) scores.
            rot_sine: (B, 1, H, W) sines of the yaws.
            rot_cosine: (B, 1, H, W) cosines of the yaws.
            hei: (B, 1, H, W) z of the centres.
            dim: (B, 3, H, W) sizes.
            vel: (B, 2, H, W) velocities; None for boxes without.
            reg: (B, 2, H, W) offsets of the centres within the cells; half a cell by default.
            task_id: Not used.

        Returns:
            For each frame `bboxes` (n, code_size) around their centres, `scores` (n,) and `labels` (n,) in the task.
        """
        scores, cells, labels, y, x = self._topk(heat, K=self.max_num)
        offset = self._transpose_and_gather_feat(reg, cells) if reg is not None else torch.full_like(x, 0.5)[..., None]
        x = (x + offset[..., 0]) * self.out_size_factor * self.voxel_size[0] + self.pc_range[0]
        y = (y + offset[..., -1]) * self.out_size_factor * self.voxel_size[1] + self.pc_range[1]
        sine, cosine = (self._transpose_and_gather_feat(part, cells) for part in (rot_sine, rot_cosine))
        columns = [x[..., None], y[..., None]]
        columns += [self._transpose_and_gather_feat(part, cells) for part in (hei, dim)]
        columns.append(torch.atan2(sine, cosine))
        if vel is not None:
            columns.append(self._transpose_and_gather_feat(vel, cells))
        boxes = torch.cat(columns, dim=2)
        keep = torch.ones_like(scores, dtype=torch.bool)
        if self.score_threshold is not None:
            keep &= scores > self.score_threshold
        if self.post_center_range is not None:
            limits = boxes.new_tensor(list(self.post_center_range))
            keep &= (boxes[..., :3] >= limits[:3]).all(2) & (boxes[..., :3] <= limits[3:]).all(2)
        return [
            {"bboxes": boxes[i, keep[i]], "scores": scores[i, keep[i]], "labels": labels[i, keep[i]]}
            for i in range(len(boxes))
        ]
