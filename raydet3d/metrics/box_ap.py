"""`Box3DAPMetric` and `CenterDistanceAPMetric`: average precision of LiDAR boxes of any classes, without images.

Ground truth comes with the samples (`eval_ann_info` of a data set in test mode), so that no info file is named twice.
Legend: K objects · N predictions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from typing_extensions import override

from raydet3d.errors import InputError, nearest_or_all
from raydet3d.metrics import kitti_ap, nuscenes_ap
from raydet3d.metrics.analysis import Analysis, BoxColumns, Curve, analyse, match_by_score, near_pairs
from raydet3d.metrics.base import BaseMetric
from raydet3d.metrics.kitti_objects import Objects, measure
from raydet3d.metrics.text_table import align_columns
from raydet3d.registry import METRICS
from raydet3d.structures import Boxes3D, CameraInstance3DBoxes
from raydet3d.structures.sample_types import PlainSample

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Ring = tuple[float, float]

EVERYWHERE: Ring = (0.0, float("inf"))
TITLES = {"3d": "3D", "bev": "BEV"}
ERRORS = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE"}
"""nuScenes' true-positive errors that need no attributes, and the names of their means."""


class FrameEntry(TypedDict):
    """Boxes of a frame.

    Attributes:
        truth: (K, 7 or 9) boxes of the ground truth in the LiDAR frame: bottom centre, sizes, yaw, velocity.
        truth_labels: (K,) their labels.
        truth_points: (K,) LiDAR points in each; -1 where it is not known.
        found: (N, 7 or 9) predicted boxes.
        labels: (N,) their labels.
        scores: (N,) their scores.
    """

    truth: Floats
    truth_labels: Ints
    truth_points: Ints
    found: Floats
    labels: Ints
    scores: Floats


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of all frames, in the order of the frames.

    Args:
        frame: (K,) position of the box's frame.
        label: (K,) label.
        rows: (K, 9) bottom centre, length, width, height, yaw, vx, vy (NaN where it is not known).
        score: (K,) confidence; 0 of ground truth.
        counts: (K,) whether it is in the range of its class and, of ground truth, has enough points.
    """

    frame: Ints
    label: Ints
    rows: Floats
    score: Floats
    counts: Mask

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def distance(self) -> Floats:
        """(K,) horizontal distance from the LiDAR."""
        return np.asarray(np.hypot(self.rows[:, 0], self.rows[:, 1]))

    def within(self, ring: Ring) -> Mask:
        """(K,) whether a box counts and lies in a ring."""
        return np.asarray(self.counts & (self.distance >= ring[0]) & (self.distance < ring[1]))


class BoxMetricArguments(TypedDict, total=False):
    """Arguments of `BoxMetric`."""

    classes: Sequence[str] | None
    ranges: Sequence[Sequence[float]]
    class_range: float | Mapping[str, float] | None
    point_cloud_range: Sequence[float] | None
    min_points: int
    prefix: str | None
    collect_device: str


class BoxMetric(BaseMetric):
    """Collects boxes of all frames in the LiDAR frame, and decides which of them count.

    Args:
        classes: Names to score; all of the data set by default.
        ranges: Rings (least, most) of the distance from the LiDAR, metres, that are scored besides the whole.
        class_range: Distance up to which objects count: a number, or one by class; others count everywhere.
        point_cloud_range: x0, y0, z0, x1, y1, z1, metres; boxes whose bottom centre is outside do not count.
        min_points: LiDAR points that an object of the ground truth must have to count.
        prefix: Prefix of the results' names.
        collect_device: Accepted for compatibility.
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        ranges: Sequence[Sequence[float]] = (),
        class_range: float | Mapping[str, float] | None = None,
        point_cloud_range: Sequence[float] | None = None,
        min_points: int = 1,
        prefix: str | None = None,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        name = type(self).__name__
        for ring in ranges:
            if len(ring) != 2 or not 0 <= ring[0] < ring[1]:
                raise InputError(f"{name}: ranges holds {list(ring)}; a range is two distances (least, most)")
        if point_cloud_range is not None and len(point_cloud_range) != 6:
            raise InputError(f"{name}: point_cloud_range needs 6 numbers, got {list(point_cloud_range)}")
        self.wanted = None if classes is None else [str(one) for one in classes]
        self.rings: list[Ring] = [EVERYWHERE, *((float(near), float(far)) for near, far in ranges)]
        self.class_range = class_range
        self.point_cloud_range = point_cloud_range
        self.min_points = min_points
        self._curves: list[Curve] = []  # over the whole range, of the newest evaluation

    def process(self, data_batch: object, data_samples: Sequence[Mapping[str, object]]) -> None:
        """Append a batch's predictions and ground truth.

        Args:
            data_batch: Not used.
            data_samples: Dicts with `pred_instances_3d` (`bboxes_3d` in the LiDAR frame, `scores_3d`, `labels_3d`) and
                `eval_ann_info` (`gt_bboxes_3d`, `gt_labels_3d` and, where it is known, `num_lidar_pts`).
        """
        for given in data_samples:
            sample = cast(PlainSample, given)
            truth, found = sample.get("eval_ann_info"), sample["pred_instances_3d"]
            if truth is None or "gt_bboxes_3d" not in truth:
                raise InputError(
                    f"{type(self).__name__}: frame {sample.get('sample_idx')} has no ground truth, so there is nothing "
                    "to score; its data set needs test_mode=True and labels"
                )
            labels = _array(truth["gt_labels_3d"]).astype(np.int64)
            entry: FrameEntry = {
                "truth": self._rows(truth["gt_bboxes_3d"]),
                "truth_labels": labels,
                "truth_points": _array(truth.get("num_lidar_pts", np.full(len(labels), -1))).astype(np.int64),
                "found": self._rows(found["bboxes_3d"]),
                "labels": _array(found["labels_3d"]).astype(np.int64),
                "scores": _array(found["scores_3d"]).astype(np.float64),
            }
            self.results.append(entry)

    def _rows(self, boxes: Boxes3D | Tensor | ArrayLike) -> Floats:
        if isinstance(boxes, CameraInstance3DBoxes):
            raise InputError(
                f"{type(self).__name__}: boxes are in a camera's frame; it scores those of the LiDAR frame"
            )
        rows = _array(boxes.tensor if isinstance(boxes, Boxes3D) else boxes).astype(np.float64)
        return rows.reshape(len(rows), rows.shape[1] if rows.ndim == 2 else 7)

    def compute_metrics(self, results: list[FrameEntry]) -> dict[str, float]:
        """Compute the scores and log a table of them.

        Args:
            results: Every frame's entry.
        """
        classes = self._classes()
        truth = self._join([(one["truth"], one["truth_labels"], None) for one in results], classes)
        points = np.concatenate([one["truth_points"] for one in results] or [np.zeros(0, np.int64)])
        truth.counts[:] &= (points < 0) | (points >= self.min_points)
        found = self._join([(one["found"], one["labels"], one["scores"]) for one in results], classes)
        scored = [label for label, name in enumerate(classes) if name in self._scored()]
        scores, table = self._score(truth, found, classes, scored)
        self.logger.info("\n%s", table)
        self.analysis = self._analyse(truth, found, points, len(results), scores)
        without = [classes[label] for label in scored if not (truth.counts & (truth.label == label)).any()]
        if without:
            self.logger.warning(
                "%s: no object of %s counts (range, min_points=%d); its scores are 0 and left out of the means",
                type(self).__name__,
                ", ".join(without),
                self.min_points,
            )
        return scores

    def _analyse(
        self, truth: Boxes, found: Boxes, points: Ints, num_frames: int, scores: Mapping[str, float]
    ) -> Analysis:
        """Analyse an evaluation over the whole range."""
        real, seen = _columns(truth, points), _columns(found, np.full(len(found), -1))
        near = near_pairs(real, seen)
        same = real.label[near.truth] == seen.label[near.found]
        g, d, closeness = self._matching_pairs(truth, found, near.truth[same], near.found[same], -near.gap[same])
        match = match_by_score(g, d, closeness, real.counts, seen.score)
        name, score = next((key, value) for key, value in scores.items() if key.startswith("mAP"))
        return {
            "title": f"{type(self).__name__}, all ranges",
            "score_name": name,
            "score": score,
            "frames": num_frames,
            "curves": self._curves,
            **analyse(real, seen, match, self._classes()),
        }

    @abstractmethod
    def _matching_pairs(
        self, truth: Boxes, found: Boxes, g: Ints, d: Ints, closeness: Floats
    ) -> tuple[Ints, Ints, Floats]:
        """Return the pairs (ground truth, prediction, closeness) that match by the metric's rule.

        Args:
            truth: Ground truths.
            found: Predictions.
            g: Ground truths of pairs of one class whose centres are at most 2 m apart.
            d: Their predictions.
            closeness: Their distances, negative.
        """

    @abstractmethod
    def _score(
        self, truth: Boxes, found: Boxes, classes: Sequence[str], scored: Sequence[int]
    ) -> tuple[dict[str, float], str]:
        """Return the scores of some labels by name, and a table of them."""

    def _join(self, frames: Sequence[tuple[Floats, Ints, Floats | None]], classes: Sequence[str]) -> Boxes:
        """Return the boxes of all frames; those that are not finite or have no size are left out with a warning."""
        counts = [len(labels) for _, labels, _ in frames]
        rows = np.full((sum(counts), 9), np.nan)
        begin = 0
        for boxes, _, _ in frames:
            width = min(boxes.shape[1], 9)
            rows[begin : begin + len(boxes), :width] = boxes[:, :width]
            begin += len(boxes)
        label = np.concatenate([labels for _, labels, _ in frames] or [np.zeros(0, np.int64)])
        if len(label) and not 0 <= label.min() <= label.max() < len(classes):
            raise InputError(
                f"{type(self).__name__}: a label is {label.max()}, but the data set has {len(classes)} classes "
                f"({', '.join(classes)}); the head's num_classes must be the same"
            )
        scores = [np.zeros(len(labels)) if score is None else score for _, labels, score in frames]
        boxes_of_all = Boxes(
            np.repeat(np.arange(len(frames)), counts),
            label,
            rows,
            np.concatenate(scores or [np.zeros(0)]),
            np.isfinite(rows[:, :7]).all(1) & (rows[:, 3:6] > 0).all(1),
        )
        if bad := int((~boxes_of_all.counts).sum()):
            self.logger.warning("%d boxes whose size is not above 0 or that are not finite are left out", bad)
        rows[~boxes_of_all.counts, :7] = (1e6, 1e6, 0.0, 1.0, 1.0, 1.0, 0.0)
        limits = np.array([self._limit(name) for name in classes] or [np.inf])
        boxes_of_all.counts[:] &= boxes_of_all.distance < limits[label]
        if self.point_cloud_range is not None:
            low, high = np.array(self.point_cloud_range, dtype=np.float64).reshape(2, 3)
            boxes_of_all.counts[:] &= ((rows[:, :3] >= low) & (rows[:, :3] <= high)).all(1)
        return boxes_of_all

    def _limit(self, name: str) -> float:
        if isinstance(self.class_range, Mapping):
            return float(self.class_range.get(name, np.inf))
        return np.inf if self.class_range is None else float(self.class_range)

    def _classes(self) -> list[str]:
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise InputError(
                f"{type(self).__name__} needs the data set's class names: dataset_meta=dict(classes=[...])"
            )
        return [str(name) for name in classes]

    def _scored(self) -> list[str]:
        """Return the names of the classes to score."""
        known = self._classes()
        for name in self._named_classes():
            if name not in known:
                raise InputError(
                    f"{type(self).__name__}: the data set has no class {name!r}{nearest_or_all(name, known)}"
                )
        return known if self.wanted is None else self.wanted

    def _named_classes(self) -> list[str]:
        """Return the names that the arguments mention, which the data set must have."""
        return [*(self.wanted or ()), *(self.class_range if isinstance(self.class_range, Mapping) else ())]

    @override
    def names(self) -> list[str] | None:
        if not (self.dataset_meta or {}).get("classes"):
            return None
        classes = self._classes()
        nothing = self._join([], classes)
        scored = [label for label, name in enumerate(classes) if name in self._scored()]
        return [f"{self.prefix}/{key}" for key in self._score(nothing, nothing, classes, scored)[0]]


