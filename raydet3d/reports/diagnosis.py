"""Find likely causes of bad scores in a run: one sentence each, with the numbers and what to check."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np

from raydet3d.config import ConfigValue
from raydet3d.config.differences import Difference
from raydet3d.metrics.analysis import ANY_CLASS, TOLERANCES_M, Analysis, BoxError, calibration_error
from raydet3d.reports.detection_sections import Sizes, format_size
from raydet3d.reports.run_files import RunFiles, is_less_better

DATA_SHARE = 0.3
"""Share of the time waiting for data from which a run is said to wait for its loader."""
FAST_S = 0.01
"""Seconds per iteration below which the share of waiting for data is not reported."""
OFFSET_M = 0.15
"""Mean offset of detected boxes, in metres, from which it is reported."""
MIN_OBJECTS = 10
"""Objects of a class below which nothing is said about it."""
FOUND_AP = 30
"""AP up to `NEAREST_M` from the centre from which objects are said to be found."""
SIZE_GAP = math.log(1.5)
"""How much nearer another class's size has to be, as the sum of the logarithms of ratios."""


def find(run: RunFiles, differences: Mapping[str, Sequence[Difference]], scores: Sequence[str]) -> list[str]:
    """Return what was found, as sentences, the most important first.

    Args:
        run: The run.
        differences: Of its config, by what they are from.
        scores: Names of the metrics that count.
    """
    found = [*_bad_steps(run), *_loss(run), *_learning_rate(differences)]
    if run.analysis is not None:
        errors = run.analysis["errors"]
        causes = [*_anchors(run), *_exchange(run.analysis), *_names(run.analysis), *_shifts(errors)]
        found += [*causes, *_places(run.analysis), *_misses(run.analysis), *_headings(errors)]
        # Wrong sizes and scores follow from the causes above.
        found += [] if causes else [*_wrong_sizes(errors), *_calibration(run.analysis)]
    found += [*_scores(run, scores), *_speed(run), *_restarts(run)]
    return found or ["Nothing stands out."]


def _bad_steps(run: RunFiles) -> Iterator[str]:
    if run.bad_steps:
        yield (
            f"{len(run.bad_steps)} steps were left out because a loss or gradient was not finite (first at iteration "
            f"{run.bad_steps[0]}); the log names the samples and the module. Look at these samples, the learning rate "
            "and clip_grad."
        )


