"""The schema of a sweep's YAML: read, completed and checked before anything starts."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, Predicate

from raydet3d.config import find_config
from raydet3d.config.config_dict import merge, to_plain
from raydet3d.config.inheritance import InheritanceChain, read_chain
from raydet3d.config.provenance import Origin
from raydet3d.config.type_check import (
    Described,
    NonEmptyStr,
    NonNegativeInt,
    PositiveInt,
    Probability,
    field_types,
    read_section,
)
from raydet3d.errors import InputError, nearest
from raydet3d.files import parse_bytes
from raydet3d.sweep.domains import Domain, Value, read_domain
from raydet3d.sweep.space import Setting, Space
from raydet3d.sweep.stop_rules import StopRule, read_rules

Time = Annotated[float, Gt(0), Lt(math.inf)]
"""Epochs, or iterations where the config counts those."""
Factor = Annotated[float, Gt(1), Lt(math.inf)]


@dataclass(frozen=True, kw_only=True)
class Search:
    """How settings are found; `startup` is the number of random ones before Optuna's model is used."""

    type: Literal["random", "grid", "optuna"] = "random"
    seed: NonNegativeInt = 0
    startup: NonNegativeInt = 5


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """How trials are stopped early or varied: the base is `fifo`, where all trials run to their end.

    Times of schedulers are epochs, or iterations where the config counts those.
    """

    type: ClassVar[str] = "fifo"
    pauses_trials: ClassVar[bool] = False
    """Whether trials take turns: Ray Tune then needs a checkpoint of its own with each report."""


@dataclass(frozen=True, kw_only=True)
class Asha(Scheduler):
    """Asynchronous successive halving."""

    type: ClassVar[str] = "asha"
    grace_period: Time = 1
    reduction_factor: Factor = 3
    brackets: PositiveInt = 1
    max_t: Time | None = None


@dataclass(frozen=True, kw_only=True)
class Median(Scheduler):
    """A trial below the median of the others ends."""

    type: ClassVar[str] = "median"
    grace_period: Time = 1
    min_samples: PositiveInt = 3


@dataclass(frozen=True, kw_only=True)
class HyperBand(Scheduler):
    """HyperBand."""

    type: ClassVar[str] = "hyperband"
    pauses_trials: ClassVar[bool] = True
    reduction_factor: Factor = 3
    max_t: Time | None = None


@dataclass(frozen=True, kw_only=True)
class PopulationBased(Scheduler):
    """Population based training; `mutate` lists keys of the space, or gives them other domains."""

    type: ClassVar[str] = "pbt"
    pauses_trials: ClassVar[bool] = True
    interval: Time = 1
    burn_in: Annotated[float, Ge(0), Lt(math.inf)] = 0
    quantile: Annotated[float, Gt(0), Le(0.5)] = 0.25
    resample: Probability = 0.25
    mutate: Mapping[str, Any] | Sequence[str] | None = None


SCHEDULERS = {kind.type: kind for kind in (Scheduler, Asha, Median, HyperBand, PopulationBased)}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets: `workers` processes with so many CPUs, GPUs and torch threads each.

    A trial whose process, node or controller dies resumes from its newest checkpoint, `max_failures` times; None: as
    often as the config's `ray.max_failures` says.
    """

    workers: PositiveInt = 1
    cpus: Annotated[float, Ge(0.01), Lt(math.inf)] = 1
    gpus: Annotated[float, Ge(0), Lt(math.inf)] = 0
    threads: PositiveInt | None = None
    max_failures: NonNegativeInt | None = None


def _parse_seconds(value: float | str) -> float | None:
    """Return the seconds of `90`, `90s`, `15m`, `2h`, `1.5h`, `1d`; None for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip())
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else None


def _is_size(value: int | str) -> bool:
    try:
        return parse_bytes(value) > 0
    except ValueError:
        return False


