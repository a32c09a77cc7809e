"""Find sections of a config that contradict each other, without building anything.

`find_contradictions` reads the resolved config as plain data. An *error* is a pair of values with which training or
evaluation must go wrong (labels of one class taken for another's, a loop without end, targets on another grid); a
*warning* is a pair with which it may. Types that are not known here are passed over, so that a project's own models
are never refused. What concerns the model's geometry is in `model_consistency.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.registry import DATA_SAMPLERS, DATASETS
from raydet3d.runtime.contradiction import Contradiction, Section, error, short, sub_sections, type_name, warning
from raydet3d.runtime.model_consistency import find_model_contradictions

MODES = ("train", "val", "test")
# Data sets that a metric can score; a metric or data set that is not listed is passed over.
_METRICS = {
    "KittiMetric": {"KittiDataset", "TownDataset"},
    "NuScenesMetric": {"NuScenesDataset"},
    "WaymoMetric": {"WaymoDataset"},
    "LyftMetric": {"LyftDataset"},
}
_SCORED_DATASETS = frozenset().union(*_METRICS.values())
# Parts of a two-stage image detector, whose classes are not the data set's.
_IMAGE_PARTS = ("img_",)
_HEADS = ("bbox_head", "pts_bbox_head", "rpn_head", "roi_head", "mask_head", "semantic_head", "point_head")
# Hooks and schedulers that wait for a validation's score.
_SCORE_READERS = ("EarlyStoppingHook",)


def check_consistency(cfg: Mapping[str, Any]) -> None:
    """Refuse a config whose sections contradict each other.

    Raises:
        InputError: They do; one sentence names both places, and how many further contradictions there are.
    """
    errors = [found for found in find_contradictions(cfg) if found.is_error]
    if errors:
        more = f" (and {len(errors) - 1} more contradictions)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0].message}{more}")


def warn_of_contradictions(cfg: Mapping[str, Any]) -> None:
    """Log what may be a mistake, one line each."""
    for found in find_contradictions(cfg):
        if not found.is_error:
            get_logger().warning("config: %s", found.message)


def find_contradictions(cfg: Mapping[str, Any]) -> list[Contradiction]:
    """Return all contradictions of a config, errors first."""
    root = Section("", cfg)
    found = [
        *_check_class_lists(root),
        *_check_samplers(root),
        *_check_validation(root),
        *_check_metrics(root),
        *_check_sharding(root),
    ]
    if (model := root.section("model")) is not None:
        classes = next((found for mode in MODES for found in _class_lists(root, mode)), None)
        found += _check_heads(root, model)
        found += find_model_contradictions(root, model, classes)
    return sorted(dict.fromkeys(found), key=lambda one: not one.is_error)


# ---------------------------------------------------------------- class lists


def datasets_of(section: Section | None) -> Iterator[Section]:
    """Yield the innermost data sets of a loader's `dataset`, through wrappers such as RepeatDataset."""
    if section is None:
        return
    inner = [*section.sections("dataset"), *section.sections("datasets")]
    if not inner:
        yield section
    for one in inner:
        yield from datasets_of(one)


def _loaders(root: Section, mode: str) -> Iterator[Section]:
    yield from root.sections(f"{mode}_dataloader")


def _datasets(root: Section, mode: str) -> Iterator[Section]:
    for loader in _loaders(root, mode):
        yield from datasets_of(loader.section("dataset"))


def _classes_of(dataset: Section) -> tuple[str, tuple[str, ...]] | None:
    """Return where a data set's class names are, and the names; None where the config does not say."""
    metainfo = dataset.section("metainfo")
    for key in ("classes", "CLASSES"):
        names = _names(metainfo.get(key)) if metainfo is not None else ()
        if names:
            return f"{dataset.path}.metainfo.{key}", names
    kind = dataset.get("type")
    known = DATASETS.get(type_name(kind)) if type_name(kind) in DATASETS else None
    names = _names(getattr(known, "METAINFO", {}).get("classes"))
    return (f"{dataset.path} ({type_name(kind)}'s own classes)", names) if names else None


