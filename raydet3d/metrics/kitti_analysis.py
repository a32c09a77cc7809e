"""The analysis of an evaluation on KITTI: curves of the published scores, objects of moderate difficulty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raydet3d.metrics.analysis import Analysis, BoxColumns, Curve, analyse, match_by_score
from raydet3d.metrics.kitti_ap import LEVELS, MIN_HEIGHT, Report, least_overlaps, state_of_truth
from raydet3d.metrics.kitti_objects import Bools, Ints, Objects

LEVEL = 1  # moderate: the difficulty of the headline score


def analyse_kitti(report: Report, num_points: Ints) -> Analysis:
    """Analyse an evaluation of 3D boxes.

    A detection is true if its 3D overlap exceeds the class's strict limit. Detections that are too low in the image
    for the difficulty are never false.

    Args:
        report: The scores.
        num_points: (G,) points on each ground truth, -1 where that is not known.
    """
    truth, found, classes = report.truth, report.found, report.classes
    names = [name.lower() for name in classes]
    state = [state_of_truth(truth, name, LEVEL) for name in classes]
    real = _columns(truth, names, np.logical_or.reduce([one == 0 for one in state]), num_points)
    high = np.abs(found.bbox[:, 3] - found.bbox[:, 1]) >= MIN_HEIGHT[LEVEL]
    seen = _columns(found, names, high, np.full(len(found), -1))
    least = np.array([least_overlaps(name)["strict"][2] for name in classes])
    g, d, value = report.overlaps.above("3d", 0)
    label = seen.label[d]
    # An ignored object of the class, or of its neighbouring class, may be found; other classes' may not.
    fits = np.stack(state)[label, g] >= 0
    keep = fits & (value > least[label])
    match = match_by_score(g[keep], d[keep], value[keep], real.counts, seen.score)
    curves: list[Curve] = [
        {
            "category": name,
            "level": level,
            "ap": round(report.scores[name, "3d", "strict", level].ap40, 4),
            "recall": (np.arange(1, 41) / 40).tolist(),
            "precision": report.curves[name, "3d", "strict", level].precision[1:].round(4).tolist(),
        }
        for name in classes
        for level in LEVELS
    ]
    return {
        "title": "KITTI, 3D boxes, AP over 40 recalls; analysis of objects of moderate difficulty",
        "score_name": "3D AP40 moderate, mean over the classes",
        "score": report.overall("3d", "AP40", "moderate"),
        "frames": report.num_frames,
        "curves": curves,
        **analyse(real, seen, match, classes),
    }


def _columns(objects: Objects, names: Sequence[str], counts: Bools, num_points: Ints) -> BoxColumns:
    """Return objects in the axes forward, left, up of the camera; y of KITTI's boxes is the bottom's, pointing down."""
    x, y, z = objects.location.T
    label = np.full(len(objects), -1)
    for number, name in enumerate(names):
        label[objects.name == name] = number
    return BoxColumns(
        frame=objects.frame,
        label=label,
        center=np.stack([z, -x, objects.size[:, 1] / 2 - y], 1),
        size=objects.size[:, [0, 2, 1]],
        yaw=-objects.yaw - np.pi / 2,
        counts=counts,
        score=objects.score,
        num_points=num_points,
    )
