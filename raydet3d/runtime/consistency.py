"""Find sections of a config that contradict each other, without building anything.

`find_contradictions` reads the resolved config as plain data. An *error* is a pair of values with which training or
evaluation must go wrong (labels of one class taken for another's, a loop without end, targets on another grid); a
*warning* is a pair with which it may. Types that are not known here are passed over, so that a project's own models
are never refused. What concerns the model's geometry is in `model_consistency.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain

from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg
from raydet3d.log import get_logger
from raydet3d.registry import DATA_SAMPLERS, DATASETS
from raydet3d.runtime.contradiction import Contradiction, Section, error, items, short, warning
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


def check_consistency(cfg: PartCfg) -> None:
    """Refuse a config whose sections contradict each other.

    Raises:
        InputError: They do; one sentence names both places, and how many further contradictions there are.
    """
    errors = [found for found in find_contradictions(cfg) if found.is_error]
    if errors:
        more = f" (and {len(errors) - 1} more contradictions)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0].message}{more}")


def warn_of_contradictions(cfg: PartCfg) -> None:
    """Log what may be a mistake, one line each."""
    for found in find_contradictions(cfg):
        if not found.is_error:
            get_logger().warning("config: %s", found.message)


def find_contradictions(cfg: PartCfg) -> list[Contradiction]:
    """Return all contradictions of a config, errors first."""
    root = Section("", cfg)
    model = root.section("model")
    lists = [found for mode in MODES for found in _class_lists(root, mode)]
    found = chain(
        _check_class_lists(root, lists),
        _check_samplers(root),
        _check_validation(root),
        _check_metrics(root),
        _check_sharding(root),
        _check_heads(model, *lists[0]) if lists else (),
        find_model_contradictions(root, model, lists[0] if lists else None),
    )
    return sorted(dict.fromkeys(found), key=lambda one: not one.is_error)


# ---------------------------------------------------------------- class lists


ClassList = tuple[str, tuple[str, ...]]
"""Where class names are, and the names."""


def datasets_of(section: Section) -> Iterator[Section]:
    """Yield the innermost data sets of a loader's `dataset`, through wrappers such as RepeatDataset."""
    inner = [*section.sections("dataset"), *section.sections("datasets")]
    if section and not inner:
        yield section
    for one in inner:
        yield from datasets_of(one)


def _datasets(root: Section, mode: str) -> Iterator[Section]:
    for loader in root.sections(f"{mode}_dataloader"):
        yield from datasets_of(loader.section("dataset"))


def _classes_of(dataset: Section) -> ClassList | None:
    """Return the class names of a data set; None where the config does not say."""
    metainfo = dataset.section("metainfo")
    for key in ("classes", "CLASSES"):
        if names := metainfo.names(key):
            return metainfo.key(key), names
    known = DATASETS.get(dataset.kind) if dataset.kind in DATASETS else None
    names = Section("", getattr(known, "METAINFO", {})).names("classes")
    return (f"{dataset.path} ({dataset.kind}'s own classes)", names) if names else None


def _class_lists(root: Section, mode: str) -> Iterator[ClassList]:
    yield from filter(None, map(_classes_of, _datasets(root, mode)))


def _check_class_lists(root: Section, lists: list[ClassList]) -> Iterator[Contradiction]:
    """Compare the class lists of data sets with each other and with those of their transforms."""
    for place, names in lists:
        if len(set(names)) < len(names):
            yield error(f"{place}={short(names)} names a class twice; each class has one label")
        if names != lists[0][1]:
            yield error(
                f"{place}={short(names)} differs from {lists[0][0]}={short(lists[0][1])}; labels are positions in this "
                "list, so all data sets of a run need the same one"
            )
    for dataset in (dataset for mode in MODES for dataset in _datasets(root, mode)):
        if (known := _classes_of(dataset)) is not None:
            for transform in _transforms(dataset.sections("pipeline")):
                yield from _check_transform_classes(transform, *known)