def _class_lists(root: Section, mode: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for dataset in _datasets(root, mode):
        if (found := _classes_of(dataset)) is not None:
            yield found


def _names(value: object) -> tuple[str, ...]:
    """Return a list of names, or nothing for any other value."""
    is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return tuple(value) if is_list and isinstance(value, list | tuple) else ()


def _check_class_lists(root: Section) -> Iterator[Contradiction]:
    """Compare the class lists of data sets with each other and with those of their transforms."""
    lists = [found for mode in MODES for found in _class_lists(root, mode)]
    for place, names in lists:
        if len(set(names)) < len(names):
            yield error(f"{place}={short(names)} names a class twice; each class has one label")
    for place, names in lists[1:]:
        first_place, first = lists[0]
        if names != first:
            yield error(
                f"{place}={short(names)} differs from {first_place}={short(first)}; labels are positions in this list, "
                "so all data sets of a run need the same one"
            )
    for mode in MODES:
        for dataset in _datasets(root, mode):
            known = _classes_of(dataset)
            if known is not None:
                for transform in _transforms(dataset.sections("pipeline")):
                    yield from _check_transform_classes(transform, *known)


def _transforms(steps: Iterator[Section]) -> Iterator[Section]:
    """Yield the transforms of a pipeline, those inside of others too."""
    for step in steps:
        yield step
        yield from _transforms(step.sections("transforms"))


def _check_transform_classes(transform: Section, place: str, names: tuple[str, ...]) -> Iterator[Contradiction]:
    """Check the class lists of a transform against the data set's."""
    kind = type_name(transform.get("type"))
    listed = _names(transform.get("classes"))
    if kind == "ObjectNameFilter" and listed != names[: len(listed)]:
        yield error(
            f"{transform.path}.classes={short(listed)} does not begin like {place}={short(names)}; ObjectNameFilter "
            "keeps labels by position, so it would keep other classes than it names"
        )
    sampler = transform.section("db_sampler")
    if sampler is None:
        return
    groups = sampler.get("sample_groups")
    drawn = [name for group in (groups if isinstance(groups, list | tuple) else [groups or {}]) for name in group]
    listed = _names(sampler.get("classes")) or tuple(drawn)
    key = "classes" if _names(sampler.get("classes")) else "sample_groups (no classes are given)"
    for name in drawn:
        if name not in names:
            yield error(f"{sampler.path}.sample_groups pastes {name!r}, which is not in {place}={short(names)}")
        elif name not in listed:
            yield error(f"{sampler.path}.sample_groups pastes {name!r}, which is not in its {key}={short(listed)}")
        elif listed.index(name) != names.index(name):
            yield error(
                f"{sampler.path}.{key}={short(listed)} numbers {name!r} {listed.index(name)}, but "
                f"{place}={short(names)} numbers it {names.index(name)}; pasted objects would get another label"
            )
            return


def _check_heads(root: Section, model: Section) -> Iterator[Contradiction]:
    """Compare `num_classes` and task lists of the heads with the data set's classes."""
    place, names = next(((place, names) for mode in MODES for place, names in _class_lists(root, mode)), ("", ()))
    if not names:
        return
    for head in sub_sections(model):
        words = head.path.split(".")
        if any(word.startswith(_IMAGE_PARTS) for word in words) or not any(word in _HEADS for word in words):
            continue
        number = head.get("num_classes")
        # Proposal and refinement stages may tell objects from background only, as PointRCNN's do.
        is_agnostic = number == 1 and any(word in ("rpn_head", "roi_head") for word in words)
        if isinstance(number, int) and number != len(names) and not is_agnostic:
            yield error(
                f"{head.path}.num_classes={number}, but {place}={short(names)} has {len(names)} "
                f"{'class' if len(names) == 1 else 'classes'}"
            )
        yield from _check_tasks(head, place, names)


def _check_tasks(head: Section, place: str, names: tuple[str, ...]) -> Iterator[Contradiction]:
    """Check the tasks of a CenterHead (or a similar head), whose classes are numbered one task after the other."""
    listed: list[str] = []
    for task in head.sections("tasks"):
        own = _names(task.get("class_names"))
        if not own:
            return
        number = task.get("num_class", task.get("num_classes"))
        if isinstance(number, int) and number != len(own):
            yield error(f"{task.path}: num_class={number}, but class_names={short(own)} has {len(own)}")
        listed += own
    if listed and type_name(head.get("type")) == "CenterHead" and tuple(listed) != names:
        yield error(
            f"{head.path}.tasks numbers the classes {short(listed)}, {place}={short(names)}; the order must be the same"
        )
    elif listed and set(listed) != set(names):
        yield error(f"{head.path}.tasks has the classes {short(listed)}, {place}={short(names)}")


# ---------------------------------------------------------------- loops and samplers


def _is_endless(sampler: Section | None) -> bool:
    if sampler is None:
        return False
    name = type_name(sampler.get("type"))
    known = DATA_SAMPLERS.get(name) if name in DATA_SAMPLERS else None
    return bool(getattr(known, "endless", "Infinite" in name))


def _loop_kind(train_cfg: Section | None) -> str:
    """Return `epoch`, `iter`, or an empty string for a loop that is not known here."""
    if train_cfg is None:
        return ""
    name = type_name(train_cfg.get("type"))
    if name in ("EpochBasedTrainLoop", "IterBasedTrainLoop"):
        return "epoch" if name == "EpochBasedTrainLoop" else "iter"
    return "" if name else ("epoch" if train_cfg.get("by_epoch", True) else "iter")


def _check_samplers(root: Section) -> Iterator[Contradiction]:
    """Refuse samplers without end where a loop waits for their end."""
    kind = _loop_kind(root.section("train_cfg"))
    for mode in MODES:
        for loader in _loaders(root, mode):
            if not (_is_endless(loader.section("sampler")) or _is_endless(loader.section("batch_sampler"))):
                continue
            if loader.get("num_batch_per_epoch") is not None:
                continue
            if mode != "train":
                yield error(
                    f"{loader.path}.sampler never ends and {mode}_cfg waits for its end; use type='DefaultSampler'"
                )
            elif kind == "epoch":
                yield error(
                    f"{loader.path}.sampler never ends, so train_cfg's epochs would not either; use "
                    "type='DefaultSampler', or train_cfg=dict(by_epoch=False, max_iters=...)"
                )


def _check_validation(root: Section) -> Iterator[Contradiction]:
    """Compare the validation's times with the end of training, and with what waits for its scores."""
    train_cfg = root.section("train_cfg")
    kind = _loop_kind(train_cfg)
    if train_cfg is None or not kind:
        return
    key = f"max_{kind}s"
    limit = train_cfg.get(key, train_cfg.get("max_epochs") if kind == "epoch" else None)
    if not isinstance(limit, int):
        return
    readers = [f"{hook.path}.save_best" for hook in _hooks(root) if hook.get("save_best") not in (None, False)]
    readers += [hook.path for hook in _hooks(root) if type_name(hook.get("type")) in _SCORE_READERS]
    validates = all(root.get(f"val_{part}") is not None for part in ("dataloader", "cfg", "evaluator"))
    begin, interval = train_cfg.get("val_begin", 0), train_cfg.get("val_interval", 1)
    if validates and isinstance(begin, int) and begin > limit:
        message = f"train_cfg.val_begin={begin} is after the end of training (train_cfg.{key}={limit}): no validation"
        yield error(f"{message}, but {readers[0]} needs one") if readers else warning(message)
    elif validates and isinstance(interval, int) and interval > limit:
        message = f"train_cfg.val_interval={interval} is above train_cfg.{key}={limit}: one validation, at the end"
        yield warning(f"{message}, which {readers[0]} has to be content with" if readers else message)
    yield from _check_schedules(root, kind, key, limit)
    for hook in _hooks(root):
        if type_name(hook.get("type")) != "CheckpointHook":
            continue
        every, by_epoch = hook.get("interval"), hook.get("by_epoch", True)
        if isinstance(every, int) and every > limit and by_epoch == (kind == "epoch"):
            end = f"{hook.path}.interval={every} is above train_cfg.{key}={limit}"
            if hook.get("save_last", True):
                yield warning(f"{end}: one checkpoint, at the end")
            else:
                yield error(f"{end} and save_last=False: no checkpoint is ever written")
        if by_epoch is False and kind == "epoch" and every == 1:
            yield warning(f"{hook.path}: by_epoch=False and interval=1 write a checkpoint after every iteration")


def _check_schedules(root: Section, kind: str, key: str, limit: int) -> Iterator[Contradiction]:
    """Warn about schedules that begin, or have milestones, after the end of training only."""
    for schedule in root.sections("param_scheduler"):
        if schedule.get("by_epoch", True) != (kind == "epoch") or schedule.get("convert_to_iter_based"):
            continue
        begin, milestones = schedule.get("begin", 0), schedule.get("milestones")
        if isinstance(begin, int) and begin >= limit:
            yield warning(f"{schedule.path}.begin={begin} is after the end of training (train_cfg.{key}={limit})")
        numbers = [n for n in milestones if isinstance(n, int)] if isinstance(milestones, list | tuple) else []
        if numbers and min(numbers) >= limit:
            yield warning(
                f"{schedule.path}.milestones={numbers} are after the end of training (train_cfg.{key}={limit})"
            )


def _hooks(root: Section) -> Iterator[Section]:
    defaults = root.section("default_hooks")
    for name in defaults.mapping if defaults is not None else ():
        if defaults is not None and (hook := defaults.section(name)) is not None:
            yield hook
    yield from root.sections("custom_hooks")


# ---------------------------------------------------------------- metrics and sharding


def _check_metrics(root: Section) -> Iterator[Contradiction]:
    """Compare metrics with the data sets that they score."""
    for mode in MODES[1:]:
        evaluators = [*root.sections(f"{mode}_evaluator")]
        metrics = [metric for one in evaluators for metric in (one, *one.sections("metrics"))]
        datasets = [*_datasets(root, mode)]
        for metric in metrics:
            name = type_name(metric.get("type"))
            kinds = {type_name(dataset.get("type")) for dataset in datasets}
            if name in _METRICS and kinds and kinds <= _SCORED_DATASETS - _METRICS[name]:
                yield error(
                    f"{metric.path} is a {name}, but {datasets[0].path} is a {', '.join(sorted(kinds))}; it scores "
                    f"{' and '.join(sorted(_METRICS[name]))}"
                )
            elif name == "KittiMetric" and len(datasets) == 1:
                yield from _check_ann_file(metric, datasets[0])


def _check_ann_file(metric: Section, dataset: Section) -> Iterator[Contradiction]:
    """A metric that reads another info file than its data set may lack its frames."""
    mine, theirs = metric.get("ann_file"), dataset.get("ann_file")
    if not (isinstance(mine, str) and isinstance(theirs, str)):
        return
    full = os.path.join(str(dataset.get("data_root") or ""), theirs)
    if os.path.normpath(mine) != os.path.normpath(full):
        yield warning(
            f"{metric.path}.ann_file={mine!r} is not the info file of {dataset.path} ({full!r}); frames that it lacks "
            "cannot be scored"
        )


def _check_sharding(root: Section) -> Iterator[Contradiction]:
    """Refuse an average of the weights beside sharded weights: it needs a copy of the model."""
    strategy = root.section("strategy")
    places = [root.section("model_wrapper_cfg"), strategy, strategy.section("model_wrapper") if strategy else None]
    for place in places:
        kind = type_name(place.get("type")) if place is not None else ""
        if place is None or not any(word in kind for word in ("FSDP", "FullySharded")):
            continue
        for hook in _hooks(root):
            if type_name(hook.get("type")) == "EMAHook":
                yield error(
                    f"{hook.path} (EMAHook) needs a copy of the model, which {place.path} ({kind}) cannot give it"
                )