def _loss(run: RunFiles) -> Iterator[str]:
    train = run.scalars.get("train", {})
    loss = train.get("loss")
    if loss is None or np.isfinite(loss).sum() < 6:
        return
    known = np.isfinite(loss)
    values, iterations = loss[known], train["iter"][known]
    part = max(len(values) // 10, 3)
    begin, end = float(np.median(values[:part])), float(np.median(values[-part:]))
    sums = np.cumsum(np.r_[0.0, values])
    means = (sums[part:] - sums[:-part]) / part
    least, most = int(means.argmin()), int(means.argmax())
    if end > 1.1 * begin:
        yield (
            f"The loss rose from {begin:.4g} to {end:.4g}: the run diverged. The learning rate (up to "
            f"{_greatest(run, 'lr'):.3g}) is likely too high."
        )
    elif means[most] > 1.5 * max(begin, means[0]):
        yield (
            f"The loss rose from {begin:.4g} to {means[most]:.4g} at about iteration "
            f"{iterations[most + part - 1]:.0f}: the learning rate (up to {_greatest(run, 'lr'):.3g}) is likely too "
            "high."
        )
    elif end > 1.5 * means[least]:
        yield (
            f"The loss rose again, from {means[least]:.4g} at about iteration {iterations[least + part - 1]:.0f} to "
            f"{end:.4g} at the end: the learning rate (up to {_greatest(run, 'lr'):.3g}) may be too high."
        )
    elif end > 0.95 * begin:
        yield f"The loss has hardly fallen: {begin:.4g} at the begin, {end:.4g} at the end."
    norm = train.get("grad_norm")
    clip = ((run.config.get("optim_wrapper") or {}).get("clip_grad") or {}).get("max_norm")
    if norm is not None and isinstance(clip, int | float) and np.isfinite(norm).any():
        late = float(np.nanmedian(norm[-part:]))
        if late > 10 * clip:
            yield (
                f"The gradient norm is {late:.4g} at the end, and clip_grad.max_norm={clip} cuts it down at nearly "
                "every step: a sign of a learning rate that is too high, or of a limit that is too low."
            )


def _greatest(run: RunFiles, name: str) -> float:
    values = run.scalars.get("train", {}).get(name)
    return math.nan if values is None else float(np.nanmax(values))


def _learning_rate(differences: Mapping[str, Sequence[Difference]]) -> Iterator[str]:
    found: dict[str, str] = {}
    for where, some in differences.items():
        for one in some:
            if one.key.rpartition(".")[2] == "lr" and one.key.startswith("optim_wrapper"):
                with suppress(ValueError, ZeroDivisionError):
                    ratio = float(one.now) / float(one.before)
                    if ratio > 5 or ratio < 0.2:
                        found.setdefault(one.key, f"{one.now}, {ratio:.3g} times the {one.before} of {where}")
    for key, text in found.items():
        yield f"{key} is {text}."


def _taken_for(analysis: Analysis) -> dict[int, int]:
    """Return the classes that are mostly found as another one, by index."""
    classes, counts = analysis["confusion"]["classes"], np.array(analysis["confusion"]["counts"])
    found = counts[:, : len(classes)]
    return {
        row: int(found[row].argmax())
        for row in range(len(classes))
        if found[row].sum() >= MIN_OBJECTS and found[row].argmax() != row and found[row].max() >= 0.5 * found[row].sum()
    }


def _exchange(analysis: Analysis) -> Iterator[str]:
    classes, taken_for = analysis["confusion"]["classes"], _taken_for(analysis)
    if len(taken_for) > 1 and set(taken_for) == set(taken_for.values()):
        names = ", ".join(f"{classes[row]} as {classes[other]}" for row, other in taken_for.items())
        yield (
            f"Classes are exchanged as a whole ({names}): compare the order of the class names in the data set "
            "(metainfo.classes), in the head (anchor sizes, tasks) and in the checkpoint."
        )


def _misses(analysis: Analysis) -> Iterator[str]:
    classes, counts = analysis["confusion"]["classes"], np.array(analysis["confusion"]["counts"])
    for row, other in _taken_for(analysis).items():
        found = counts[row, : len(classes)]
        yield (
            f"{found[other]} of the {found.sum()} objects of class {classes[row]} that have a detection near them are "
            f"found as {classes[other]}."
        )
    missed = [
        f"{row[-1]} of {row.sum()} {name}"
        for name, row in zip(classes, counts, strict=False)
        if row.sum() >= MIN_OBJECTS and row[-1] > 0.7 * row.sum()
    ]
    if missed:
        yield f"Objects without a detection within 2 m: {', '.join(missed)}."


def class_anchors(run: RunFiles) -> Sizes:
    """Return the sizes of the anchors by class; empty for heads that do not assign one size to each class."""
    classes = run.analysis["confusion"]["classes"] if run.analysis is not None else []
    for listed in _sizes_per_class(run.config.get("model")):
        with suppress(ValueError, TypeError):
            sizes = np.array(listed, float)
            if sizes.shape == (len(classes), 3) and (sizes > 0).all():
                return dict(zip(classes, sizes.tolist(), strict=True))
    return {}


def _sizes_per_class(config: ConfigValue) -> Iterator[ConfigValue]:
    if isinstance(config, Mapping):
        generator = config.get("anchor_generator")
        if config.get("assign_per_class") and isinstance(generator, Mapping):
            yield generator.get("sizes")
        for inner in config.values():
            yield from _sizes_per_class(inner)


def _resembles(size: Sequence[float], others: Sizes, own: str) -> str | None:
    """Return the name whose size is clearly nearer than that of `own`, if there is one."""
    with np.errstate(all="ignore"):  # a model that has diverged predicts sizes of 0, infinity and NaN
        gaps = {name: float(np.abs(np.log(np.divide(size, other))).sum()) for name, other in others.items()}
    nearest = min(gaps, key=gaps.__getitem__)
    return nearest if gaps[own] - gaps[nearest] > SIZE_GAP else None


def _anchors(run: RunFiles) -> Iterator[str]:
    anchors, wrong = class_anchors(run), []
    for one in run.analysis["sizes"] if run.analysis is not None and anchors else ():
        name, size = one["category"], one["size"]
        other = _resembles(size, anchors, name) if one["objects"] >= MIN_OBJECTS else None
        # Detections that fit the anchors: the head was trained well, and the objects of validation are named otherwise.
        is_learned = one["detections"] >= MIN_OBJECTS and _resembles(one["detected"], anchors, name) is None
        if other and not is_learned:
            wrong.append(
                f"objects of class {name} measure {format_size(size)} m, its anchors {format_size(anchors[name])} m "
                f"(those of {other} would fit)"
            )
    if wrong:
        yield (
            f"Anchors have another order than the classes: {'; '.join(wrong)}. Size i of anchor_generator.sizes (and "
            "range i, assigner i) is that of class i of metainfo.classes; labels of the info file count as well."
        )


def _names(analysis: Analysis) -> Iterator[str]:
    """Compare the sizes of detections with those of objects, and AP of any class with that of the classes."""
    objects = {one["category"]: one["size"] for one in analysis["sizes"] if one["objects"] >= MIN_OBJECTS}
    like = []
    for one in analysis["sizes"]:
        name, size = one["category"], one["detected"]
        if name in objects and one["detections"] >= MIN_OBJECTS:
            other = _resembles(size, objects, name)
            like += [f"{name} measure {format_size(size)} m, as objects of class {other} do"] if other else []
    if like:
        yield (
            f"Detections of class {'; of class '.join(like)}: labels are numbered in two ways. Compare `categories` "
            "and labels of the info files of training and validation, metainfo.classes, and the checkpoint's classes."
        )
    ap = {one["category"]: one["ap"][-1] for one in analysis["tolerance"]}
    any_class = ap.pop(ANY_CLASS, 0)
    mean = sum(ap.values()) / max(len(ap), 1)
    if any_class >= FOUND_AP and mean < 0.5 * any_class:
        yield (
            f"Objects are found under wrong names: AP up to {TOLERANCES_M[-1]:g} m from the centre is {any_class:.0f} "
            f"whatever class is detected, but {mean:.0f} on average over the classes."
        )


def _places(analysis: Analysis) -> Iterator[str]:
    near = TOLERANCES_M.index(0.5)
    lost = [
        f"{one['category']} {one['ap'][-1]:.0f} and {one['ap'][near]:.0f}"
        for one in analysis["tolerance"]
        if one["category"] != ANY_CLASS and one["ap"][-1] >= FOUND_AP and one["ap"][near] < 0.5 * one["ap"][-1]
    ]
    if lost:
        yield (
            f"Objects are found, but not at their places: AP up to {TOLERANCES_M[-1]:g} m from the centre and up to "
            f"{TOLERANCES_M[near]:g} m is {', '.join(lost)}."
        )


def _shifts(errors: Sequence[BoxError]) -> Iterator[str]:
    """Name shifts that are large against the spread, together where all classes have them."""
    shifted = []
    for one in errors:
        parts = [(one["forward"], "forward", "backward"), (one["left"], "left", "right"), (one["up"], "up", "down")]
        large = [(v, pos if v > 0 else neg) for v, pos, neg in parts if abs(v) > max(OFFSET_M, one["spread"])]
        if one["matches"] >= MIN_OBJECTS and large:
            shifted.append(f"{one['category']} " + ", ".join(f"{abs(v):.2f} m {side}" for v, side in large))
    if shifted:
        yield (
            f"Boxes are shifted against the objects: {'; '.join(shifted)} (medians). A shift that all classes share "
            "points to calibration or labels that differ between training and validation (lidar2cam, lidar2ego, "
            "cam2img), or to the box convention (bottom or centre, see the z of anchors); one of a single class to its "
            "anchors."
        )


def _headings(errors: Sequence[BoxError]) -> Iterator[str]:
    for one in errors:
        if one["own"] >= MIN_OBJECTS and one["yaw"] is not None and one["yaw"] > 60:
            yield (
                f"Headings of {one['category']} are off by {one['yaw']:.0f} degrees (median). After a short training "
                "they may not be learned yet (about 90 degrees); else check the convention of yaw."
            )


def _wrong_sizes(errors: Sequence[BoxError]) -> Iterator[str]:
    for one in (one for one in errors if one["own"] >= MIN_OBJECTS):
        wrong = [
            f"{n} {r:.2f}"
            for n, r in zip(("length", "width", "height"), one["size"], strict=True)
            if not 0.75 < r < 1.33
        ]
        if wrong:
            yield f"Boxes of {one['category']} have the wrong size, as a ratio to the object's: {', '.join(wrong)}."


def _calibration(analysis: Analysis) -> Iterator[str]:
    errors = {
        one["category"]: calibration_error(one) for one in analysis["scores"] if sum(one["true"] + one["false"]) >= 50
    }
    wrong = [f"{name} (calibration error {error:.2f})" for name, error in errors.items() if error > 0.2]
    if wrong:
        yield (
            f"Scores do not say how often a detection is true: {', '.join(wrong)}. Choose thresholds by the curves, "
            "and do not read scores as probabilities."
        )


def _scores(run: RunFiles, scores: Sequence[str]) -> Iterator[str]:
    for name in scores[:1]:
        values = run.scalars.get("val", {}).get(name)
        if values is None or np.isfinite(values).sum() < 3:
            continue
        known = values[np.isfinite(values)]
        best, last = (known.min() if is_less_better(name) else known.max()), known[-1]
        if abs(last - best) > 0.1 * abs(best):
            yield f"{name} was {best:.4g} at its best, and is {last:.4g} at the last validation."
        if not known.any():
            yield f"{name} is 0 at every validation."


def data_share(run: RunFiles) -> float | None:
    """Return the share of the training time that the run waited for data."""
    train = run.scalars.get("train", {})
    if "time" not in train or "data_time" not in train:
        return None
    total = float(np.nansum(train["time"]))
    return float(np.nansum(train["data_time"])) / total if total else None


def _speed(run: RunFiles) -> Iterator[str]:
    share = data_share(run)
    if share is not None and share > DATA_SHARE and np.nanmedian(run.scalars["train"]["time"]) > FAST_S:
        yield (
            f"Training waited for data {100 * share:.0f} % of the time: raise train_dataloader.num_workers, or make "
            "the pipeline cheaper."
        )
    workers = run.scalars.get("workers", {})
    busy = {
        int(key.split("/")[1]): float(np.nanmedian(v)) for key, v in workers.items() if key.endswith("/busy_percent")
    }
    if len(busy) > 1:
        slowest = max(busy, key=busy.__getitem__)
        others = np.median([value for rank, value in busy.items() if rank != slowest])
        if busy[slowest] > 1.5 * others and busy[slowest] - others > 10:
            own = busy[slowest]
            yield f"The workers wait for rank {slowest}: it is busy {own:.0f} % of the time, the others {others:.0f} %."


def _restarts(run: RunFiles) -> Iterator[str]:
    if run.restarts:
        redone = sum(start.get("redone", 0) for start in run.starts)
        whys = dict.fromkeys(start.get("why") or "the command was started again" for start in run.restarts)
        count = f"{len(run.restarts)} restart{'' if len(run.restarts) == 1 else 's'}"
        yield f"{count} ({'; '.join(whys)}); {redone or 'no'} iterations were done twice."