def _transforms(steps: Iterator[Section]) -> Iterator[Section]:
    """Yield the transforms of a pipeline, those inside of others too."""
    for step in steps:
        yield step
        yield from _transforms(step.sections("transforms"))


def _check_transform_classes(transform: Section, place: str, names: tuple[str, ...]) -> Iterator[Contradiction]:
    """Check the class lists of a transform against the data set's."""
    listed = transform.names("classes")
    if transform.kind == "ObjectNameFilter" and listed != names[: len(listed)]:
        yield error(
            f"{transform.path}.classes={short(listed)} does not begin like {place}={short(names)}; ObjectNameFilter "
            "keeps labels by position, so it would keep other classes than it names"
        )
    sampler = transform.section("db_sampler")
    groups = sampler.get("sample_groups")
    drawn = [str(name) for group in items(groups) or [groups] if isinstance(group, Mapping) for name in group]
    listed = sampler.names("classes") or tuple(drawn)
    key = "classes" if sampler.names("classes") else "sample_groups (no classes are given)"
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


def _check_heads(model: Section, place: str, names: tuple[str, ...]) -> Iterator[Contradiction]:
    """Compare `num_classes` and task lists of the heads with the data set's classes."""
    for head in model.walk():
        words = head.path.split(".")
        if any(word.startswith(_IMAGE_PARTS) for word in words) or not any(word in _HEADS for word in words):
            continue
        number = head.whole("num_classes")
        # Proposal and refinement stages may tell objects from background only, as PointRCNN's do.
        is_agnostic = number == 1 and any(word in ("rpn_head", "roi_head") for word in words)
        if number not in (None, len(names)) and not is_agnostic:
            classes = "class" if len(names) == 1 else "classes"
            yield error(f"{head.path}.num_classes={number}, but {place}={short(names)} has {len(names)} {classes}")
        yield from _check_tasks(head, place, names)


def _check_tasks(head: Section, place: str, names: tuple[str, ...]) -> Iterator[Contradiction]:
    """Check the tasks of a CenterHead (or a similar head), whose classes are numbered one task after the other."""
    listed: list[str] = []
    for task in head.sections("tasks"):
        own = task.names("class_names")
        if not own:
            return
        number = task.whole("num_class", task.whole("num_classes"))
        if number not in (None, len(own)):
            yield error(f"{task.path}: num_class={number}, but class_names={short(own)} has {len(own)}")
        listed += own
    if listed and head.kind == "CenterHead" and tuple(listed) != names:
        yield error(
            f"{head.path}.tasks numbers the classes {short(listed)}, {place}={short(names)}; the order must be the same"
        )
    elif listed and set(listed) != set(names):
        yield error(f"{head.path}.tasks has the classes {short(listed)}, {place}={short(names)}")


# ---------------------------------------------------------------- loops and samplers


def _is_endless(sampler: Section) -> bool:
    known = DATA_SAMPLERS.get(sampler.kind) if sampler.kind in DATA_SAMPLERS else None
    return bool(getattr(known, "endless", "Infinite" in sampler.kind))


def _loop_kind(train_cfg: Section) -> str:
    """Return `epoch`, `iter`, or an empty string for a loop that is not known here."""
    default = "EpochBasedTrainLoop" if train_cfg.get("by_epoch", True) else "IterBasedTrainLoop"
    kinds = {"EpochBasedTrainLoop": "epoch", "IterBasedTrainLoop": "iter"}
    return kinds.get(train_cfg.kind or default, "") if train_cfg else ""


