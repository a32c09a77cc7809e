"""KITTI's average precision at 11 and 40 recall thresholds: image boxes, bird's eye view, 3D, orientation (AOS).

The rules are the official development kit's in MMDetection3D's reading; frames and thresholds are processed together
instead of one by one, so that thousands of frames take seconds on a CPU.

Two properties surprise: the 41 precisions are indexed by score threshold and not by recall, so fewer than 41 valid
objects leave zeros in the mean (five perfectly found objects score 10.0); and a ground truth takes the candidate of
the highest score when thresholds are made, but of the largest overlap when precision is counted.

Legend: G ground truths · D detections · P pairs · T thresholds · C candidates of a ground truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raydet3d.metrics.kitti_objects import Bools, Column, Floats, Ints, Objects, Overlaps, measure

LEVELS = ("easy", "moderate", "hard")
MIN_HEIGHT = (40.0, 25.0, 25.0)
"""Image boxes must be higher than this, pixels."""
MAX_OCCLUDED = (0, 1, 2)
MAX_TRUNCATED = (0.15, 0.3, 0.5)
NUM_THRESHOLDS = 41

KINDS = ("bbox", "bev", "3d")
STRICT: Mapping[str, tuple[float, float, float]] = {"car": (0.7, 0.7, 0.7), "van": (0.7, 0.7, 0.7)}
LOOSE: Mapping[str, tuple[float, float, float]] = {"car": (0.7, 0.5, 0.5), "van": (0.7, 0.5, 0.5)}
# All other classes, KITTI's or a user's own.
OTHER_STRICT, OTHER_LOOSE = (0.5, 0.5, 0.5), (0.5, 0.25, 0.25)

# Neighbouring class, whose ground truths count as neither true positives nor misses.
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}


@dataclass(frozen=True)
class Curve:
    """Precision and orientation similarity by threshold; zero beyond the last threshold.

    Args:
        precision: (41,) already the running maximum from the right.
        similarity: (41,) likewise.
    """

    precision: Floats
    similarity: Floats


@dataclass(frozen=True)
class Score:
    """One class at one difficulty, kind and least overlap, in percent."""

    ap11: float
    ap40: float


@dataclass(frozen=True)
class _Taken:
    """Detections matched to ground truths, at each threshold.

    Args:
        truth: (G',) ground truths that had a candidate.
        found: (T, G') the detection, or -1.
    """

    truth: Ints
    found: Ints


@dataclass
class Report:
    """Scores of an evaluation.

    Args:
        classes: Names as the config spells them.
        kinds: Of `bbox`, `bev`, `3d`, `aos`.
        scores: By (class, kind, `strict` or `loose`, difficulty).
        num_valid: Objects that count, by (class, difficulty).
        num_frames: Frames evaluated.
        curves: The curves behind the scores, by the same keys; of orientation, those of `bbox`.
        truth: The ground truths.
        found: The detections.
        overlaps: Of the two.
    """

    classes: tuple[str, ...]
    kinds: tuple[str, ...]
    truth: Objects
    found: Objects
    overlaps: Overlaps
    scores: dict[tuple[str, str, str, str], Score] = field(default_factory=dict)
    num_valid: dict[tuple[str, str], int] = field(default_factory=dict)
    num_frames: int = 0
    curves: dict[tuple[str, str, str, str], Curve] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return the scores by published name, rounded to 4 decimals, without AOS."""
        out: dict[str, float] = {}
        shown = [(kind, title) for kind, title in (("3d", "3D"), ("bev", "BEV"), ("bbox", "2D")) if kind in self.kinds]
        for name in self.classes:
            for points in ("AP11", "AP40"):
                for rule in ("strict", "loose"):
                    for level in LEVELS:
                        for kind, title in shown:
                            score = self.scores[name, kind, rule, level]
                            out[f"KITTI/{name}_{title}_{points}_{level}_{rule}"] = _points(score, points)
        if len(self.classes) > 1:
            for points in ("AP11", "AP40"):
                for level in LEVELS:
                    for kind, title in shown:
                        out[f"KITTI/Overall_{title}_{points}_{level}"] = self.overall(kind, points, level)
        return {key: round(value, 4) for key, value in out.items()}

    def overall(self, kind: str, points: str, level: str) -> float:
        """Return the mean over the classes, strict."""
        return float(np.mean([_points(self.scores[name, kind, "strict", level], points) for name in self.classes]))


def _points(score: Score, points: str) -> float:
    return score.ap11 if points == "AP11" else score.ap40


def least_overlaps(name: str) -> dict[str, tuple[float, float, float]]:
    """Return the minimum overlaps of (image box, bird's eye view, 3D), strict and loose."""
    key = name.lower()
    return {"strict": STRICT.get(key, OTHER_STRICT), "loose": LOOSE.get(key, OTHER_LOOSE)}


def evaluate(
    truth: Sequence[Mapping[str, Column]],
    found: Sequence[Mapping[str, Column]],
    classes: Sequence[str],
    *,
    kinds: Sequence[str] = KINDS,
) -> Report:
    """Score detections against ground truth.

    Args:
        truth: KITTI annotations per frame, all classes and DontCare regions included (see `Objects.from_frames`).
        found: Detections of the same frames in the same order, with `score`.
        classes: Names to score.
        kinds: Of `bbox`, `bev` and `3d`. With `bbox`, AOS is scored too where observation angles are known
            on both sides.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} frames of ground truth, but {len(found)} of detections")
    real, seen = Objects.from_frames(truth), Objects.from_frames(found)
    overlaps = measure(real, seen, boxes_3d="bev" in kinds or "3d" in kinds)
    with_aos = "bbox" in kinds and bool((real.alpha != -10).any() and (seen.alpha != -10).any())
    scored = (*kinds, *(["aos"] if with_aos else []))
    report = Report(tuple(classes), scored, real, seen, overlaps, num_frames=len(truth))
    for name in classes:
        for level, title in enumerate(LEVELS):
            truth_state = state_of_truth(real, name, level)
            found_state = _state_of_found(seen, name, level)
            report.num_valid[name, title] = int((truth_state == 0).sum())
            curves: dict[tuple[str, float], Curve] = {}
            for rule, least in least_overlaps(name).items():
                for kind, bar in zip(KINDS, least, strict=True):
                    if kind not in kinds:
                        continue
                    if (kind, bar) not in curves:
                        curves[kind, bar] = precision_curve(real, seen, overlaps, truth_state, found_state, kind, bar)
                    curve = curves[kind, bar]
                    report.scores[name, kind, rule, title] = average(curve.precision)
                    report.curves[name, kind, rule, title] = curve
                    if kind == "bbox" and with_aos:
                        report.scores[name, "aos", rule, title] = average(curve.similarity)
    return report


def state_of_truth(truth: Objects, name: str, level: int) -> Ints:
    """Return (G,) 0 counts, 1 ignored (neither found nor missed), -1 another class.

    Args:
        truth: G ground truths.
        name: Class that is scored.
        level: 0 easy, 1 moderate, 2 hard; each contains the ones before.
    """
    key = name.lower()
    same = truth.name == key
    hard = (
        (truth.occluded > MAX_OCCLUDED[level])
        | (truth.truncated > MAX_TRUNCATED[level])
        | (truth.bbox[:, 3] - truth.bbox[:, 1] <= MIN_HEIGHT[level])
    )
    ignored = (same & hard) | (truth.name == NEIGHBOURS.get(key, key)) & ~same
    return np.where(ignored, 1, np.where(same, 0, -1))


def _state_of_found(found: Objects, name: str, level: int) -> Ints:
    """Return (D,) 0 counts, 1 ignored, -1 another class; a low box is ignored whatever its class."""
    low = np.abs(found.bbox[:, 3] - found.bbox[:, 1]) < MIN_HEIGHT[level]
    return np.where(low, 1, np.where(found.name == name.lower(), 0, -1))


def precision_curve(
    truth: Objects,
    found: Objects,
    overlaps: Overlaps,
    truth_state: Ints,
    found_state: Ints,
    kind: str,
    least: float,
) -> Curve:
    """Return precision and similarity of one class, difficulty, kind and minimum overlap.

    Args:
        truth: G ground truths.
        found: D detections.
        overlaps: Of all pairs in one frame.
        truth_state: (G,) 0 counts, 1 ignored (neither found nor missed), -1 another class.
        found_state: (D,) 0 counts, 1 ignored, -1 another class.
        kind: `bbox`, `bev` or `3d`.
        least: Overlap that a match must exceed.
    """
    g, d, value = overlaps.above(kind, least)
    keep = (truth_state[g] >= 0) & (found_state[d] >= 0)
    g, d, value = g[keep], d[keep], value[keep]
    counts = found_state[d] == 0

    # Pass 1: each ground truth takes the best-scored detection that is left; scores of true positives.
    order = np.lexsort((d, -found.score[d], g))
    taken = _take(g[order], d[order], truth.frame, found.score, np.array([-np.inf]))
    hits = taken.found[0] >= 0
    hits &= truth_state[taken.truth] == 0
    hits[hits] = found_state[taken.found[0, hits]] == 0
    thresholds = _thresholds(found.score[taken.found[0, hits]], int((truth_state == 0).sum()))

    # Pass 2: at each threshold, the largest overlap among detections that count, else the first ignored one.
    order = np.lexsort((d, np.where(counts, -value, 0.0), ~counts, g))
    taken = _take(g[order], d[order], truth.frame, found.score, thresholds)
    is_match = taken.found >= 0  # (T, G')
    hits = is_match & (found_state[taken.found] == 0) & (truth_state[taken.truth] == 0)
    tp = hits.sum(1)
    angle = truth.alpha[taken.truth] - found.alpha[taken.found]
    similar = np.where(hits, (1.0 + np.cos(angle)) / 2.0, 0.0).sum(1)

    may_be_false = found_state == 0  # (D,)
    if kind == "bbox":
        may_be_false &= ~_in_dont_care(truth, overlaps, len(found), least)
    scores = np.sort(found.score[may_be_false])
    fp = len(scores) - np.searchsorted(scores, thresholds, side="left")
    fp -= (is_match & may_be_false[taken.found]).sum(1)

    precision, similarity = np.zeros(NUM_THRESHOLDS), np.zeros(NUM_THRESHOLDS)
    whole = np.maximum(tp + fp, 1)
    precision[: len(thresholds)] = tp / whole
    similarity[: len(thresholds)] = similar / whole
    return Curve(_from_right(precision), _from_right(similarity))


def _take(g: Ints, d: Ints, frame: Ints, score: Floats, thresholds: Floats) -> _Taken:
    """Match ground truths in the order of their frame, each to its best candidate that is free.

    The n-th ground truths of all frames are matched together, at all thresholds: they do not compete.

    Args:
        g: (P,) ground truth of a pair, ascending.
        d: (P,) detection of a pair; those of one ground truth from best to worst.
        frame: (G,) frame of every ground truth.
        score: (D,) score of every detection.
        thresholds: (T,) minimum scores of detections.
    """
    chooser, first, num = np.unique(g, return_index=True, return_counts=True)
    chosen = np.full((len(thresholds), len(chooser)), -1, np.int64)
    if not chosen.size:
        return _Taken(chooser, chosen)
    detection, column = np.unique(d, return_inverse=True)  # (D',), (P,)
    row = np.repeat(np.arange(len(chooser)), num)
    candidates = np.full((len(chooser), int(num.max())), -1)  # (G', C)
    candidates[row, np.arange(len(g)) - first[row]] = column
    # The padding refers to one more column, which is never free.
    free = np.zeros((len(thresholds), len(detection) + 1), bool)  # (T, D' + 1)
    free[:, :-1] = score[detection] >= thresholds[:, None]

    _, frame_first, frame_row = np.unique(frame[chooser], return_index=True, return_inverse=True)
    turn = np.arange(len(chooser)) - frame_first[frame_row]
    for now in range(int(turn.max()) + 1):
        rows = np.flatnonzero(turn == now)
        options = candidates[rows]  # (R, C)
        is_free = free[:, options]  # (T, R, C)
        best = is_free.argmax(2)  # (T, R)
        pick = options[np.arange(len(rows)), best]
        t, r = np.nonzero(is_free.any(2))
        free[t, pick[t, r]] = False
        chosen[t, rows[r]] = detection[pick[t, r]]
    return _Taken(chooser, chosen)


def _thresholds(scores: Floats, num_valid: int) -> Floats:
    """Return at most 41 scores of true positives, spaced evenly in recall."""
    ordered = np.sort(scores)[::-1]
    kept: list[float] = []
    recall = 0.0
    for i, score in enumerate(ordered.tolist()):
        here, after = (i + 1) / num_valid, (i + 2) / num_valid
        if i < len(ordered) - 1 and after - recall < recall - here:
            continue
        kept.append(score)
        recall += 1.0 / (NUM_THRESHOLDS - 1.0)
    return np.array(kept[:NUM_THRESHOLDS])


def _in_dont_care(truth: Objects, overlaps: Overlaps, num_found: int, least: float) -> Bools:
    """Return (D,) whether more than `least` of a detection's image box is in a DontCare region."""
    g, d, _ = overlaps.above("share", least)
    out = np.zeros(num_found, bool)
    out[d[truth.name[g] == "dontcare"]] = True
    return out


def _from_right(values: Floats) -> Floats:
    """Return the running maximum from the right."""
    return np.maximum.accumulate(values[::-1])[::-1]


def average(values: Floats) -> Score:
    """Return the means over 11 and 40 of the 41 thresholds, in percent."""
    return Score(ap11=float(values[::4].mean() * 100), ap40=float(values[1:].mean() * 100))