Duration = Annotated[float | str, Predicate(_parse_seconds), Described("written 90s, 15m, 2h or 1d")]
Size = Annotated[int | str, Predicate(_is_size), Described("written 500MB, 20GB or 1TiB")]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of the whole sweep; None for no limit. `time` is in seconds, or written `90s`, `15m`, `2h` or `1d`."""

    time: Duration | None = None
    trials: PositiveInt | None = None
    epochs: Annotated[float, Ge(1), Lt(math.inf)] | None = None

    @property
    def seconds(self) -> float | None:
        """The time limit."""
        return None if self.time is None else _parse_seconds(self.time)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints are kept.

    Args:
        last: Newest ones of each trial.
        best: Best ones of each trial.
        trials: Best trials that keep theirs once they have ended; None for all.
        bytes: Limit of the sweep's folder, also written `500MB`, `20GB`, `1TiB`; None for no limit.
    """

    last: NonNegativeInt = 1
    best: NonNegativeInt = 1
    trials: PositiveInt | None = None
    bytes: Size | None = None

    @property
    def num_bytes(self) -> int | None:
        """The limit of the sweep's folder."""
        return None if self.bytes is None else parse_bytes(self.bytes)


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """The keys of a sweep's YAML that are used as they are written."""

    metric: NonEmptyStr
    mode: Literal["max", "min"]
    trials: PositiveInt | None = None
    resources: Resources = Resources()
    concurrency: PositiveInt | None = None
    budget: Budget = Budget()
    keep: Keep = Keep()


@dataclass(frozen=True, kw_only=True)
class _Sections(_Shared):
    """The top level of a sweep's YAML."""

    space: Mapping[str, Any] | None = None
    search: str | Mapping[str, Any] = "random"
    scheduler: str | Mapping[str, Any] = "fifo"
    seeds: PositiveInt | Sequence[NonNegativeInt] | None = None
    stop: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    baseline: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    cfg_options: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep(_Shared):
    """A sweep.

    Args:
        metric: What trials are ranked by, as a whole name or its last part.
        mode: `max` or `min`.
        trials: How many settings; None for all of the grid.
        resources: What a trial gets.
        concurrency: Trials at a time; None for as many as fit.
        budget: Limits of the whole sweep.
        keep: Which checkpoints stay.
        file: Where it was read from, for messages and names.
        space: What is tried.
        search: How settings are found.
        scheduler: How trials are stopped early.
        mutate: Of population based training: the keys that may change, with their domains.
        seeds: Seeds that each setting is repeated with; None for the config's one.
        stop: When a single trial ends.
        baseline: Settings to try first; `{}` is the config's own.
        cfg_options: Overrides for all trials.
        raw: The sweep as plain data, for records.
    """

    file: str
    space: Space
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    mutate: Mapping[str, Domain] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    stop: tuple[StopRule, ...] = ()
    baseline: tuple[Setting, ...] = ()
    cfg_options: Mapping[str, Value] = field(default_factory=dict)
    raw: Mapping[str, Value] = field(default_factory=dict)

    @property
    def num_seeds(self) -> int:
        """Trials of each setting."""
        return len(self.seeds) if self.seeds else 1


def read_sweep(source: str | Path | Mapping[str, Value], *, smoke: bool = False) -> Sweep:
    """Read a sweep from its YAML.

    Args:
        source: The file (or a shipped one's path), or its content.
        smoke: Merge its `smoke` section over it: the same sweep in a size that takes a minute.

    Raises:
        InputError: Anything in it is unknown, malformed or contradicts itself.
    """
    lines: dict[str, str] = {}
    if isinstance(source, Mapping):
        file, given = "sweep", to_plain(source)
    else:
        path = find_config(source)
        if path.suffix not in (".yaml", ".yml", ".json"):
            raise InputError(f"{path}: a sweep is a .yaml file; the config comes first: CONFIG SWEEP.yaml")
        chain = _read_safely(path)
        file, given, lines = str(source), to_plain(chain.values), chain.lines
    small = given.pop("smoke", None)
    if smoke:
        if not isinstance(small, Mapping):
            raise InputError(f"{file}: --smoke needs a section smoke: {{trials: ..., cfg_options: {{...}}}}")
        given = merge(given, small)
        lines |= {key.removeprefix("smoke."): line for key, line in lines.items() if key.startswith("smoke.")}
    try:
        return _read(file, given)
    except InputError as error:
        message = str(error).removeprefix(f"{file}: ")
        raise InputError(f"{Origin(lines=lines).place_of(message) or file}: {message}") from None


def _read_safely(path: Path) -> InheritanceChain:
    try:
        return read_chain(path)
    except InputError as error:
        if "python/" in str(error) or "could not determine a constructor" in str(error):
            raise InputError(
                f"{path}: unsafe YAML ({' '.join(str(error).removeprefix(str(path)).lstrip(':').split())}); "
                "a sweep holds plain values only"
            ) from None
        raise


