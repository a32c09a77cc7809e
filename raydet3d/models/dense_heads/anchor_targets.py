"""Targets of an anchor head: which anchors are to find which object, and what they are to say of it.

Legend: B batch · H, W bird's-eye grid · S sizes · R rotations · A = S * R anchors of a cell · K objects · D numbers of
a box · N anchors with an object. An anchor's number in a batch is ((b * H + y) * W + x) * A + s * R + r.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.models.task_modules.anchor_generators import Anchor3DRangeGenerator
from raydet3d.models.task_modules.assigners import Assigned, Max3DIoUAssigner
from raydet3d.models.task_modules.box_coders import DeltaXYZWLHRBBoxCoder
from raydet3d.ops import AnchorGrid, limit_period
from raydet3d.registry import TASK_UTILS
from raydet3d.structures import Det3DDataSample


@dataclass(frozen=True)
class Targets:
    """What the anchors of a batch are to say; those in neither list are background.

    Attributes:
        positive: (N,) anchors with an object.
        labels: (N,) their classes.
        deltas: (N, D) their objects, encoded.
        bins: (N,) the halves of the circle their headings lie in.
        ignored: (M,) anchors that do not count.
        total: How many anchors have an object, a frame without any counting as one.
    """

    positive: Tensor
    labels: Tensor
    deltas: Tensor
    bins: Tensor
    ignored: Tensor
    total: Tensor


@dataclass(frozen=True)
class _Kind:
    """The anchors that one assigner looks at.

    Attributes:
        anchors: (H, W, n, D).
        grid: The same as a grid, where they form one.
        first: Their place among a cell's A.
        label: The class they find; None for all.
    """

    anchors: Tensor
    grid: AnchorGrid | None
    first: int
    label: int | None


class TargetMaker:
    """Makes the targets of a batch; keeps the anchors of each size of map.

    Args:
        generator: Where anchors stand.
        coder: How boxes are told relative to anchors.
        assigner: One per size of anchor, one for all, or None where nothing is to be learnt.
        num_classes: Objects of other classes are not looked at.
        per_class: Anchors of the i-th size find objects of the i-th class only.
        dir_offset: Heading at which the first half of the circle begins; radians.
        dir_limit_offset: Where headings are cut, as a share of the period below `dir_offset`.
    """

    def __init__(
        self,
        generator: Anchor3DRangeGenerator,
        coder: DeltaXYZWLHRBBoxCoder,
        assigner: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
        *,
        num_classes: int,
        per_class: bool,
        dir_offset: float,
        dir_limit_offset: float,
    ) -> None:
        self.generator = generator
        self.coder = coder
        self.num_classes = num_classes
        self.per_class = per_class
        self.dir_offset = dir_offset
        self.dir_limit_offset = dir_limit_offset
        self.one_per_size = assigner is not None and not isinstance(assigner, Mapping)
        listed = [assigner] if isinstance(assigner, Mapping) else assigner or []
        self.assigners: list[Max3DIoUAssigner] = [TASK_UTILS.build(one) for one in listed]
        sizes = len(generator.sizes)
        if self.one_per_size and len(self.assigners) != sizes:
            raise InputError(
                f"train_cfg.assigner: a list has one per size of anchor ({sizes}), got {len(self.assigners)}"
            )
        if per_class and self.one_per_size and sizes != num_classes:
            raise InputError(
                f"Anchor3DHead: assign_per_class=True wants a size of anchor and an assigner for each of the "
                f"{num_classes} classes, got {sizes} sizes and {len(self.assigners)} assigners"
            )
        self._rows: dict[tuple[int, int, torch.device], Tensor] = {}
        self._kinds: dict[tuple[int, int, torch.device], list[_Kind]] = {}

    def anchors(self, size: tuple[int, int], device: torch.device) -> Tensor:
        """Give the (H * W * A, D) anchors of a map of (H, W) cells; made once per size."""
        key = (*size, device)
        if key not in self._rows:
            grid = self.generator.grid(size, device=device)[0]  # (H, W, S, R, D)
            rotations = grid.shape[3]
            if self.one_per_size:
                kinds = [(grid[:, :, s], s * rotations, s if self.per_class else None) for s in range(grid.shape[2])]
            else:
                kinds = [(grid.flatten(2, 3), 0, None)]
            self._rows[key] = grid.flatten(0, 3)
            self._kinds[key] = [
                _Kind(anchors, AnchorGrid.from_anchors(anchors), first, label) for anchors, first, label in kinds
            ]
        return self._rows[key]

    @torch.no_grad()
    def make(self, size: tuple[int, int], data_samples: Sequence[Det3DDataSample], device: torch.device) -> Targets:
        """Decide what the anchors of a batch are to say.

        Args:
            size: (H, W) of the map.
            data_samples: B samples with `gt_instances_3d`.
            device: Where the anchors are.
        """
        if not self.assigners:
            raise InputError("Anchor3DHead: training needs a train_cfg with an assigner, and there is none")
        anchors = self.anchors(size, device)
        boxes, labels, frames = self._objects(data_samples, device)
        parts = [
            self._assign(assigner, kind, boxes, labels, frames)
            for assigner, kind in zip(self.assigners, self._kinds[(*size, device)], strict=True)
        ]
        positive = torch.cat([part.positive for part in parts])
        objects = torch.cat([part.objects for part in parts])
        mine = anchors.index_select(0, positive % len(anchors))  # (N, D)
        deltas = self.coder.encode(mine, boxes.index_select(0, objects))
        # Not the object's own heading, but what decoding would give: so the published checkpoints were trained.
        heading = limit_period(deltas[:, 6] + mine[:, 6] - self.dir_offset, self.dir_limit_offset, 2 * math.pi)
        counts = torch.bincount(positive // len(anchors), minlength=len(data_samples))
        return Targets(
            positive=positive,
            labels=labels.index_select(0, objects),
            deltas=deltas,
            bins=torch.floor(heading / math.pi).long().clamp(0, 1),
            ignored=torch.cat([part.ignored for part in parts]),
            total=counts.clamp(min=1).sum(),
        )

    def _objects(self, data_samples: Sequence[Det3DDataSample], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (K, D), labels (K,) and frames (K,) of all objects of known classes in the batch."""
        boxes, labels, frames = [], [], []
        for frame, sample in enumerate(data_samples):
            truth = sample.gt_instances_3d
            rows = truth.bboxes_3d.tensor.to(device)
            if len(rows) and rows.shape[1] != self.coder.code_size:
                raise InputError(
                    f"Anchor3DHead: boxes have {rows.shape[1]} numbers, but bbox_coder.code_size is "
                    f"{self.coder.code_size}"
                )
            boxes.append(rows.reshape(-1, self.coder.code_size))
            labels.append(torch.as_tensor(truth.labels_3d, device=device).long())
            frames.append(torch.full((len(rows),), frame, device=device))
        box, label, frame_of = torch.cat(boxes), torch.cat(labels), torch.cat(frames)
        known = ((label >= 0) & (label < self.num_classes)).nonzero().squeeze(1)
        return box[known], label[known], frame_of[known]

    def _assign(
        self, assigner: Max3DIoUAssigner, kind: _Kind, boxes: Tensor, labels: Tensor, frames: Tensor
    ) -> Assigned:
        """Let one assigner decide on its anchors; the result counts anchors and objects of the whole batch."""
        chosen = torch.arange(len(boxes), device=boxes.device)
        if kind.label is not None:
            chosen = (labels == kind.label).nonzero().squeeze(1)
        if kind.grid is not None and assigner.can_use_grid:
            found = [assigner.assign_grid(kind.grid, boxes[chosen], frames[chosen])]
            begins, owners = [0], [chosen]
        else:
            rows = kind.anchors.flatten(0, 2)
            present = frames[chosen].unique().tolist()
            owners = [chosen[frames[chosen] == frame] for frame in present]
            begins = [frame * len(rows) for frame in present]
            found = [assigner.assign(rows, boxes[own]) for own in owners]
        if not found:
            return Assigned(chosen, chosen, chosen)  # no objects: all three are empty
        each = kind.anchors.shape[2]

        def of_batch(parts: list[Tensor]) -> Tensor:
            index = torch.cat([part + begin for part, begin in zip(parts, begins, strict=True)])
            cell = index // each
            return cell * self.generator.num_base_anchors + kind.first + (index - cell * each)

        return Assigned(
            positive=of_batch([part.positive for part in found]),
            objects=torch.cat([own[part.objects] for own, part in zip(owners, found, strict=True)]),
            ignored=of_batch([part.ignored for part in found]),
        )
