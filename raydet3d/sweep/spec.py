"""A sweep as its YAML describes it: read, completed and checked, before anything starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydet3d.config import find_config
from raydet3d.config.config_dict import merge, to_plain
from raydet3d.config.inheritance import read_chain
from raydet3d.errors import InputError, nearest
from raydet3d.files import parse_bytes
from raydet3d.sweep.domains import Domain, read_domain
from raydet3d.sweep.space import Setting, Space
from raydet3d.sweep.stop_rules import StopRule, read_rules

SEARCHES = ("random", "grid", "optuna")
SCHEDULERS: dict[str, dict[str, float | int | None]] = {
    "fifo": {},
    "asha": {"grace_period": 1, "reduction_factor": 3, "brackets": 1, "max_t": None},
    "median": {"grace_period": 1, "min_samples": 3},
    "hyperband": {"reduction_factor": 3, "max_t": None},
    "pbt": {"interval": 1, "burn_in": 0, "quantile": 0.25, "resample": 0.25},
}
KEYS = (
    "metric",
    "mode",
    "trials",
    "search",
    "scheduler",
    "resources",
    "concurrency",
    "budget",
    "keep",
    "seeds",
    "stop",
    "baseline",
    "cfg_options",
    "space",
    "smoke",
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How settings are found: ``random``, ``grid`` or ``optuna``; ``startup`` random ones before Optuna's model."""

    type: str = "random"
    seed: int = 0
    startup: int = 5


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """How trials are stopped early or varied; times are epochs, or iterations where the config counts those.

    Args:
        type: ``fifo``, ``asha``, ``median``, ``hyperband`` or ``pbt``.
        options: Its numbers.
        mutate: Of ``pbt``: the keys that may change, with their domains.
    """

    type: str = "fifo"
    options: Mapping[str, Any] = field(default_factory=dict)
    mutate: Mapping[str, Domain] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets: `workers` processes with so many CPUs, GPUs and torch threads each.

    A trial whose process, node or controller dies goes on from its newest checkpoint, `max_failures` times; None: as
    often as the config's `ray.max_failures` says.
    """

    workers: int = 1
    cpus: float = 1
    gpus: float = 0
    threads: int | None = None
    max_failures: int | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the whole sweep may take; None for no limit."""

    seconds: float | None = None
    trials: int | None = None
    epochs: float | None = None


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints stay.

    Args:
        last: Newest ones of each trial.
        best: Best ones of each trial.
        trials: Best trials that keep theirs once they have ended; None for all.
        bytes: What the sweep's folder may hold; None for no limit.
    """

    last: int = 1
    best: int = 1
    trials: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep.

    Args:
        file: Where it was read from, for messages and names.
        metric: What trials are ranked by, as a whole name or its last part.
        mode: ``max`` or ``min``.
        space: What is tried.
        trials: How many settings; None for all of the grid.
        search: How they are found.
        scheduler: How trials are cut short.
        resources: What a trial gets.
        concurrency: Trials at a time; None for as many as fit.
        budget: Limits of the whole sweep.
        keep: Which checkpoints stay.
        seeds: Seeds that each setting is repeated with; None for the config's one.
        stop: When a single trial ends.
        baseline: Settings to try first; ``{}`` is the config's own.
        cfg_options: Overrides for all trials.
        raw: The same as plain data, for the record.
    """

    file: str
    metric: str
    mode: str
    space: Space
    trials: int | None
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    resources: Resources = Resources()
    concurrency: int | None = None
    budget: Budget = Budget()
    keep: Keep = Keep()
    seeds: tuple[int, ...] | None = None
    stop: tuple[StopRule, ...] = ()
    baseline: tuple[Setting, ...] = ()
    cfg_options: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_seeds(self) -> int:
        """Trials of each setting."""
        return len(self.seeds) if self.seeds else 1

    def better(self, a: float, b: float) -> bool:
        """Whether value ``a`` is better than ``b``."""
        return a > b if self.mode == "max" else a < b


def read_sweep(source: str | Path | Mapping[str, Any], *, smoke: bool = False) -> Sweep:
    """A sweep from its YAML.

    Args:
        source: The file (or a shipped one's path), or what would stand in it.
        smoke: Merge its ``smoke`` section over it: the same sweep in a size that takes a minute.

    Raises:
        InputError: Anything in it is unknown, malformed or contradicts itself.
    """
    if isinstance(source, Mapping):
        file, given = "sweep", to_plain(source)
    else:
        path = find_config(source)
        if path.suffix not in (".yaml", ".yml", ".json"):
            raise InputError(f"{path}: a sweep is a .yaml file; the config comes first: CONFIG SWEEP.yaml")
        file, given = str(source), to_plain(_read_safely(path))
    small = given.pop("smoke", None)
    if smoke:
        if not isinstance(small, Mapping):
            raise InputError(f"{file}: --smoke needs a section smoke: {{trials: ..., cfg_options: {{...}}}}")
        given = merge(given, small)
    return _check(file, given)


