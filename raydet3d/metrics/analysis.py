"""Analyse an evaluation's detections: precision by distance and points, confusion, calibration, errors of boxes.

A metric passes its ground truth and predictions as plain columns; what comes back is plain data for `analysis.json`.

Legend: G ground truths · D detections · P pairs of both in one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

RECALLS = np.arange(1, 41) / 40
"""Recalls over which precision is averaged."""
DISTANCES_M = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, np.inf)
NUM_POINTS = (1, 6, 21, 101, 501, np.inf)
NEAREST_M = 2.0
"""Distance between centres, seen from above, up to which a detection may be the nearest one of an object."""
TOLERANCES_M = (0.25, 0.5, 1.0, NEAREST_M)
"""Distances between centres up to which a detection is true, whatever the overlap is."""
ANY_CLASS = "any class"
OFFSETS_M = np.linspace(-NEAREST_M, NEAREST_M, 41)
"""Edges of the bins of offsets."""
SCORE_BINS = 20
CALIBRATION_BINS = 10


class Curve(TypedDict):
    """Precision by recall of one class, as the metric's average precision is computed from."""

    category: str
    level: str
    ap: float
    recall: list[float]
    precision: list[float]


class Group(TypedDict):
    """Average precision of the objects of a class in a range of distances (metres) or numbers of points."""

    category: str
    low: float
    high: float | None
    objects: int
    ap: float


class Confusion(TypedDict):
    """Objects by class (rows, then `background`) and by the class of the nearest detection (columns, then `missed`)."""

    classes: list[str]
    counts: list[list[int]]
    threshold: float


class ScoreBins(TypedDict):
    """Detections of a class by score in bins of equal width from 0 to 1: true and false ones, mean score."""

    category: str
    true: list[int]
    false: list[int]
    mean: list[float]


class Tolerance(TypedDict):
    """Average precision of a class, or of `ANY_CLASS` whatever class was detected, at each of `TOLERANCES_M`."""

    category: str
    ap: list[float]


class ClassSizes(TypedDict):
    """Median length, width and height of the objects of a class, and of the detections that bear its name, metres."""

    category: str
    objects: int
    size: list[float]
    detections: int
    detected: list[float]


class BoxError(TypedDict):
    """Median errors of the nearest detections of the objects of a class: detection minus object.

    Offsets are of detections of any class, in metres in the sensor's axes; `spread` is half of their interquartile
    range along the axis where that is wider. Sizes and headings differ between classes: `size` (ratios of length, width
    and height) and `yaw` (absolute error in degrees) are of the `own` detections that have the object's class, and are
    empty and None without any. `offsets` counts pairs by the offset forward, left and up, in the bins of `OFFSETS_M`;
    larger ones are in the outer bins.
    """

    category: str
    matches: int
    own: int
    forward: float
    left: float
    up: float
    spread: float
    size: list[float]
    yaw: float | None
    offsets: list[list[int]]


class Analysis(TypedDict, total=False):
    """Analysis of an evaluation.

    `epoch` and `iter` are those of a validation of a training; `source` is the checkpoint or the file of predictions of
    any other evaluation.
    """

    title: str
    score_name: str
    score: float
    frames: int
    curves: list[Curve]
    distance: list[Group]
    points: list[Group]
    confusion: Confusion
    scores: list[ScoreBins]
    errors: list[BoxError]
    tolerance: list[Tolerance]
    sizes: list[ClassSizes]
    run: str | None
    epoch: int
    iter: int
    source: str


@dataclass(frozen=True, eq=False)
class BoxColumns:
    """Boxes of many frames.

    Args:
        frame: (N,) number of the frame, ascending.
        label: (N,) index of the class; -1 for others.
        center: (N, 3) metres forward, left and up of the sensor.
        size: (N, 3) length, width, height.
        yaw: (N,) radians, counter-clockwise from forward.
        counts: (N,) of an object, whether it is to be found; of a detection, whether it is false if it matches nothing.
        score: (N,) confidence from 0 to 1; zeros for ground truth.
        num_points: (N,) points on an object, -1 where that is not known.
    """

    frame: Ints
    label: Ints
    center: Floats
    size: Floats
    yaw: Floats
    counts: Mask
    score: Floats
    num_points: Ints

    @property
    def distance(self) -> Floats:
        """(N,) distance from the sensor, seen from above."""
        return np.hypot(self.center[:, 0], self.center[:, 1])


