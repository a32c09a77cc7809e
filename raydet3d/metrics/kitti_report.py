"""Text for the log after an evaluation: the table of scores, and explanations of misleading scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from raydet3d.metrics.kitti_ap import (
    LEVELS,
    MAX_OCCLUDED,
    MAX_TRUNCATED,
    MIN_HEIGHT,
    NUM_THRESHOLDS,
    Report,
    least_overlaps,
)
from raydet3d.metrics.kitti_objects import Objects
from raydet3d.metrics.text_table import align_columns

TITLES = {"3d": "3D", "bev": "BEV", "bbox": "2D", "aos": "AOS"}
_OVERLAP_COLUMN = {"bbox": 0, "aos": 0, "bev": 1, "3d": 2}


def table(report: Report, title: str) -> str:
    """Return all scores as aligned text: rows by class, columns by difficulty, AP40 before AP11."""
    short = ("easy", "mod.", "hard")
    head = ("", "", "IoU >", *(f"AP40 {level}" for level in short), *(f"AP11 {level}" for level in short))
    rows: list[tuple[str, ...]] = []
    for name in report.classes:
        counts = [str(report.num_valid[name, level]) for level in LEVELS]
        rows.append((name, "objects", "", *counts, "", "", ""))
        seen = set()
        for rule, least in least_overlaps(name).items():
            for kind, label in TITLES.items():
                bar = least[_OVERLAP_COLUMN[kind]]
                if kind not in report.kinds or (kind, bar) in seen:
                    continue
                seen.add((kind, bar))
                scores = [report.scores[name, kind, rule, level] for level in LEVELS]
                numbers = [f"{s.ap40:.2f}" for s in scores] + [f"{s.ap11:.2f}" for s in scores]
                rows.append(("", label, f"{bar:.2f}", *numbers))
    if len(report.classes) > 1:
        for kind, label in TITLES.items():
            if kind in report.kinds:
                numbers = [f"{report.overall(kind, p, lv):.2f}" for p in ("AP40", "AP11") for lv in LEVELS]
                rows.append(("Overall" if label == "3D" else "", label, "strict", *numbers))
    aligned = align_columns([head, *rows], num_names=2)
    rule_line = "-" * max(map(len, aligned))
    lines = [f"KITTI AP of {title}, percent, {report.num_frames} frames", rule_line, aligned[0]]
    for row, line in zip(rows, aligned[1:], strict=True):
        if row[0]:
            lines.append(rule_line)
        lines.append(line)
    return "\n".join([*lines, rule_line])


def few_objects(report: Report) -> str | None:
    """Return a sentence if a class has objects, but fewer than the 41 that a score of 100 needs; else None."""
    parts = []
    for name in report.classes:
        counts = [(level, report.num_valid[name, level]) for level in LEVELS]
        if any(num < NUM_THRESHOLDS for _, num in counts) and counts[-1][1]:
            each = ", ".join(f"{level} {num}" for level, num in counts if num < NUM_THRESHOLDS)
            parts.append(f"{name} ({each})")
    if not parts:
        return None
    return (
        f"Fewer than {NUM_THRESHOLDS} valid objects for {', '.join(parts)}: KITTI's rules then keep even perfect "
        "detections below 100, at (n - 1) / 40 for n objects in AP40."
    )


def all_ignored(report: Report, truth: Objects) -> str | None:
    """Return a sentence with the reasons if every object of a class is ignored; else None.

    Args:
        report: The evaluation.
        truth: Its ground truth.
    """
    parts = []
    for name in report.classes:
        if report.num_valid[name, LEVELS[-1]]:
            continue
        same = truth.name == name.lower()
        if same.any():
            height = truth.bbox[same, 3] - truth.bbox[same, 1]
            reasons = [
                (height <= 0, "no 2D box"),
                (height <= MIN_HEIGHT[-1], f"a 2D box of at most {MIN_HEIGHT[-1]:.0f} pixels height"),
                (truth.occluded[same] > MAX_OCCLUDED[-1], f"occluded > {MAX_OCCLUDED[-1]}"),
                (truth.truncated[same] > MAX_TRUNCATED[-1], f"truncated > {MAX_TRUNCATED[-1]}"),
            ]
            counts: Counter[str] = Counter()
            for row in range(int(same.sum())):
                counts[next(why for applies, why in reasons if applies[row])] += 1
            why = ", ".join(f"{num} with {reason}" for reason, num in counts.items())
            parts.append(f"{name}: all {int(same.sum())} are ignored ({why})")
        else:
            names = Counter(str(other) for other in truth.name if other != "dontcare")
            there = ", ".join(f"{other} {num}" for other, num in names.most_common(6)) or "none at all"
            parts.append(f"{name}: no object has this name (there are: {there})")
    if not parts:
        return None
    which = "every ground truth" if len(parts) == len(report.classes) else "every ground truth of some classes"
    return f"AP is 0 because {which} is out of the count: {'; '.join(parts)}."


def all_left_out(num: int, reasons: Counter[str], limit_range: Sequence[float]) -> str | None:
    """Return a sentence if there are predictions, but none inside range and image; else None.

    Args:
        num: Number of predictions.
        reasons: Number left out because of `range` or `image`.
        limit_range: The range.
    """
    if not num or reasons["range"] + reasons["image"] < num:
        return None
    return (
        f"AP is 0 because all {num} predictions are left out: {reasons['range']} have their bottom centre outside "
        f"pcd_limit_range {list(limit_range)}, {reasons['image']} project outside the image."
    )
