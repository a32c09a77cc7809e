"""Checks before the first trial: keys, lengths, metric, resources, folder."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

from raydet3d.config import Config
from raydet3d.errors import InputError, nearest, some_of
from raydet3d.host import num_processors
from raydet3d.log import get_logger
from raydet3d.sweep.domains import Value
from raydet3d.sweep.space import Setting
from raydet3d.sweep.spec import Sweep
from raydet3d.sweep.stop_rules import matching_metrics
from raydet3d.sweep.trial_config import TrialConfigBuilder, digest, run_length

NUM_SAMPLES = 12  # random settings that are resolved


def check_configs(builder: TrialConfigBuilder) -> list[Config]:
    """Resolve settings that together use every key and every alternative.

    Returns:
        Their configs; the first one is the unchanged config.

    Raises:
        InputError: A key is not in the config, has no effect, or makes the config invalid.
    """
    sweep = builder.sweep
    configs = [builder.build({})]
    for setting in sweep.baseline:
        configs.append(builder.build(setting))
    rng = random.Random(0)
    for key, domain in sweep.space.domains.items():
        examples = domain.examples()
        settings = [_with(sweep, key, value) for value in [*examples, *(domain.values() or [])[2:20]]]
        made = [builder.build(setting) if setting is not None else None for setting in settings]
        one, other = made[:2] if len(examples) == 2 else (None, None)
        if one is not None and other is not None and digest(one) == digest(other):
            raise InputError(
                f"{sweep.file}: space.{key}: its values change nothing that the run reads "
                f"({', '.join(map(repr, examples))} give the same config)"
            )
        configs += [cfg for cfg in made if cfg is not None]
    configs += [builder.build(sweep.space.sample(rng)) for _ in range(NUM_SAMPLES)]
    return configs


def _with(sweep: Sweep, key: str, value: Value) -> Setting | None:
    """Return a setting in which a key has a value and its conditions hold, or None.

    Settings for two values of a key differ in this key only, and in keys that depend on it.
    """
    wanted: Setting = {}

    def want(name: str) -> None:
        for other, values in sweep.space[name].when.items():
            wanted.setdefault(other, values[0])
            want(other)

    want(key)
    wanted[key] = value
    setting = sweep.space.sample(random.Random(1), fixed=wanted)
    return setting if key in setting else None


def check_lengths(sweep: Sweep, configs: list[Config]) -> str:
    """Check the scheduler's times against the lengths of the runs.

    Returns:
        Unit of the runs' lengths: `epoch` or `iter`.

    Raises:
        InputError: A time is longer than a run, or a run has too few validations to decide by.
    """
    counters, lengths, intervals = zip(*(run_length(cfg) for cfg in configs), strict=True)
    if len(set(counters)) > 1:
        raise InputError(
            f"{sweep.file}: some settings train by epochs and others by iterations; a sweep has one of them"
        )
    counter, shortest, interval = counters[0], min(lengths), max(intervals)
    scheduler = sweep.scheduler
    for name in ("grace_period", "interval", "burn_in", "max_t"):
        value = getattr(scheduler, name, None)
        length, run = (max(lengths), "any run") if name == "max_t" else (shortest, "the run")
        if value is not None and value > length:
            raise InputError(
                f"{sweep.file}: scheduler.{name} is {value:g} {counter}s, longer than {run}, which has {length:g}"
            )
    decides = scheduler.type != "fifo" or any(rule.plateau for rule in sweep.stop)
    if decides and interval >= shortest:
        raise InputError(
            f"{sweep.file}: scheduler {scheduler.type} decides by validations, and there is one in a run "
            f"(train_cfg.val_interval={interval:g} of {shortest:g} {counter}s); "
            "set train_cfg.val_interval in cfg_options"
        )
    return str(counter)


def check_resources(sweep: Sweep, resources: Mapping[str, float], *, where: str) -> int:
    """Check the resources of a trial against the available ones.

    Args:
        sweep: The sweep.
        resources: Available `CPU` and `GPU`.
        where: Name of the machine or cluster, for messages.

    Returns:
        Number of concurrent trials.

    Raises:
        InputError: A trial does not fit, or `concurrency` trials do not.
    """
    wanted = sweep.resources
    fits = None
    for name, each in (("CPU", wanted.cpus), ("GPU", wanted.gpus)):
        asked, have = wanted.workers * each, resources.get(name, 0)
        if name not in resources and not asked:
            continue
        if asked > have:
            raise InputError(
                f"{sweep.file}: resources: a trial of {wanted.workers} worker{'s' if wanted.workers > 1 else ''} with "
                f"{each:g} {name} each needs {asked:g} {name}s, {where} has {have:g}"
            )
        if asked:
            fits = int(have / asked) if fits is None else min(fits, int(have / asked))
    most = max(fits or 1, 1)
    if sweep.concurrency is not None and sweep.concurrency > most:
        raise InputError(
            f"{sweep.file}: concurrency is {sweep.concurrency}, but only {most} such trial{'s' if most > 1 else ''} "
            f"fit{'' if most > 1 else 's'} at a time; give a trial less (resources) or lower concurrency"
        )
    return sweep.concurrency or most


def check_turns(sweep: Sweep, concurrency: int) -> None:
    """Check that a scheduler that pauses trials has room for all of them.

    Ray Tune does not account for the workers of a distributed trial in a cluster that others share.

    Args:
        sweep: The sweep.
        concurrency: Number of concurrent trials.

    Raises:
        InputError: Trials would have to be paused.
    """
    takes_turns = sweep.scheduler.pauses_trials and sweep.resources.workers > 1
    if takes_turns and (sweep.trials is None or sweep.trials > concurrency):
        raise InputError(
            f"{sweep.file}: scheduler {sweep.scheduler.type} with {sweep.resources.workers} workers a trial needs "
            f"room for {sweep.trials or 'all'} trials at a time in a cluster that it shares; it has for {concurrency}"
        )


def this_machine(*, gpus: bool = False) -> dict[str, float]:
    """Return the CPUs and GPUs of this machine.

    Args:
        gpus: Whether to count GPUs, which imports torch.
    """
    found = {"CPU": float(num_processors())}
    if gpus:
        import torch

        found["GPU"] = float(torch.cuda.device_count())
    return found


def check_metric(sweep: Sweep, cfg: Config) -> str:
    """Validate an untrained model on one batch to find the names of the metrics.

    Args:
        sweep: The sweep.
        cfg: Config of its first setting.

    Returns:
        Full name of the sweep's metric.

    Raises:
        InputError: Validation does not compute the metric, or the config cannot be built.
    """
    if cfg.get("val_dataloader") is None or cfg.get("val_evaluator") is None:
        raise InputError(
            f"{sweep.file}: metric {sweep.metric}: the config has no validation (val_dataloader and so on)"
        )
    try:
        given, size = _validate_once(cfg)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - a metric may want more than one batch; the trials will say
        get_logger().warning("metric %s cannot be checked beforehand: %s", sweep.metric, " ".join(str(error).split()))
        return sweep.metric
    name = match_metric(sweep, given)
    for rule in sweep.stop:
        if rule.metric is not None:
            match_metric(sweep, given, rule.metric)
    limit = sweep.keep.num_bytes
    if limit is not None and limit < size:
        raise InputError(
            f"{sweep.file}: keep.bytes is {limit / 1e6:.1f} MB, less than one checkpoint of this model "
            f"({size / 1e6:.1f} MB of weights alone)"
        )
    return name


def match_metric(sweep: Sweep, given: list[str], wanted: str | None = None) -> str:
    """Find the full name of a metric.

    Args:
        sweep: The sweep.
        given: Names of the computed metrics.
        wanted: The metric or its last part; the sweep's metric by default.

    Raises:
        InputError: No metric or several match.
    """
    wanted = sweep.metric if wanted is None else wanted
    found = matching_metrics(wanted, given)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{sweep.file}: metric {wanted!r} could be {' or '.join(found)}; give the whole name")
    short = [name.rsplit("/", 1)[-1] for name in given]
    shown = some_of(short, 12) or "nothing"
    near = nearest(wanted, [*given, *short])
    raise InputError(f"{sweep.file}: validation never gives {wanted!r}{near}; it gives {shown}")


def _validate_once(cfg: Config) -> tuple[list[str], int]:
    """Return the names of the metrics and the size of the model in bytes."""
    import torch

    from raydet3d.launch.process_isolation import isolated
    from raydet3d.runtime.assemble import assemble

    small = cfg.copy()
    loader = small["val_dataloader"]
    loader.update(num_workers=0, num_batch_per_epoch=1)
    loader.pop("persistent_workers", None)
    small["custom_hooks"] = None
    names = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
    small["default_hooks"] = dict.fromkeys(names)
    small["visualizer"] = {"type": "Visualizer", "vis_backends": []}
    small["log_level"] = "CRITICAL"
    small["load_from"], small["resume"] = None, False
    small.pop("test_dataloader"), small.pop("test_cfg"), small.pop("test_evaluator")
    with tempfile.TemporaryDirectory() as folder, isolated():
        small["work_dir"] = folder
        small.import_custom_modules()
        runner = assemble(small, device=torch.device("cpu"))
        _ = runner.optim_wrapper, runner.param_schedulers
        try:
            metrics = runner.val()
        finally:
            runner.close()
        size = sum(value.numel() * value.element_size() for value in runner.model.state_dict().values())
    return [key for key, value in metrics.items() if isinstance(value, int | float)], size


def check_folder(folder: Path) -> None:
    """Check that the folder is empty, missing or a sweep's.

    Raises:
        InputError: It holds something else.
    """
    if (
        folder.is_dir()
        and any(path.name != ".lock" for path in folder.iterdir())
        and not any((folder / name).exists() for name in ("sweep.json", "trials"))
    ):
        raise InputError(f"{folder} is there already and is no sweep's folder; choose another with --work-dir DIR")
