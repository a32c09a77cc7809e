"""Analyses of evaluations, against slow readings of their definitions on random detections."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from raydet3d.metrics import analysis
from raydet3d.metrics.analysis import BoxColumns

CLASSES = ("Car", "Cyclist", "Pedestrian")
LEAST = 1.0  # a detection of the class matches an object whose centre is nearer than this, metres


def scene(seed: int, frames: int = 12) -> tuple[BoxColumns, BoxColumns]:
    """Random objects, detections near some of them with some classes exchanged, and detections of nothing."""
    rng = np.random.default_rng(seed)

    def columns(rows: list[tuple[int, int, float, float, bool, float, int]]) -> BoxColumns:
        frame, label, x, y, counts, score, points = (np.array(column) for column in zip(*rows, strict=True))
        num = len(rows)
        return BoxColumns(
            frame=frame.astype(np.int64),
            label=label.astype(np.int64),
            center=np.stack([x, y, rng.normal(0, 0.1, num)], 1),
            size=rng.uniform(0.9, 1.1, (num, 3)) * [3.9, 1.6, 1.5],
            yaw=rng.uniform(-3, 3, num),
            counts=counts.astype(bool),
            score=score.astype(float),
            num_points=points.astype(np.int64),
        )

    truth, found = [], []
    for frame in range(frames):
        for _ in range(int(rng.integers(0, 7))):
            label = int(rng.integers(-1, 3))
            x, y = rng.uniform(0, 60), rng.uniform(-15, 15)
            counts = label >= 0 and rng.random() < 0.8
            truth.append((frame, label, x, y, counts, 0.0, int(rng.integers(0, 600))))
            for _ in range(int(rng.integers(0, 3))):
                seen = label if rng.random() < 0.7 and label >= 0 else int(rng.integers(0, 3))
                gap = rng.normal(0, 0.7, 2)
                score = round(float(rng.random()), 2)  # some are equal
                found.append((frame, seen, x + gap[0], y + gap[1], rng.random() < 0.9, score, -1))
        for _ in range(int(rng.integers(0, 3))):
            place = rng.uniform(0, 60), rng.uniform(-15, 15)
            found.append((frame, int(rng.integers(0, 3)), *place, True, round(float(rng.random()), 2), -1))
    return columns(truth), columns(found)


def gap_of(truth: BoxColumns, found: BoxColumns, g: int, d: int) -> float:
    return math.dist(truth.center[g, :2], found.center[d, :2])


def slow_match(truth: BoxColumns, found: BoxColumns) -> list[int]:
    """Each detection, the best score first, takes the closest free object of its class; those that count first."""
    match, taken = [-1] * len(found.frame), set()
    for d in sorted(range(len(found.frame)), key=lambda d: (-found.score[d], d)):
        options = [
            (not truth.counts[g], gap_of(truth, found, g, d), g)
            for g in range(len(truth.frame))
            if truth.frame[g] == found.frame[d] and truth.label[g] == found.label[d] and g not in taken
        ]
        options = [option for option in options if option[1] < LEAST]
        if options:
            match[d] = min(options)[2]
            taken.add(match[d])
    return match


def matched(truth: BoxColumns, found: BoxColumns) -> np.ndarray:
    near = analysis.near_pairs(truth, found)
    keep = (truth.label[near.truth] == found.label[near.found]) & (near.gap < LEAST)
    return analysis.match_by_score(near.truth[keep], near.found[keep], -near.gap[keep], truth.counts, found.score)


def slow_ap(hits: list[tuple[float, bool]], num_objects: int, weight: float = 1.0) -> float:
    """Mean over 40 recalls of the greatest precision at that recall or above.

    Args:
        hits: Score of each true or false detection, and whether it is true.
        num_objects: Objects.
        weight: Of a false one.
    """
    points = []
    tp = fp = 0.0
    for _, is_hit in sorted(hits, key=lambda pair: -pair[0]):
        tp, fp = tp + is_hit, fp + weight * (not is_hit)
        points.append((tp / num_objects, tp / (tp + fp)))
    best = [max([p for r, p in points if r >= number / 40 - 1e-9], default=0.0) for number in range(1, 41)]
    return 100 * sum(best) / 40


@pytest.mark.parametrize("seed", range(6))
def test_matching_equals_a_slow_reading(seed: int) -> None:
    truth, found = scene(seed)
    assert matched(truth, found).tolist() == slow_match(truth, found)


@pytest.mark.parametrize("seed", range(6))
def test_ap_by_distance_and_points_equals_a_slow_reading(seed: int) -> None:
    truth, found = scene(seed)
    match = slow_match(truth, found)
    result = analysis.analyse(truth, found, np.array(match), CLASSES)
    for key, edges in (("distance", analysis.DISTANCES_M), ("points", analysis.NUM_POINTS)):
        groups = {(one["category"], one["low"]): one for one in result[key]}  # type: ignore[literal-required]
        seen = 0
        for label, name in enumerate(CLASSES):
            own = [g for g in range(len(truth.frame)) if truth.counts[g] and truth.label[g] == label]
            value = truth.distance if key == "distance" else truth.num_points
            all_objects = len([g for g in own if value[g] >= edges[0]])
            for low, high in pairwise(edges):
                objects = [g for g in own if low <= value[g] < high]
                if not objects:
                    assert (name, low) not in groups
                    continue
                hits, weight = [], 1.0 if key == "distance" else len(objects) / all_objects
                for d in range(len(found.frame)):
                    if found.label[d] != label:
                        continue
                    if match[d] in objects:
                        hits.append((found.score[d], True))
                    elif match[d] < 0 and found.counts[d] and (key == "points" or low <= found.distance[d] < high):
                        hits.append((found.score[d], False))
                group = groups[name, low]
                assert group["objects"] == len(objects)
                assert group["ap"] == pytest.approx(slow_ap(hits, len(objects), weight), abs=0.006)
                seen += 1
        assert seen == len(groups)


def slow_pairs(truth: BoxColumns, found: BoxColumns, threshold: float) -> list[tuple[int, int]]:
    """Pairs of any class up to 2 m apart, the nearest of all first, each object and detection once."""
    options = sorted(
        (gap_of(truth, found, g, d), g, d)
        for g in range(len(truth.frame))
        for d in range(len(found.frame))
        if truth.frame[g] == found.frame[d] and found.score[d] >= threshold and gap_of(truth, found, g, d) <= 2
    )
    pairs: list[tuple[int, int]] = []
    for _, g, d in options:
        if all(g != i and d != j for i, j in pairs):
            pairs.append((g, d))
    return pairs


def slow_threshold(truth: BoxColumns, found: BoxColumns) -> float:
    """The score of the best F1, where detections of any class find objects of any class up to 2 m."""
    taken: set[int] = set()
    verdict = {}
    for d in sorted(range(len(found.frame)), key=lambda d: (-found.score[d], d)):
        options = [
            (not truth.counts[g], gap_of(truth, found, g, d), g)
            for g in range(len(truth.frame))
            if truth.frame[g] == found.frame[d] and g not in taken and gap_of(truth, found, g, d) <= 2
        ]
        if options:
            taken.add(min(options)[2])
        is_hit = bool(options) and bool(truth.counts[min(options)[2]])
        verdict[d] = (is_hit, not options and bool(found.counts[d]))
    best = (0.0, 0.0)
    for threshold in sorted(set(found.score.tolist()), reverse=True):
        tp = sum(verdict[d][0] for d in verdict if found.score[d] >= threshold)
        fp = sum(verdict[d][1] for d in verdict if found.score[d] >= threshold)
        f1 = 2 * tp / (tp + fp + int(truth.counts.sum()))
        best = max(best, (f1, threshold)) if f1 > best[0] else best
    return best[1]


@pytest.mark.parametrize("seed", range(6))
def test_confusion_equals_a_slow_reading(seed: int) -> None:
    truth, found = scene(seed)
    result = analysis.analyse(truth, found, matched(truth, found), CLASSES)["confusion"]
    threshold = slow_threshold(truth, found)
    assert result["threshold"] == pytest.approx(threshold, abs=5e-5)  # rounded
    pairs = dict(slow_pairs(truth, found, threshold))
    counts = np.zeros((4, 4), int)
    for g in range(len(truth.frame)):
        if truth.counts[g]:
            counts[truth.label[g], found.label[pairs[g]] if g in pairs else 3] += 1
    for d in range(len(found.frame)):
        if found.score[d] >= threshold and found.counts[d] and d not in pairs.values():
            counts[3, found.label[d]] += 1
    assert result["counts"] == counts.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_score_bins_and_calibration_count_true_and_false_detections(seed: int) -> None:
    truth, found = scene(seed)
    match = slow_match(truth, found)
    bins = analysis.analyse(truth, found, np.array(match), CLASSES)["scores"]
    for label, one in enumerate(bins):
        own = [d for d in range(len(found.frame)) if found.label[d] == label]
        true = [d for d in own if match[d] >= 0 and truth.counts[match[d]]]
        false = [d for d in own if match[d] < 0 and found.counts[d]]
        assert sum(one["true"]) == len(true)
        assert sum(one["false"]) == len(false)
        error = 0.0
        for number in range(10):
            in_bin = [d for d in (*true, *false) if min(round(100 * found.score[d]) // 10, 9) == number]
            if in_bin:
                share = len([d for d in in_bin if d in true]) / len(in_bin)
                error += abs(found.score[in_bin].mean() - share) * len(in_bin)
        assert analysis.calibration_error(one) == pytest.approx(error / (len(true) + len(false)), abs=2e-4)


def test_a_shift_of_all_boxes_is_measured() -> None:
    truth, _ = scene(1, frames=40)
    found = replace(
        truth,
        center=truth.center + np.array([0.5, -0.3, 0.2]),
        score=np.full(len(truth.frame), 0.9),
        yaw=truth.yaw + 0.1,
    )
    result = analysis.analyse(truth, found, matched(truth, found), CLASSES)
    assert [one["category"] for one in result["errors"]] == list(CLASSES)
    for one in result["errors"]:
        assert (one["forward"], one["left"], one["up"]) == pytest.approx((0.5, -0.3, 0.2), abs=2e-3)
        assert one["yaw"] == pytest.approx(math.degrees(0.1), abs=0.01)
        assert one["size"] == [1, 1, 1]


def test_sizes_and_headings_are_those_of_detections_of_the_class_itself() -> None:
    truth, _ = scene(1, frames=40)
    is_other = np.arange(len(truth.frame)) % 2 == 0
    found = replace(
        truth,
        label=np.where(is_other, (truth.label + 1) % len(CLASSES), truth.label),
        center=truth.center + np.where(is_other, 0.5, 0.1)[:, None] * np.array([1, 0, 0]),
        size=truth.size * np.where(is_other, 4, 1)[:, None],
        yaw=truth.yaw + np.where(is_other, 1.5, 0.1),
        score=np.full(len(truth.frame), 0.9),
    )
    for one in analysis.analyse(truth, found, matched(truth, found), CLASSES)["errors"]:
        assert 0 < one["own"] < one["matches"]
        assert one["size"] == [1, 1, 1]
        assert one["yaw"] == pytest.approx(math.degrees(0.1), abs=0.01)
        assert 0.1 <= one["forward"] <= 0.5
    exchanged = replace(found, label=(truth.label + 1) % len(CLASSES))
    for one in analysis.analyse(truth, exchanged, matched(truth, exchanged), CLASSES)["errors"]:
        assert (one["own"], one["size"], one["yaw"]) == (0, [], None)


@pytest.mark.parametrize("seed", range(6))
def test_ap_by_tolerance_equals_a_slow_reading(seed: int) -> None:
    truth, found = scene(seed)
    result = {
        one["category"]: one["ap"]
        for one in analysis.analyse(truth, found, matched(truth, found), CLASSES)["tolerance"]
    }
    for label, name in [*enumerate(CLASSES), (None, analysis.ANY_CLASS)]:
        own = [d for d in range(len(found.frame)) if label is None or found.label[d] == label]
        num_objects = int((truth.counts & ((truth.label == label) if label is not None else truth.label >= 0)).sum())
        for limit, ap in zip(analysis.TOLERANCES_M, result[name], strict=True):
            taken: set[int] = set()
            hits = []
            # Objects that do not count are shared by the detections of all classes, so all are matched.
            for d in sorted(range(len(found.frame)), key=lambda d: (-found.score[d], d)):
                options = [
                    (not truth.counts[g], gap_of(truth, found, g, d), g)
                    for g in range(len(truth.frame))
                    if truth.frame[g] == found.frame[d]
                    and (label is None or not truth.counts[g] or truth.label[g] == found.label[d])
                    and g not in taken
                    and gap_of(truth, found, g, d) <= limit
                ]
                if options:
                    taken.add(min(options)[2])
                if d in own and (options or found.counts[d]) and (not options or truth.counts[min(options)[2]]):
                    hits.append((found.score[d], bool(options)))
            assert ap == pytest.approx(slow_ap(hits, num_objects), abs=0.006)


def test_offsets_and_sizes_equal_a_slow_reading() -> None:
    truth, found = scene(4, frames=40)
    result = analysis.analyse(truth, found, matched(truth, found), CLASSES)
    threshold = slow_threshold(truth, found)
    pairs = [(g, d) for g, d in slow_pairs(truth, found, threshold) if truth.counts[g]]
    for label, (name, error, sizes) in enumerate(zip(CLASSES, result["errors"], result["sizes"], strict=True)):
        assert name == error["category"] == sizes["category"]
        for axis, counts in enumerate(error["offsets"]):
            offsets = [found.center[d, axis] - truth.center[g, axis] for g, d in pairs if truth.label[g] == label]
            expected = [0] * 40
            for offset in offsets:
                expected[min(math.floor((offset + 2) / 0.1), 39)] += 1
            assert counts == expected
        objects = [truth.size[g] for g in range(len(truth.frame)) if truth.counts[g] and truth.label[g] == label]
        seen = [
            found.size[d]
            for d in range(len(found.frame))
            if found.counts[d] and found.label[d] == label and found.score[d] >= threshold
        ]
        assert (sizes["objects"], sizes["detections"]) == (len(objects), len(seen))
        assert sizes["size"] == pytest.approx(np.median(objects, 0), abs=0.006)
        assert sizes["detected"] == pytest.approx(np.median(seen, 0), abs=0.006)


def test_exchanged_classes_are_found_as_any_class_only() -> None:
    truth, _ = scene(1, frames=40)
    truth = replace(truth, counts=truth.label >= 0)
    found = replace(
        truth, label=np.where(truth.counts, (truth.label + 1) % 3, -1), score=np.full(len(truth.frame), 0.9)
    )
    result = {
        one["category"]: one["ap"]
        for one in analysis.analyse(truth, found, matched(truth, found), CLASSES)["tolerance"]
    }
    assert result == {"any class": [100] * 4, **dict.fromkeys(CLASSES, [0] * 4)}


def test_nothing_found_and_nothing_to_find() -> None:
    truth, found = scene(2)
    nothing = BoxColumns(*(getattr(found, name)[:0] for name in BoxColumns.__dataclass_fields__))
    for a, b in ((truth, nothing), (nothing, found), (nothing, nothing)):
        result = analysis.analyse(a, b, np.full(len(b.frame), -1), CLASSES)
        assert all(group["ap"] == 0 for group in result["distance"])
        assert sum(map(sum, result["confusion"]["counts"])) == int((a.counts).sum()) + int(b.counts.sum())


def test_scores_and_boxes_that_are_not_finite_do_not_fail() -> None:
    truth, found = scene(3)
    broken = replace(found, score=np.full(len(found.frame), np.nan), center=np.full((len(found.frame), 3), np.nan))
    result = analysis.analyse(truth, broken, np.full(len(found.frame), -1), CLASSES)
    assert all(group["ap"] == 0 for group in result["distance"])
    assert sum(sum(one["false"]) for one in result["scores"]) == int(found.counts.sum())
