"""Targets of a centre head: heat maps, and the encoded boxes of their peaks.

Shapes: K boxes, C classes of a task, H and W size of the map, M maximum number of objects of a task, E numbers of an
encoded box: offset of the centre within its cell (x, y), z of the centre, log sizes (or sizes), sine and cosine of the
yaw, and the velocity (x, y) where there is one.
Source: CenterPoint (Yin et al. 2021), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydet3d.models.dense_heads.base import HeadCfg
from raydet3d.ops import draw_gaussians, gaussian_radius


@dataclass(frozen=True)
class CenterTargets:
    """Targets of a frame, each a list over the tasks.

    Attributes:
        heatmaps: (C, H, W).
        boxes: (M, E) encoded boxes; zero where there is none.
        cells: (M,) their cells, y * W + x.
        masks: (M,) 1 where there is a box, uint8.
    """

    heatmaps: list[Tensor]
    boxes: list[Tensor]
    cells: list[Tensor]
    masks: list[Tensor]


def make_center_targets(
    boxes: Tensor,
    labels: Tensor,
    num_classes: Sequence[int],
    cfg: HeadCfg,
    *,
    log_sizes: bool = True,
    with_velocity: bool = True,
) -> CenterTargets:
    """Compute the targets of a frame.

    Args:
        boxes: (K, 7 or 9) around their centres: x, y, z, dx, dy, dz, yaw (and the velocity); LiDAR frame.
        labels: (K,) classes, numbered through all tasks.
        num_classes: Number of classes of each task.
        cfg: See `CenterHeadTrainCfg`.
        log_sizes: Encode the logarithms of the sizes.
        with_velocity: Encode the velocity.
    """
    device = boxes.device
    boxes = boxes.float()
    factor = cfg["out_size_factor"]
    width, height = (int(size) // factor for size in list(cfg["grid_size"])[:2])
    voxel = torch.tensor(list(cfg["voxel_size"])[:2], device=device)
    low = torch.tensor(list(cfg["point_cloud_range"])[:2], device=device)
    limit = int(cfg["max_objs"] * cfg["dense_reg"])
    task_of = torch.repeat_interleave(torch.tensor(list(num_classes)))
    total = len(task_of)
    task_of = task_of.to(device)

    # Within a task, objects stand class by class; those beyond the limit are left out.
    order = torch.argsort(torch.where((labels >= 0) & (labels < total), labels, total), stable=True)
    order = order[: int(((labels >= 0) & (labels < total)).sum())]
    boxes, labels = boxes[order], labels[order].long()
    task = task_of[labels]
    counts = torch.bincount(task, minlength=len(num_classes))
    slot = torch.arange(len(labels), device=device) - (counts.cumsum(0) - counts)[task]

    size = boxes[:, 3:5] / voxel / factor  # in cells, along x and y of the box
    center = (boxes[:, :2] - low) / voxel / factor
    cell = center.int().long()  # truncation: a centre less than a cell before the map counts as in its first cell
    inside = (cell >= 0).all(1) & (cell[:, 0] < width) & (cell[:, 1] < height)
    valid = (slot < limit) & inside & (size > 0).all(1)
    boxes, labels, task, slot = boxes[valid], labels[valid], task[valid], slot[valid]
    size, center, cell = size[valid], center[valid], cell[valid]

    radius = gaussian_radius((size[:, 1], size[:, 0]), min_overlap=cfg["gaussian_overlap"]).long()
    heatmap = torch.zeros(total, height, width, device=device)
    draw_gaussians(heatmap, labels, cell, radius.clamp(min=int(cfg["min_radius"])))

    dims = boxes[:, 3:6].log() if log_sizes else boxes[:, 3:6]
    columns = [center - cell, boxes[:, 2:3], dims, boxes[:, 6:7].sin(), boxes[:, 6:7].cos()]
    if with_velocity:
        columns.append(boxes[:, 7:9])
    encoded = torch.cat(columns, dim=1)
    shape = (len(num_classes), limit)
    all_boxes = torch.zeros(*shape, encoded.shape[1], device=device)
    all_boxes[task, slot] = encoded
    all_cells = torch.zeros(shape, dtype=torch.long, device=device)
    all_cells[task, slot] = cell[:, 1] * width + cell[:, 0]
    masks = torch.zeros(shape, dtype=torch.uint8, device=device)
    masks[task, slot] = 1
    return CenterTargets(list(heatmap.split(list(num_classes))), list(all_boxes), list(all_cells), list(masks))