def _read(file: str, given: Mapping[str, Value]) -> Sweep:
    sections = read_section(_Sections, given, "")
    space = Space.read(file, sections.space)
    search = _search(sections.search)
    scheduler = _scheduler(sections.scheduler)
    options = {str(key): value for key, value in (sections.cfg_options or {}).items()}
    for key in options:
        if key in space:
            raise InputError(f"cfg_options: {key} is both in cfg_options and in space; remove one of them")
    baseline = _baseline(file, sections.baseline, space)
    as_written = {name: getattr(sections, name) for name in field_types(_Shared)}
    sweep = Sweep(
        **{**as_written, "trials": _trials(sections, space, search, baseline)},
        file=file,
        space=space,
        search=search,
        scheduler=scheduler,
        mutate=_mutate(file, scheduler, space) if isinstance(scheduler, PopulationBased) else {},
        seeds=_seeds(sections.seeds),
        stop=read_rules(sections.stop),
        baseline=baseline,
        cfg_options=options,
        raw=given,
    )
    if isinstance(scheduler, PopulationBased):
        _check_pbt(sweep)
    return sweep


def _check_pbt(sweep: Sweep) -> None:
    if sweep.search.type == "optuna":
        raise InputError("scheduler: pbt finds its settings by itself and goes with search: random, not optuna")
    if sweep.num_seeds > 1:
        raise InputError("seeds: pbt varies its trials as they go, so seeds cannot repeat them; remove seeds")
    if sweep.trials is None and sweep.budget.trials is None:
        raise InputError("scheduler: pbt needs trials: the size of its population")
    if sweep.trials is not None and sweep.trials < 2:
        raise InputError(f"trials: pbt takes it for the size of its population; it needs 2 or more, got {sweep.trials}")
    if sweep.keep.last < 1:
        raise InputError("keep.last must be 1 or more with pbt: a bad trial continues from a good one's checkpoint")


def _mutate(file: str, scheduler: PopulationBased, space: Space) -> dict[str, Domain]:
    given, domains = scheduler.mutate, dict[str, Domain]()
    if not given:
        raise InputError(f"scheduler.mutate must name the keys of the space that pbt may change, got {given!r}")
    for key, value in (given if isinstance(given, Mapping) else dict.fromkeys(given)).items():
        if key not in space:
            raise InputError(f"scheduler.mutate: {key!r} is not in the space{nearest(str(key), space)}")
        domains[key] = space[key] if value is None else read_domain(f"{file}: scheduler.mutate.{key}", value)
    return domains


def _search(given: str | Mapping[str, Value]) -> Search:
    args = {"type": given} if isinstance(given, str) else given
    _check_type("search", args.get("type"), ("random", "grid", "optuna"))
    search = read_section(Search, args, "search")
    if search.type == "grid" and len(args) > 1:
        raise InputError(f"search: grid takes no {', '.join(key for key in args if key != 'type')}")
    return search


def _scheduler(given: str | Mapping[str, Value]) -> Scheduler:
    args = {"type": given} if isinstance(given, str) else dict(given)
    kind = args.pop("type", None)
    _check_type("scheduler", kind, SCHEDULERS)
    return read_section(SCHEDULERS[str(kind)], args, "scheduler")


def _check_type(key: str, kind: Value, kinds: Collection[str]) -> None:
    if kind not in kinds:
        raise InputError(f"{key} must be one of {', '.join(kinds)}, got {kind!r}{nearest(str(kind), kinds)}")


def _trials(sections: _Sections, space: Space, search: Search, baseline: tuple[Setting, ...]) -> int | None:
    trials = sections.trials
    if search.type == "grid":
        # Baselines have numbers of their own; of those that lie on the grid, the search itself ends earlier.
        size = len(space.grid()) + len(baseline)
        return size if trials is None else min(trials, size)
    if trials is None and sections.budget == Budget():
        raise InputError("trials must say how many settings are tried (or budget when to end)")
    return trials


def _seeds(given: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if given is None or isinstance(given, int):
        return None if given is None else tuple(range(given))
    if not given or len(set(given)) < len(given):
        raise InputError(f"seeds must be a number of seeds or a list of different ones, got {given!r}")
    return tuple(given)


def _baseline(
    file: str, given: Mapping[str, Value] | Sequence[Mapping[str, Value]] | None, space: Space
) -> tuple[Setting, ...]:
    settings = [given] if isinstance(given, Mapping) else given or []
    for item in settings:
        space.check(f"{file}: baseline", item)
    return tuple(dict(item) for item in settings)