def analyse(truth: BoxColumns, found: BoxColumns, match: Ints, classes: Sequence[str]) -> Analysis:
    """Analyse an evaluation.

    Args:
        truth: G ground truths.
        found: D detections.
        match: (D,) object that each detection found by the metric's rule, -1 without one (see `match_by_score`).
        classes: Names of the labels.
    """
    found = replace(found, score=np.nan_to_num(found.score))  # of a model that has diverged
    is_hit, is_false = verdicts(truth, found, match)
    near = near_pairs(truth, found)
    threshold = best_threshold(truth, found, near)
    pairs = nearest_pairs(near, found.score >= threshold, len(truth.frame))
    return {
        "distance": _by_distance(truth, found, match, is_hit, is_false, classes),
        "points": _by_points(truth, found, match, is_hit, is_false, classes),
        "confusion": confusion(truth, found, pairs, threshold, classes),
        "scores": score_bins(found, is_hit, is_false, classes),
        "errors": box_errors(truth, found, pairs, classes),
        "tolerance": ap_by_tolerance(truth, found, near, classes),
        "sizes": class_sizes(truth, found, found.score >= threshold, classes),
    }


def match_by_score(g: Ints, d: Ints, closeness: Floats, counts: Mask, score: Floats) -> Ints:
    """Match detections to ground truths: in the order of their scores, each takes the closest one that is free.

    Args:
        g: (P,) ground truth of a pair that may match.
        d: (P,) detection of the pair.
        closeness: (P,) greater is closer.
        counts: (G,) ground truths that are to be found; they are taken before others.
        score: (D,) score of each detection.

    Returns:
        (D,) ground truth of each detection, -1 without one.
    """
    order = np.lexsort((g, -closeness, ~counts[g], d, -score[d]))
    match = np.full(len(score), -1)
    taken = bytearray(len(counts))
    last = -1
    for i, j in zip(d[order].tolist(), g[order].tolist(), strict=True):
        if i != last and not taken[j]:
            taken[j] = 1
            match[i] = j
            last = i
    return match


def verdicts(truth: BoxColumns, found: BoxColumns, match: Ints) -> tuple[Mask, Mask]:
    """Return (D,) which detections are true and which are false; others match an object that does not count."""
    is_hit = match >= 0
    is_hit[is_hit] = truth.counts[match[is_hit]]
    return is_hit, (match < 0) & found.counts


def average_precision(is_hit: Mask, is_false: Mask, score: Floats, num_objects: int, weight: float = 1.0) -> float:
    """Return the mean over `RECALLS` of the greatest precision at that recall or above, in percent.

    Args:
        is_hit: (D,) true detections.
        is_false: (D,) false detections.
        score: (D,) scores.
        num_objects: Objects to be found.
        weight: Weight of a false detection.
    """
    if not is_hit.any() or not num_objects:
        return 0.0
    order = np.argsort(-score, kind="stable")
    tp, fp = np.cumsum(is_hit[order]), weight * np.cumsum(is_false[order])
    precision = tp / np.maximum(tp + fp, 1e-9)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(tp / num_objects, RECALLS - 1e-9)
    return float(100 * np.append(best, 0.0)[place].mean())


def _by_distance(
    truth: BoxColumns, found: BoxColumns, match: Ints, is_hit: Mask, is_false: Mask, classes: Sequence[str]
) -> list[Group]:
    """Group objects, with the detections that match them, and false detections by their own distance."""
    place = np.digitize(truth.distance, DISTANCES_M) - 1
    place_found = np.digitize(found.distance, DISTANCES_M) - 1
    place_found[is_hit] = place[match[is_hit]]
    out: list[Group] = []
    for label, name in enumerate(classes):
        for number, (low, high) in enumerate(pairwise(DISTANCES_M)):
            objects = int((truth.counts & (truth.label == label) & (place == number)).sum())
            mine = (found.label == label) & (place_found == number)
            if objects:
                ap = average_precision(is_hit[mine], is_false[mine], found.score[mine], objects)
                out.append(_group(name, low, high, objects, ap))
    return out


def _by_points(
    truth: BoxColumns, found: BoxColumns, match: Ints, is_hit: Mask, is_false: Mask, classes: Sequence[str]
) -> list[Group]:
    """Group objects by points; the false detections count in each group by its share of the objects."""
    place = np.digitize(truth.num_points, NUM_POINTS) - 1
    place_found = np.where(is_hit, place[match] if len(place) else -1, -1)
    out: list[Group] = []
    for label, name in enumerate(classes):
        own = truth.counts & (truth.label == label) & (place >= 0)
        mine = found.label == label
        for number, (low, high) in enumerate(pairwise(NUM_POINTS)):
            objects = int((own & (place == number)).sum())
            if objects:
                hit = is_hit[mine] & (place_found[mine] == number)
                weight = objects / int(own.sum())
                ap = average_precision(hit, is_false[mine], found.score[mine], objects, weight)
                out.append(_group(name, low, high, objects, ap))
    return out


