"""nuScenes' detection metrics: average precision by centre distance, true-positive errors, NDS.

Source: Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", 2020, and the published rules of the
detection task (`detection_cvpr_2019`). All boxes are in the global frame.

Legend: N predictions · M objects of the ground truth · P pairs of both in one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

CLASS_RANGE_M = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
"""Distance from the car up to which a class is scored; its keys are the classes in the order of the rules."""

CLASSES = tuple(CLASS_RANGE_M)
DISTANCES_M = (0.5, 1.0, 2.0, 4.0)
"""Distances between centres below which a prediction matches an object."""
ERROR_DISTANCE_M = 2.0
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
MIN_RECALL, MIN_PRECISION = 0.1, 0.1
MAX_BOXES = 500
"""Predictions of a frame that a submission may hold."""
NO_ATTRIBUTE = -1

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision is read."""
_FIRST = round(100 * MIN_RECALL) + 1
# Errors that are not defined: a cone has no heading, and neither it nor a barrier moves or has an attribute.
_UNDEFINED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
_MEAN_AP_WEIGHT = 5


@dataclass
class Objects:
    """Boxes of many frames in the global frame, in the order of the frames.

    Args:
        frame: (N,) number of the frame.
        label: (N,) index in `CLASSES`.
        center: (N, 3) metres.
        size: (N, 3) width, length, height, metres.
        yaw: (N,) radians, counter-clockwise from x.
        velocity: (N, 2) metres a second; NaN where it is not known.
        attribute: (N,) number of the attribute, `NO_ATTRIBUTE` without one.
        score: (N,) confidence; not used for ground truth.
    """

    frame: Ints
    label: Ints
    center: Floats
    size: Floats
    yaw: Floats
    velocity: Floats
    attribute: Ints
    score: Floats

    @classmethod
    def empty(cls) -> Self:
        """Return no boxes."""
        whole, number = np.zeros(0, np.int64), np.zeros(0)
        return cls(whole, whole, np.zeros((0, 3)), np.zeros((0, 3)), number, np.zeros((0, 2)), whole, number)

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Return the boxes of all parts, in order."""
        parts = parts or [cls.empty()]
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    def take(self, index: Ints | Mask) -> Self:
        """Return some of the boxes."""
        return type(self)(*(getattr(self, one.name)[index] for one in fields(self)))

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True)
class Scores:
    """Scores of all classes.

    Args:
        ap: Average precision by class and matching distance.
        errors: True-positive errors by class; NaN where one is not defined.
        precision: (101,) precision at `RECALLS` by class and matching distance.
    """

    ap: dict[str, dict[float, float]]
    errors: dict[str, dict[str, float]]
    precision: dict[str, dict[float, Floats]] = field(default_factory=dict)

    @property
    def class_ap(self) -> dict[str, float]:
        """Average precision of each class, the mean over the matching distances."""
        return {name: float(np.mean(list(by_distance.values()))) for name, by_distance in self.ap.items()}

    @property
    def mean_ap(self) -> float:
        """Mean over the classes."""
        return float(np.mean(list(self.class_ap.values())))

    @property
    def mean_errors(self) -> dict[str, float]:
        """Each error's mean over the classes that define it."""
        return {key: float(np.nanmean([found[key] for found in self.errors.values()])) for key in ERRORS}

    @property
    def nds(self) -> float:
        """nuScenes detection score: mAP and the true-positive scores, weighted 5 to 1 each."""
        scores = sum(max(0.0, 1.0 - error) for error in self.mean_errors.values())
        return (_MEAN_AP_WEIGHT * self.mean_ap + scores) / (_MEAN_AP_WEIGHT + len(ERRORS))


