"""Match predictions with ground truth: which are true positives, which false ones, and which objects are missed.

Legend: P predictions · G ground-truth boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from raydet3d.errors import InputError
from raydet3d.ops.iou import rotated_iou_3d
from raydet3d.visual.bev import BoxSet
from raydet3d.visual.canvas import Array


@dataclass(frozen=True)
class MatchRule:
    """When a prediction counts as the detection of an object of its class.

    Args:
        iou: Minimum 3D IoU.
        distance: Maximum distance of the centres on the ground in metres, instead of `iou` (nuScenes' rule).
    """

    iou: float = 0.5
    distance: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise InputError(f"match_iou must be above 0 and at most 1, got {self.iou!r}")
        if self.distance is not None and not self.distance > 0:
            raise InputError(f"match_distance must be above 0 metres, got {self.distance!r}")

    def __str__(self) -> str:
        return f"3D IoU >= {self.iou:g}" if self.distance is None else f"centre distance <= {self.distance:g} m"


DEFAULT_RULE = MatchRule()


@dataclass(frozen=True)
class Matches:
    """Result of matching one frame.

    Args:
        truth_of: (P,) index of the detected ground-truth box; -1 for false positives.
        iou: (P,) 3D IoU with that box; for false positives the largest IoU with any box.
        best_iou: (G,) largest IoU of a ground-truth box with a prediction of any class.
    """

    truth_of: Array
    iou: Array
    best_iou: Array

    def count_errors(self, scores: Array, least: float) -> tuple[int, int]:
        """Return the numbers of missed objects and of false positives among predictions of a minimum score.

        Args:
            scores: (P,) scores.
            least: Minimum score.
        """
        shown = scores >= least
        found = int((self.truth_of[shown] >= 0).sum())
        return len(self.best_iou) - found, int(shown.sum()) - found


def match_boxes(ground_truth: BoxSet, predictions: BoxSet, rule: MatchRule) -> Matches:
    """Match predictions in the order of their scores, each with the best free ground-truth box of its class.

    A minimum score removes the last ones in that order, so it does not change the matches of the others.

    Args:
        ground_truth: Ground truth in the LiDAR's frame.
        predictions: Predictions in the LiDAR's frame.
        rule: Which pairs may match.
    """
    found = torch.from_numpy(np.asarray(predictions.boxes, np.float64)).reshape(-1, 7)
    truth = torch.from_numpy(np.asarray(ground_truth.boxes, np.float64)).reshape(-1, 7)
    iou = rotated_iou_3d(found, truth).numpy()  # (P, G)
    if rule.distance is None:
        quality = np.where(iou >= rule.iou, iou, -np.inf)
    else:
        distance = torch.cdist(found[:, :2], truth[:, :2]).numpy()
        quality = np.where(distance <= rule.distance, -distance, -np.inf)
    quality[predictions.labels[:, None] != ground_truth.labels[None]] = -np.inf
    truth_of = np.full(len(found), -1)
    overlap = iou.max(1, initial=0)
    scores = predictions.scores if predictions.scores is not None else np.zeros(len(found))
    if len(truth):
        for i in np.argsort(-scores, kind="stable"):
            best = int(quality[i].argmax())
            if quality[i, best] > -np.inf:
                truth_of[i], overlap[i] = best, iou[i, best]
                quality[:, best] = -np.inf
    return Matches(truth_of, overlap, iou.max(0, initial=0))