def _check_samplers(root: Section) -> Iterator[Contradiction]:
    """Refuse samplers without end where a loop waits for their end."""
    kind = _loop_kind(root.section("train_cfg"))
    for mode in MODES:
        for loader in root.sections(f"{mode}_dataloader"):
            endless = any(_is_endless(loader.section(key)) for key in ("sampler", "batch_sampler"))
            if not endless or loader.get("num_batch_per_epoch") is not None:
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
    """Compare the times of validations, schedules and checkpoints with the end of training."""
    train_cfg = root.section("train_cfg")
    kind = _loop_kind(train_cfg)
    key = f"max_{kind}s"
    limit = train_cfg.whole(key)
    if limit is None:
        return
    end = f"train_cfg.{key}={limit}"
    readers = [hook.key("save_best") for hook in _hooks(root) if hook.get("save_best") not in (None, False)]
    readers += [hook.path for hook in _hooks(root) if hook.kind in _SCORE_READERS]
    if all(root.get(f"val_{part}") is not None for part in ("dataloader", "cfg", "evaluator")):
        begin, interval = train_cfg.whole("val_begin", 0), train_cfg.whole("val_interval", 1)
        if begin is not None and begin > limit:
            message = f"train_cfg.val_begin={begin} is after the end of training ({end}): no validation"
            yield error(f"{message}, but {readers[0]} needs one") if readers else warning(message)
        elif interval is not None and interval > limit:
            message = f"train_cfg.val_interval={interval} is above {end}: one validation, at the end"
            yield warning(f"{message}, which {readers[0]} has to be content with" if readers else message)
    for schedule in root.sections("param_scheduler"):
        if schedule.get("by_epoch", True) == (kind == "epoch") and not schedule.get("convert_to_iter_based"):
            numbers = [n for n in items(schedule.get("milestones")) if isinstance(n, int)]
            if (schedule.whole("begin", 0) or 0) >= limit:
                yield warning(f"{schedule.path}.begin={schedule.get('begin')} is after the end of training ({end})")
            if numbers and min(numbers) >= limit:
                yield warning(f"{schedule.path}.milestones={numbers} are after the end of training ({end})")
    for hook in _hooks(root):
        every, by_epoch = hook.whole("interval"), hook.get("by_epoch", True)
        if hook.kind != "CheckpointHook" or every is None:
            continue
        if every > limit and by_epoch == (kind == "epoch"):
            above = f"{hook.path}.interval={every} is above {end}"
            if hook.get("save_last", True):
                yield warning(f"{above}: one checkpoint, at the end")
            else:
                yield error(f"{above} and save_last=False: no checkpoint is ever written")
        if by_epoch is False and kind == "epoch" and every == 1:
            yield warning(f"{hook.path}: by_epoch=False and interval=1 write a checkpoint after every iteration")


def _hooks(root: Section) -> Iterator[Section]:
    defaults = root.section("default_hooks")
    yield from filter(None, map(defaults.section, defaults.mapping))
    yield from root.sections("custom_hooks")


# ---------------------------------------------------------------- metrics and sharding


def _check_metrics(root: Section) -> Iterator[Contradiction]:
    """Compare metrics with the data sets that they score."""
    for mode in MODES[1:]:
        datasets = [*_datasets(root, mode)]
        kinds = {dataset.kind for dataset in datasets}
        evaluators = root.sections(f"{mode}_evaluator")
        for metric in (metric for one in evaluators for metric in (one, *one.sections("metrics"))):
            scored = _METRICS.get(metric.kind, kinds)
            if kinds and kinds <= _SCORED_DATASETS - scored:
                yield error(
                    f"{metric.path} is a {metric.kind}, but {datasets[0].path} is a {', '.join(sorted(kinds))}; it "
                    f"scores {' and '.join(sorted(scored))}"
                )
            elif metric.kind == "KittiMetric" and len(datasets) == 1:
                yield from _check_ann_file(metric, datasets[0])


def _check_ann_file(metric: Section, dataset: Section) -> Iterator[Contradiction]:
    """Compare the info file of a metric with its data set's: another one may lack its frames."""
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
    for place in (root.section("model_wrapper_cfg"), strategy, strategy.section("model_wrapper")):
        if "FSDP" in place.kind or "FullySharded" in place.kind:
            for hook in _hooks(root):
                if hook.kind == "EMAHook":
                    copied = f"needs a copy of the model, which {place.path} ({place.kind}) cannot give it"
                    yield error(f"{hook.path} (EMAHook) {copied}")