def _group(name: str, low: float, high: float, objects: int, ap: float) -> Group:
    end = None if np.isinf(high) else float(high)
    return {"category": name, "low": float(low), "high": end, "objects": objects, "ap": round(ap, 2)}


@dataclass(frozen=True, eq=False)
class Near:
    """Objects and detections of any class, at most `NEAREST_M` apart.

    Args:
        truth: (P,) ground truth.
        found: (P,) detection.
        gap: (P,) metres between their centres, seen from above.
    """

    truth: Ints
    found: Ints
    gap: Floats


def near_pairs(truth: BoxColumns, found: BoxColumns) -> Near:
    """Find all pairs of an object and a detection of the same frame that are near each other."""
    parts = [Near(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for g, d in _frames(truth, found):
        offset = truth.center[g, None, :2] - found.center[None, d, :2]
        gap = np.hypot(offset[..., 0], offset[..., 1])
        row, column = np.nonzero(gap <= NEAREST_M)
        parts.append(Near(g[row], d[column], gap[row, column]))
    return Near(*(np.concatenate([getattr(part, key) for part in parts]) for key in ("truth", "found", "gap")))


def _frames(truth: BoxColumns, found: BoxColumns) -> Iterator[tuple[Ints, Ints]]:
    """Yield the ground truths and the detections of each frame that has both."""
    frames, first, count = np.unique(truth.frame, return_index=True, return_counts=True)
    begin = np.searchsorted(found.frame, frames, side="left")
    end = np.searchsorted(found.frame, frames, side="right")
    for a, n, b, c in zip(first.tolist(), count.tolist(), begin.tolist(), end.tolist(), strict=True):
        if c > b:
            yield np.arange(a, a + n), np.arange(b, c)


def best_threshold(truth: BoxColumns, found: BoxColumns, near: Near) -> float:
    """Return the score threshold at which detections of any class find objects of any class best, by F1."""
    match = match_by_score(near.truth, near.found, -near.gap, truth.counts, found.score)
    is_hit, is_false = verdicts(truth, found, match)
    if not is_hit.any():
        return 0.0
    order = np.argsort(-found.score, kind="stable")
    score = found.score[order]
    tp, fp = np.cumsum(is_hit[order]), np.cumsum(is_false[order])
    f1 = 2 * tp / (tp + fp + int(truth.counts.sum()))
    f1[:-1][score[:-1] == score[1:]] = -1  # a threshold takes all detections of its score
    return float(score[f1.argmax()])


def nearest_pairs(near: Near, keep: Mask, num_truth: int) -> tuple[Ints, Ints]:
    """Choose pairs so that each object and detection is used once, the nearest pair of all first.

    Args:
        near: The pairs to choose from.
        keep: (D,) detections to use.
        num_truth: Number of ground truths.

    Returns:
        Ground truths and detections of the pairs.
    """
    order = np.lexsort((near.found, near.truth, near.gap))
    order = order[keep[near.found[order]]]
    used_g, used_d = bytearray(num_truth), bytearray(len(keep))
    pairs = []
    for i, j in zip(near.truth[order].tolist(), near.found[order].tolist(), strict=True):
        if not used_g[i] and not used_d[j]:
            used_g[i] = used_d[j] = 1
            pairs.append((i, j))
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def confusion(
    truth: BoxColumns, found: BoxColumns, pairs: tuple[Ints, Ints], threshold: float, classes: Sequence[str]
) -> Confusion:
    """Count each object by the class of its nearest detection.

    Detections near an object that does not count (another class, too hard) are left out.

    Args:
        truth: G ground truths.
        found: D detections.
        pairs: Objects with their nearest detections (see `nearest_pairs`).
        threshold: Least score of these detections.
        classes: Names of the labels.
    """
    (g, d), num = pairs, len(classes)
    counts = np.zeros((num + 1, num + 1), np.int64)
    is_counted = truth.counts & (truth.label >= 0)
    real = is_counted[g]
    np.add.at(counts, (truth.label[g[real]], found.label[d[real]]), 1)
    missed = is_counted.copy()
    missed[g] = False
    counts[:num, num] = np.bincount(truth.label[missed], minlength=num)
    alone = (found.score >= threshold) & found.counts
    alone[d] = False
    counts[num, :num] = np.bincount(found.label[alone], minlength=num)
    return {"classes": list(classes), "counts": counts.tolist(), "threshold": round(threshold, 4)}


def score_bins(found: BoxColumns, is_hit: Mask, is_false: Mask, classes: Sequence[str]) -> list[ScoreBins]:
    """Count true and false detections of each class by score."""
    place = np.clip((found.score * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    out: list[ScoreBins] = []
    for label, name in enumerate(classes):
        mine = found.label == label
        true, false = (np.bincount(place[mine & kind], minlength=SCORE_BINS) for kind in (is_hit, is_false))
        both = mine & (is_hit | is_false)
        total = np.bincount(place[both], found.score[both], minlength=SCORE_BINS)
        mean = np.divide(total, true + false, out=np.zeros(SCORE_BINS), where=true + false > 0)
        out.append({"category": name, "true": true.tolist(), "false": false.tolist(), "mean": mean.round(4).tolist()})
    return out


def ap_by_tolerance(truth: BoxColumns, found: BoxColumns, near: Near, classes: Sequence[str]) -> list[Tolerance]:
    """Compute AP where a detection is true up to a distance from the centre of an object, of its class and of any.

    An object that does not count may be found as any class.
    """
    g, d, num = near.truth, near.found, len(classes)
    is_own = (truth.label[g] == found.label[d]) | ~truth.counts[g]
    real = truth.label[truth.counts & (truth.label >= 0)]
    objects = [*np.bincount(real, minlength=num).tolist(), len(real)]  # the last is any class
    out: list[Tolerance] = [{"category": name, "ap": []} for name in (*classes, ANY_CLASS)]
    for limit in TOLERANCES_M:
        for fits, labels in ((is_own, range(num)), (np.True_, [num])):
            keep = fits & (near.gap <= limit)
            match = match_by_score(g[keep], d[keep], -near.gap[keep], truth.counts, found.score)
            is_hit, is_false = verdicts(truth, found, match)
            for label in labels:
                mine = (found.label == label) | (label == num)
                ap = average_precision(is_hit[mine], is_false[mine], found.score[mine], objects[label])
                out[label]["ap"].append(round(ap, 2))
    return [one for one, number in zip(out, objects, strict=True) if number]


def class_sizes(truth: BoxColumns, found: BoxColumns, keep: Mask, classes: Sequence[str]) -> list[ClassSizes]:
    """Return the median sizes of the objects and of the detections to `keep`, by class."""
    out: list[ClassSizes] = []
    for label, name in enumerate(classes):
        objects = truth.size[truth.counts & (truth.label == label)]
        detections = found.size[keep & found.counts & (found.label == label)]
        size, detected = (np.median(some, 0).round(2).tolist() if len(some) else [] for some in (objects, detections))
        numbers = len(objects), len(detections)
        out.append(
            {"category": name, "objects": numbers[0], "size": size, "detections": numbers[1], "detected": detected}
        )
    return out


def box_errors(
    truth: BoxColumns, found: BoxColumns, pairs: tuple[Ints, Ints], classes: Sequence[str]
) -> list[BoxError]:
    """Return the median errors of the boxes that are nearest to an object, by its class."""
    g, d = pairs
    out: list[BoxError] = []
    for label, name in enumerate(classes):
        mine = (truth.label[g] == label) & truth.counts[g]
        i, j = g[mine], d[mine]
        if not len(i):
            continue
        offset = found.center[j] - truth.center[i]
        inside = np.clip(offset, OFFSETS_M[0], OFFSETS_M[-1])
        forward, left, up = np.median(offset, 0).round(3).tolist()
        low, high = np.percentile(offset[:, :2], [25, 75], axis=0)
        own = found.label[j] == label
        i, j = i[own], j[own]
        turn = (found.yaw[j] - truth.yaw[i] + np.pi) % (2 * np.pi) - np.pi
        ratio = found.size[j] / np.maximum(truth.size[i], 1e-6)
        out.append(
            {
                "category": name,
                "matches": int(mine.sum()),
                "own": len(i),
                "forward": forward,
                "left": left,
                "up": up,
                "spread": round(float((high - low).max() / 2), 3),
                "size": np.median(ratio, 0).round(3).tolist() if len(i) else [],
                "yaw": round(float(np.degrees(np.median(np.abs(turn)))), 2) if len(i) else None,
                "offsets": [np.histogram(axis, OFFSETS_M)[0].tolist() for axis in inside.T],
            }
        )
    return out


def calibration(bins: ScoreBins) -> list[tuple[float, float, int]]:
    """Return (mean score, share of true detections, number) of each `CALIBRATION_BINS`-th of the scores with any."""
    true, false, mean = (np.array(bins[key]) for key in ("true", "false", "mean"))
    number = true + false
    total = (mean * number).reshape(CALIBRATION_BINS, -1).sum(1)
    true, number = (values.reshape(CALIBRATION_BINS, -1).sum(1) for values in (true, number))
    return [(float(t / n), float(h / n), int(n)) for t, h, n in zip(total, true, number, strict=True) if n]


def calibration_error(bins: ScoreBins) -> float:
    """Return the expected calibration error: the mean gap between score and precision, weighted by detections."""
    parts = calibration(bins)
    total = sum(number for *_, number in parts)
    return sum(abs(score - share) * number for score, share, number in parts) / max(total, 1)