def evaluate(
    truth: Objects,
    found: Objects,
    *,
    classes: Sequence[str] = CLASSES,
    distances: Sequence[float] = DISTANCES_M,
    error_distance: float = ERROR_DISTANCE_M,
) -> Scores:
    """Score predictions.

    Args:
        truth: Ground truth, filtered by range, points and bicycle racks.
        found: Predictions, filtered by range and bicycle racks.
        classes: Names of the labels.
        distances: Matching distances, metres.
        error_distance: The one of them whose matches the true-positive errors are of.
    """
    ap: dict[str, dict[float, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    precision: dict[str, dict[float, Floats]] = {}
    for label, name in enumerate(classes):
        own_truth, own_found = truth.take(truth.label == label), found.take(found.label == label)
        # By descending score; of equal ones the later first.
        own_found = own_found.take(np.lexsort((np.arange(len(own_found)), own_found.score))[::-1])
        pairs = _near_pairs(own_truth, own_found, max(distances))
        ap[name], precision[name] = {}, {}
        for distance in distances:
            match = _match(pairs, len(own_found), len(own_truth), distance)
            precision[name][distance] = _precision(match, len(own_truth))
            ap[name][distance] = _average_precision(precision[name][distance])
            if distance == error_distance:
                curves = _error_curves(own_truth, own_found, match, np.pi if name == "barrier" else 2 * np.pi)
                errors[name] = _mean_errors(own_found.score, match, len(own_truth), curves)
        errors[name] |= dict.fromkeys(_UNDEFINED.get(name, ()), float("nan"))
    return Scores(ap, errors, precision)


@dataclass(frozen=True)
class _Pairs:
    """Predictions and objects of one frame less than the largest matching distance apart.

    They are sorted by prediction, then distance, then object.
    """

    found: Ints
    truth: Ints
    distance: Floats


def _near_pairs(truth: Objects, found: Objects, largest: float) -> _Pairs:
    order = np.argsort(truth.frame, kind="stable")
    frames = truth.frame[order]
    begin = np.searchsorted(frames, found.frame, side="left")
    count = np.searchsorted(frames, found.frame, side="right") - begin
    i = np.repeat(np.arange(len(found)), count)
    j = order[np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begin, count)]
    difference = found.center[i, :2] - truth.center[j, :2]
    distance = np.sqrt((difference**2).sum(-1))
    near = np.flatnonzero(distance < largest)
    near = near[np.lexsort((j[near], distance[near], i[near]))]
    return _Pairs(i[near], j[near], distance[near])


def _match(pairs: _Pairs, num_found: int, num_truth: int, distance: float) -> Ints:
    """Return the object that each prediction takes, -1 without one: in turn, the nearest that is still free."""
    match = np.full(num_found, -1)
    close = pairs.distance < distance
    taken = bytearray(num_truth)
    last = -1
    for i, j in zip(pairs.found[close].tolist(), pairs.truth[close].tolist(), strict=True):
        if i != last and not taken[j]:
            taken[j] = 1
            match[i] = j
            last = i
    return match


def _precision(match: Ints, num_truth: int) -> Floats:
    """Return the precision at `RECALLS`; 0 beyond the highest recall."""
    hit = match >= 0
    if not hit.any():
        return np.zeros(len(RECALLS))
    true = np.cumsum(hit)
    return np.asarray(np.interp(RECALLS, true / num_truth, true / np.arange(1, len(hit) + 1), right=0))


def _average_precision(precision: Floats) -> float:
    return float(np.maximum(precision[_FIRST:] - MIN_PRECISION, 0).mean()) / (1 - MIN_PRECISION)


def _error_curves(truth: Objects, found: Objects, match: Ints, period: float) -> dict[str, Floats]:
    """Return each error's mean over the first matches, by number of matches."""
    hit = match >= 0
    a, b = truth.take(match[hit]), found.take(hit)
    common = np.minimum(a.size, b.size).prod(-1)
    union = a.size.prod(-1) + b.size.prod(-1) - common
    turn = (a.yaw - b.yaw + period / 2) % period - period / 2
    wrong = (a.attribute != b.attribute).astype(np.float64)
    values = {
        "trans_err": np.sqrt(((b.center[:, :2] - a.center[:, :2]) ** 2).sum(-1)),
        "scale_err": 1 - common / union,
        "orient_err": np.abs(np.where(turn > np.pi, turn - 2 * np.pi, turn)),
        "vel_err": np.sqrt(((b.velocity - a.velocity) ** 2).sum(-1)),
        "attr_err": np.where(a.attribute == NO_ATTRIBUTE, np.nan, wrong),
    }
    return {key: _running_mean(value) for key, value in values.items()}


def _running_mean(values: Floats) -> Floats:
    """Return the mean of the values up to each, without NaN; 1 where all are NaN, 0 before the first that is not."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    count = np.cumsum(known)
    return np.asarray(np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count != 0))


def _mean_errors(score: Floats, match: Ints, num_truth: int, curves: dict[str, Floats]) -> dict[str, float]:
    """Average the errors over the recalls from above 0.1 to the highest that is reached; 1 if that is less."""
    hit = match >= 0
    confidence = np.zeros(len(RECALLS))
    if hit.any():
        confidence = np.interp(RECALLS, np.cumsum(hit) / num_truth, score, right=0)
    reached = np.flatnonzero(confidence)
    last = int(reached[-1]) if len(reached) else 0
    if last < _FIRST:
        return dict.fromkeys(ERRORS, 1.0)
    ascending = score[hit][::-1]
    return {
        key: float(np.interp(confidence[::-1], ascending, curve[::-1])[::-1][_FIRST : last + 1].mean())
        for key, curve in curves.items()
    }