def _read_safely(path: Path) -> Mapping[str, Any]:
    try:
        return read_chain(path).values
    except InputError as error:
        if "python/" in str(error) or "could not determine a constructor" in str(error):
            raise InputError(
                f"{path}: unsafe YAML ({' '.join(str(error).removeprefix(str(path)).lstrip(':').split())}); "
                "a sweep holds plain values only"
            ) from None
        raise


def _check(file: str, given: Mapping[str, Any]) -> Sweep:
    for key in given:
        if key not in KEYS:
            raise InputError(f"{file}: unknown key {key!r}{nearest(str(key), KEYS) or '; it takes ' + ', '.join(KEYS)}")
    metric, mode = given.get("metric"), given.get("mode")
    if not isinstance(metric, str) or not metric:
        raise InputError(f"{file}: metric must name what trials are ranked by, got {metric!r}")
    if mode not in ("max", "min"):
        raise InputError(f"{file}: mode must be max or min, got {mode!r}")
    space = Space.read(file, given.get("space"))
    search = _search(file, given.get("search", "random"))
    scheduler = _scheduler(file, given.get("scheduler", "fifo"), space)
    if scheduler.type == "pbt" and search.type == "optuna":
        raise InputError(
            f"{file}: scheduler pbt finds its settings by itself and goes with search: random, not {search.type}"
        )
    options = given.get("cfg_options") or {}
    if not isinstance(options, Mapping):
        raise InputError(f"{file}: cfg_options must be a mapping of keys to values, got {options!r}")
    for key in options:
        if key in space:
            raise InputError(f"{file}: {key} is both in cfg_options and in space; one of them says what it is")
    keep = _keep(file, given.get("keep"))
    sweep = Sweep(
        file=file,
        metric=metric,
        mode=mode,
        space=space,
        trials=_trials(file, given, space, search),
        search=search,
        scheduler=scheduler,
        resources=_resources(file, given.get("resources")),
        concurrency=_number(file, "concurrency", given.get("concurrency"), least=1, whole=True),
        budget=_budget(file, given.get("budget")),
        keep=keep,
        seeds=_seeds(file, given.get("seeds")),
        stop=read_rules(file, given.get("stop")),
        baseline=_baseline(file, given.get("baseline"), space),
        cfg_options={str(key): value for key, value in options.items()},
        raw=given,
    )
    _check_pbt(sweep)
    return sweep


def _check_pbt(sweep: Sweep) -> None:
    if sweep.scheduler.type != "pbt":
        return
    if sweep.num_seeds > 1:
        raise InputError(f"{sweep.file}: pbt varies its trials as they go, so seeds cannot repeat them; remove seeds")
    if sweep.trials is None and sweep.budget.trials is None:
        raise InputError(f"{sweep.file}: pbt needs trials: the size of its population")
    if sweep.trials is not None and sweep.trials < 2:
        raise InputError(f"{sweep.file}: trials is pbt's population; it needs 2 or more, got {sweep.trials}")
    if sweep.keep.last < 1:
        raise InputError(f"{sweep.file}: keep.last must be 1 or more with pbt: a bad trial goes on from a good one's")


def _search(file: str, given: Any) -> Search:
    args = _typed(file, "search", given, SEARCHES, ("seed", "startup"))
    for name in ("seed", "startup"):
        _number(file, f"search.{name}", args.get(name), least=0, whole=True)
    if args["type"] == "grid" and len(args) > 1:
        raise InputError(f"{file}: search grid takes no {', '.join(key for key in args if key != 'type')}")
    return Search(**args)


def _scheduler(file: str, given: Any, space: Space) -> Scheduler:
    kind = given.get("type") if isinstance(given, Mapping) else given
    defaults = SCHEDULERS.get(str(kind), {})
    extra = ("mutate",) if kind == "pbt" else ()
    args = _typed(file, "scheduler", given, tuple(SCHEDULERS), (*defaults, *extra))
    args.pop("type")
    mutate = args.pop("mutate", None)
    least = {"reduction_factor": 1.0001, "quantile": 0.0001, "resample": 0, "burn_in": 0}
    options = {**defaults, **args}
    for name, value in options.items():
        whole = name in ("brackets", "min_samples")
        _number(file, f"scheduler.{name}", value, least=least.get(name, 1 if whole else 1e-9), whole=whole)
    if options.get("quantile", 0) > 0.5 or options.get("resample", 0) > 1:
        name = "quantile" if options["quantile"] > 0.5 else "resample"
        raise InputError(
            f"{file}: scheduler.{name} must be at most {0.5 if name == 'quantile' else 1}, got {options[name]}"
        )
    domains: dict[str, Domain] = {}
    if kind == "pbt":
        if isinstance(mutate, list):
            mutate = {str(key): None for key in mutate}
        if not isinstance(mutate, Mapping) or not mutate:
            raise InputError(
                f"{file}: scheduler.mutate names the keys of the space that pbt may change, got {mutate!r}"
            )
        for key, value in mutate.items():
            if key not in space:
                raise InputError(f"{file}: scheduler.mutate: {key!r} is not in the space{nearest(str(key), space)}")
            domains[key] = space[key] if value is None else read_domain(f"{file}: scheduler.mutate.{key}", value)
    return Scheduler(type=str(kind), options=options, mutate=domains)


