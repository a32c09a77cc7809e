"""The analysis of an evaluation on nuScenes: curves by matching distance; objects match up to 2 m."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raydet3d.metrics.analysis import Analysis, BoxColumns, Curve, analyse, match_by_score, near_pairs
from raydet3d.metrics.nuscenes_ap import CLASSES, DISTANCES_M, ERROR_DISTANCE_M, RECALLS, Ints, Objects, Scores
from raydet3d.metrics.nuscenes_boxes import FramePose


def analyse_nuscenes(
    scores: Scores, truth: Objects, found: Objects, num_points: Ints, poses: Sequence[FramePose]
) -> Analysis:
    """Analyse an evaluation.

    Args:
        scores: The scores.
        truth: Ground truths that count.
        found: Predictions that count.
        num_points: Points on each ground truth.
        poses: Pose of each frame.
    """
    real, seen = _columns(truth, num_points, poses), _columns(found, np.full(len(found), -1), poses)
    near = near_pairs(real, seen)
    keep = (real.label[near.truth] == seen.label[near.found]) & (near.gap < ERROR_DISTANCE_M)
    match = match_by_score(near.truth[keep], near.found[keep], -near.gap[keep], real.counts, seen.score)
    with_objects = np.bincount(truth.label, minlength=len(CLASSES)) > 0
    curves: list[Curve] = [
        {
            "category": name,
            "level": f"{distance:g} m",
            "ap": round(100 * scores.ap[name][distance], 4),
            "recall": RECALLS[::2].tolist(),
            "precision": scores.precision[name][distance][::2].round(4).tolist(),
        }
        for name, has_any in zip(CLASSES, with_objects.tolist(), strict=True)
        for distance in DISTANCES_M
        if has_any
    ]
    return {
        "title": "nuScenes, matched by the distance of centres; analysis at 2 m",
        "score_name": "NDS, percent",
        "score": 100 * scores.nds,
        "frames": len(poses),
        "curves": curves,
        **analyse(real, seen, match, CLASSES),
    }


def _columns(objects: Objects, num_points: Ints, poses: Sequence[FramePose]) -> BoxColumns:
    """Return objects, which are in the global frame, in the car's axes."""
    rotation = np.array([pose.ego2global[:3, :3] for pose in poses]).reshape(-1, 3, 3)[objects.frame]
    offset = objects.center - np.array([pose.ego2global[:3, 3] for pose in poses]).reshape(-1, 3)[objects.frame]
    return BoxColumns(
        frame=objects.frame,
        label=objects.label,
        center=np.einsum("nij,ni->nj", rotation, offset),
        size=objects.size[:, [1, 0, 2]],
        yaw=objects.yaw - np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
        counts=np.ones(len(objects), bool),
        score=objects.score,
        num_points=num_points,
    )