@METRICS.register_module()
class Box3DAPMetric(BoxMetric):
    """Compute KITTI's average precision by overlap, in 3D and in bird's eye view, of any classes.

    Precision is averaged over 40 (or 11) of 41 score thresholds as KITTI's development kit does it, so that n perfectly
    found objects score (n - 1) / 40 if there are fewer than 41. What does not count (range, points) is neither a true
    nor a false positive, and not missed.

    Args:
        iou_thresholds: Overlaps that a match must exceed: numbers, or numbers by class; 0.5 by default.
        kinds: `3d`, `bev` or both.
        num_recalls: 40 or 11 thresholds to average over.
        **kwargs: Arguments of `BoxMetric`: `classes`, `ranges`, `class_range`, `point_cloud_range`, `min_points`.

    Example:
        `val_evaluator = dict(type='Box3DAPMetric', iou_thresholds=dict(car=[0.7, 0.5]), ranges=[(0, 30), (30, 60)])`
    """

    default_prefix: ClassVar[str | None] = "Box3DAP"

    def __init__(
        self,
        iou_thresholds: float | Sequence[float] | Mapping[str, float | Sequence[float]] = 0.5,
        kinds: Sequence[str] = ("3d", "bev"),
        num_recalls: int = 40,
        **kwargs: Unpack[BoxMetricArguments],
    ) -> None:
        super().__init__(**kwargs)
        by_class = iou_thresholds if isinstance(iou_thresholds, Mapping) else {"": iou_thresholds}
        self.thresholds = {name: _numbers(value) for name, value in by_class.items()}
        for name, values in self.thresholds.items():
            if not values or not all(0 < value < 1 for value in values):
                raise InputError(f"Box3DAPMetric: iou_thresholds of {name or 'all'} must be between 0 and 1")
        if not kinds or not set(kinds) <= set(TITLES):
            raise InputError(f"Box3DAPMetric: kinds is {list(kinds)}; known: {', '.join(TITLES)}")
        if num_recalls not in (11, 40):
            raise InputError(f"Box3DAPMetric: num_recalls must be 11 or 40, got {num_recalls}")
        self.kinds = list(kinds)
        self.num_recalls = num_recalls

    @override
    def _named_classes(self) -> list[str]:
        return [*super()._named_classes(), *filter(None, self.thresholds)]

    @override
    def _score(
        self, truth: Boxes, found: Boxes, classes: Sequence[str], scored: Sequence[int]
    ) -> tuple[dict[str, float], str]:
        real, seen = _in_camera_axes(truth, classes), _in_camera_axes(found, classes)
        overlaps = measure(real, seen, boxes_3d=True)
        self._curves = []
        scores: dict[str, float] = {}
        rows: list[tuple[str, ...]] = []
        for ring in self.rings:
            means: dict[str, list[float]] = {kind: [] for kind in self.kinds}
            for label in scored:
                truth_state = np.where(truth.label == label, np.where(truth.within(ring), 0, 1), -1)
                found_state = np.where(found.label == label, np.where(found.within(ring), 0, 1), -1)
                valid = int((truth_state == 0).sum())
                for least in self.thresholds.get(classes[label], self.thresholds.get("", [0.5])):
                    cells = []
                    for kind in self.kinds:
                        curve = kitti_ap.precision_curve(real, seen, overlaps, truth_state, found_state, kind, least)
                        score = kitti_ap.average(curve.precision)
                        ap = score.ap40 if self.num_recalls == 40 else score.ap11
                        scores[f"{classes[label]}_{TITLES[kind]}_AP{self.num_recalls}_{least:g}{_suffix(ring)}"] = ap
                        cells.append(f"{ap:.2f}")
                        means[kind] += [ap] if valid else []
                        if ring == EVERYWHERE and valid:
                            level = f"{TITLES[kind]} overlap {least:g}"
                            self._curves.append(_curve(classes[label], level, score.ap40, curve.precision[1:]))
                    rows.append((classes[label], _title(ring), str(valid), f"{least:g}", *cells))
            averages = {kind: float(np.mean(values)) if values else 0.0 for kind, values in means.items()}
            scores |= {f"mAP_{TITLES[kind]}{_suffix(ring)}": value for kind, value in averages.items()}
            rows.append(("mean", _title(ring), "", "", *(f"{value:.2f}" for value in averages.values())))
        head = ("", "range", "objects", "IoU >", *(f"{TITLES[kind]} AP{self.num_recalls}" for kind in self.kinds))
        table = "\n".join(["KITTI's AP of LiDAR boxes, percent", *align_columns([head, *rows])])
        return {key: round(value, 4) for key, value in scores.items()}, table

    @override
    def _matching_pairs(
        self, truth: Boxes, found: Boxes, g: Ints, d: Ints, closeness: Floats
    ) -> tuple[Ints, Ints, Floats]:
        classes = self._classes()
        least = [_numbers(self.thresholds.get(name, self.thresholds.get("", 0.5)))[0] for name in classes]
        overlaps = measure(_in_camera_axes(truth, classes), _in_camera_axes(found, classes), boxes_3d=True)
        g, d, value = overlaps.above(self.kinds[0], 0)
        keep = (truth.label[g] == found.label[d]) & (value > np.array(least)[found.label[d]])
        return g[keep], d[keep], value[keep]