def _trials(file: str, given: Mapping[str, Any], space: Space, search: Search) -> int | None:
    trials: int | None = _number(file, "trials", given.get("trials"), least=1, whole=True)
    if search.type == "grid":
        # Baselines have numbers of their own; of those that lie on the grid, the search itself ends earlier.
        size = len(space.grid()) + len(_baseline(file, given.get("baseline"), space))
        return size if trials is None else min(trials, size)
    budget = given.get("budget")
    if trials is None and not (isinstance(budget, Mapping) and any(value is not None for value in budget.values())):
        raise InputError(f"{file}: trials must say how many settings are tried (or budget when to end)")
    return trials


def _resources(file: str, given: Any) -> Resources:
    args = _section(file, "resources", given, ("workers", "cpus", "gpus", "threads", "max_failures"))
    for name in ("workers", "threads"):
        _number(file, f"resources.{name}", args.get(name), least=1, whole=True)
    _number(file, "resources.max_failures", args.get("max_failures"), least=0, whole=True)
    _number(file, "resources.cpus", args.get("cpus"), least=0.01)
    _number(file, "resources.gpus", args.get("gpus"), least=0)
    return Resources(**args)


def _budget(file: str, given: Any) -> Budget:
    args = _section(file, "budget", given, ("time", "trials", "epochs"))
    return Budget(
        seconds=_seconds(file, args.get("time")),
        trials=_number(file, "budget.trials", args.get("trials"), least=1, whole=True),
        epochs=_number(file, "budget.epochs", args.get("epochs"), least=1),
    )


def _keep(file: str, given: Any) -> Keep:
    args = _section(file, "keep", given, ("last", "best", "trials", "bytes"))
    for name, least in (("last", 0), ("best", 0), ("trials", 1)):
        _number(file, f"keep.{name}", args.get(name), least=least, whole=True)
    return Keep(**{**args, "bytes": _bytes(file, args.get("bytes"))})


def _seeds(file: str, given: Any) -> tuple[int, ...] | None:
    if given is None:
        return None
    if isinstance(given, list):
        right = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in given)
        if not right or not given or len(set(given)) < len(given):
            raise InputError(f"{file}: seeds must be a number of them or a list of different ones, got {given!r}")
        return tuple(given)
    count = _number(file, "seeds", given, least=1, whole=True)
    return tuple(range(int(count or 1)))


def _baseline(file: str, given: Any, space: Space) -> tuple[Setting, ...]:
    if given is None:
        return ()
    settings = [given] if isinstance(given, Mapping) else given
    if not isinstance(settings, list) or not all(isinstance(item, Mapping) for item in settings):
        raise InputError(f"{file}: baseline is a list of settings such as [{{}}, {{lr: 0.001}}], got {given!r}")
    for item in settings:
        space.check(f"{file}: baseline", item)
    return tuple(dict(item) for item in settings)


# ------------------------------------------------------------------------------------------------------ small things


def _typed(file: str, key: str, given: Any, kinds: tuple[str, ...], known: tuple[str, ...]) -> dict[str, Any]:
    """``name`` or ``{type: name, ...}``."""
    args = {"type": given} if isinstance(given, str) else given
    if not isinstance(args, Mapping) or args.get("type") not in kinds:
        kind = args.get("type") if isinstance(args, Mapping) else args
        raise InputError(f"{file}: {key} must be one of {', '.join(kinds)}, got {kind!r}{nearest(str(kind), kinds)}")
    return _section(file, key, args, ("type", *known))


def _section(file: str, key: str, given: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{file}: {key} must be a mapping with {', '.join(known)}, got {given!r}")
    for name in given:
        if name not in known:
            raise InputError(
                f"{file}: {key} has no {name!r}{nearest(str(name), known) or '; it takes ' + ', '.join(known)}"
            )
    return dict(given)


def _number(file: str, key: str, value: Any, *, least: float, whole: bool = False) -> Any:
    if value is None:
        return None
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or value < least:
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{file}: {key} must be {kind} of at least {least:g}, got {value!r}")
    return value


def _seconds(file: str, value: Any) -> float | None:
    """``90``, ``90s``, ``15m``, ``2h``, ``1.5h``, ``1d``."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip())
    if not found or float(found[1]) <= 0:
        raise InputError(f"{file}: budget.time is written 90s, 15m, 2h or 1d, got {value!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _bytes(file: str, value: Any) -> int | None:
    """``500MB``, ``20GB``, ``1TiB`` or a number of bytes."""
    if value is None:
        return None
    try:
        size = parse_bytes(value)
    except ValueError:
        size = 0
    if size <= 0:
        raise InputError(f"{file}: keep.bytes is written 500MB, 20GB or 1TiB, got {value!r}")
    return size