@METRICS.register_module()
class CenterDistanceAPMetric(BoxMetric):
    """Compute nuScenes' average precision by the distance of centres, and its true-positive errors, of any classes.

    Boxes that do not count (range, points) are left out before matching, as nuScenes does it.

    Args:
        distances: Distances between centres in the ground plane below which a prediction matches, metres.
        with_velocity: Report the error of velocities too, where boxes have them.
        **kwargs: Arguments of `BoxMetric`: `classes`, `ranges`, `class_range`, `point_cloud_range`, `min_points`.

    Example:
        `val_evaluator = dict(type='CenterDistanceAPMetric', class_range=dict(car=50, pedestrian=40))`
    """

    default_prefix: ClassVar[str | None] = "CenterDistance"

    def __init__(
        self,
        distances: Sequence[float] = nuscenes_ap.DISTANCES_M,
        with_velocity: bool = False,
        **kwargs: Unpack[BoxMetricArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.with_velocity = with_velocity
        self.distances = [float(distance) for distance in distances]
        if not self.distances or min(self.distances) <= 0:
            raise InputError(f"CenterDistanceAPMetric: distances must be above 0, got {list(distances)}")
        self.error_distance = min(self.distances, key=lambda one: abs(one - nuscenes_ap.ERROR_DISTANCE_M))

    @override
    def _score(
        self, truth: Boxes, found: Boxes, classes: Sequence[str], scored: Sequence[int]
    ) -> tuple[dict[str, float], str]:
        self._curves = []
        scores: dict[str, float] = {}
        rows: list[tuple[str, ...]] = []
        errors = [key for key in ERRORS if key != "vel_err" or self.with_velocity]
        for ring in self.rings:
            result = nuscenes_ap.evaluate(
                _around_center(truth, truth.within(ring)),
                _around_center(found, found.within(ring)),
                classes=classes,
                distances=self.distances,
                error_distance=self.error_distance,
            )
            counted = []
            for label in scored:
                name = classes[label]
                valid = int((truth.within(ring) & (truth.label == label)).sum())
                counted += [name] if valid else []
                by_distance = result.ap[name]
                if ring == EVERYWHERE and valid:
                    for distance in self.distances:
                        precision = result.precision[name][distance][1:]
                        self._curves.append(_curve(name, f"{distance:g} m", 100 * by_distance[distance], precision))
                named = {f"{name}_AP_dist_{distance:g}": by_distance[distance] for distance in self.distances}
                named |= {f"{name}_AP": result.class_ap[name]}
                named |= {f"{name}_{key}": result.errors[name][key] for key in errors}
                scores |= {f"{key}{_suffix(ring)}": value for key, value in named.items()}
                rows.append((name, _title(ring), str(valid), *(f"{value:.3f}" for value in named.values())))
            mean = {"mAP": [result.class_ap[name] for name in counted]}
            mean |= {ERRORS[key]: [result.errors[name][key] for name in counted] for key in errors}
            averages = {key: float(np.nanmean(values)) if values else 0.0 for key, values in mean.items()}
            scores |= {f"{key}{_suffix(ring)}": value for key, value in averages.items()}
            blank = [""] * len(self.distances)
            rows.append(("mean", _title(ring), "", *blank, *(f"{value:.3f}" for value in averages.values())))
        distances = [f"AP {distance:g} m" for distance in self.distances]
        head = ("", "range", "objects", *distances, "AP", *(ERRORS[key].removeprefix("m") for key in errors))
        title = f"nuScenes' AP of LiDAR boxes, errors at {self.error_distance:g} m"
        table = "\n".join([title, *align_columns([head, *rows])])
        return {key: round(value, 4) for key, value in scores.items()}, table

    @override
    def _matching_pairs(
        self, truth: Boxes, found: Boxes, g: Ints, d: Ints, closeness: Floats
    ) -> tuple[Ints, Ints, Floats]:
        keep = -closeness < self.error_distance
        return g[keep], d[keep], closeness[keep]


def _curve(name: str, level: str, ap: float, precision: Floats) -> Curve:
    recall = np.arange(1, len(precision) + 1) / len(precision)
    return {
        "category": name,
        "level": level,
        "ap": round(ap, 4),
        "recall": recall.round(4).tolist(),
        "precision": precision.round(4).tolist(),
    }


def _columns(boxes: Boxes, num_points: Ints) -> BoxColumns:
    """Return the boxes around their centres."""
    rows = boxes.rows
    return BoxColumns(
        frame=boxes.frame,
        label=boxes.label,
        center=rows[:, :3] + rows[:, 3:6] * [0, 0, 0.5],
        size=rows[:, 3:6],
        yaw=rows[:, 6],
        counts=boxes.counts,
        score=boxes.score,
        num_points=num_points,
    )


def _in_camera_axes(boxes: Boxes, classes: Sequence[str]) -> Objects:
    """Return the boxes as KITTI's evaluation takes them: x right, y down, z front, without 2D boxes."""
    rows, number = boxes.rows, len(boxes)
    none = np.zeros(number)
    return Objects(
        frame=boxes.frame,
        name=np.array([*classes, ""], dtype=np.str_)[boxes.label],
        truncated=none,
        occluded=none,
        alpha=none,
        bbox=np.zeros((number, 4)),
        size=rows[:, [3, 5, 4]],
        location=np.stack([-rows[:, 1], -rows[:, 2], rows[:, 0]], axis=1),
        yaw=-rows[:, 6] - np.pi / 2,
        score=boxes.score,
    )


def _around_center(boxes: Boxes, keep: Mask) -> nuscenes_ap.Objects:
    """Return some of the boxes as nuScenes' evaluation takes them: around their centre, width before length."""
    rows = boxes.rows[keep]
    return nuscenes_ap.Objects(
        frame=boxes.frame[keep],
        label=boxes.label[keep],
        center=rows[:, :3] + rows[:, 3:6] * [0, 0, 0.5],
        size=rows[:, [4, 3, 5]],
        yaw=rows[:, 6],
        velocity=rows[:, 7:],
        attribute=np.full(len(rows), nuscenes_ap.NO_ATTRIBUTE),
        score=boxes.score[keep],
    )


def _suffix(ring: Ring) -> str:
    return "" if ring == EVERYWHERE else f"_{ring[0]:g}-{ring[1]:g}m"


def _title(ring: Ring) -> str:
    return "all" if ring == EVERYWHERE else f"{ring[0]:g}-{ring[1]:g} m"


def _numbers(value: float | Sequence[float]) -> list[float]:
    return [float(value)] if isinstance(value, int | float) else [float(one) for one in value]


def _array(values: Tensor | ArrayLike) -> NDArray[Any]:
    """Return a tensor, or an array, as an array in host memory."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
