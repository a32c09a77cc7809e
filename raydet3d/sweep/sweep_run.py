"""Run a sweep from begin to end, for the command and for notebooks."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from raydet3d.config import Config, find_config
from raydet3d.errors import InputError
from raydet3d.files import locked, set_aside
from raydet3d.launch.preflight import check_writable
from raydet3d.launch.signals import Stopped, StopRequest
from raydet3d.log import get_logger
from raydet3d.sweep.domains import Range, Value
from raydet3d.sweep.results import Results, read_results, write_best_config, write_tables
from raydet3d.sweep.spec import Sweep, read_sweep
from raydet3d.sweep.sweep_console import SweepConsole
from raydet3d.sweep.trial_config import TrialConfigBuilder, digest, run_length
from raydet3d.sweep.trial_store import (
    FAILED,
    OPEN,
    WAITING,
    SweepRecord,
    Trial,
    TrialStore,
    read_sweep_record,
    write_json,
)
from raydet3d.sweep.validation import (
    check_configs,
    check_folder,
    check_lengths,
    check_metric,
    check_resources,
    check_turns,
    this_machine,
)

if TYPE_CHECKING:
    from raydet3d.sweep.trial_queue import TrialQueue

FIXED = ("metric", "mode", "search", "scheduler", "seeds", "cfg_options", "space", "baseline")
"""What a resumed sweep must have as it began; the rest (trials, budget, keep, ...) may change."""


def sweep(
    config: str | Path,
    source: str | Path | Mapping[str, Value],
    *,
    work_dir: str | Path | None = None,
    cfg_options: Mapping[str, Value] | None = None,
    smoke: bool = False,
    retry_failed: bool = False,
    request: StopRequest | None = None,
) -> Results:
    """Run or resume a sweep, and write its results.

    Args:
        config: The config.
        source: The sweep's YAML file, or its content.
        work_dir: The sweep's folder; `work_dirs/<config's name>-<sweep's name>` by default.
        cfg_options: Overrides for all trials, over the sweep's own.
        smoke: Run it in the small size that its `smoke` section describes.
        retry_failed: Whether trials that have failed are tried again, from their newest checkpoints.
        request: Whether this process is asked to stop.

    Returns:
        The trials, best first.

    Raises:
        InputError: Something in the config, the sweep or the folder must be corrected first.
        Stopped: The sweep was asked to stop; the next start resumes it.
    """
    spec = read_sweep(source, smoke=smoke)
    path = find_config(config)
    builder = TrialConfigBuilder(config=path, sweep=spec, options={**spec.cfg_options, **(cfg_options or {})})
    configs = check_configs(builder)
    counter = check_lengths(spec, configs)
    if (machine := _machine(spec)) is not None:
        check_resources(spec, machine, where="this machine")
    name = f"{path.stem}-{'sweep' if isinstance(source, Mapping) else Path(source).stem}" + ("-smoke" if smoke else "")
    folder = Path(work_dir or Path("work_dirs") / name).expanduser().absolute()
    check_folder(folder)
    check_writable(folder, "the sweep's folder")
    _check_same(folder, spec, configs[0])

    from raydet3d.runtime.consistency import warn_of_contradictions
    from raydet3d.runtime.loaders import check_data
    from raydet3d.runtime.validate import check_sections  # torch is imported from here on

    for cfg in configs:
        check_sections(cfg)
    warn_of_contradictions(configs[0])
    configs[0].import_custom_modules()
    check_data(configs[0])
    metric = check_metric(spec, configs[1] if spec.baseline else configs[0])

    from raydet3d.sweep.trial_queue import TrialQueue  # and Ray from here on

    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: this sweep is being run by another process"
    with locked(folder / ".lock", timeout_s=1, busy=busy):
        trials = _known_trials(TrialStore(folder), retry_failed=retry_failed)
        longest = max(run_length(cfg)[1] for cfg in configs)
        queue = TrialQueue(builder, TrialStore(folder), trials, metric=metric, longest=longest)
        write_json(folder / "sweep.json", _record(queue, name=name, counter=counter, own=configs[0]))
        stopped = _run(queue, SweepConsole(metric=metric, mode=spec.mode, counter=counter), request)
        if stopped == "SIGINT":
            raise KeyboardInterrupt
        if stopped is not None:
            raise Stopped(stopped)
        return report(folder)


def _known_trials(store: TrialStore, *, retry_failed: bool) -> list[Trial]:
    """Return the trials of earlier starts."""
    trials, wrong = store.load()
    for sentence in wrong:
        get_logger().warning("%s", sentence)
    record = store.path / "sweep.json"
    if trials and read_sweep_record(store.path) is None:
        moved = set_aside(record)
        kept = f" and is kept as {moved.name}" if moved is not None else ""
        get_logger().warning("%s cannot be read%s: the sweep resumes from its %d trials", record, kept, len(trials))
    for trial in trials if retry_failed else ():
        if trial.state == FAILED and trial.setting is not None:
            trial.state, trial.reason, trial.restarts = WAITING, "", 0
    return trials


def _run(queue: TrialQueue, console: SweepConsole, request: StopRequest | None) -> str | None:
    """Run what is left of a sweep; return why it was stopped, if it was."""
    from raydet3d.sweep.tune_driver import SweepDriver, sweep_cluster

    spec, trials = queue.sweep, list(queue.trials.values())
    how = f"search {spec.search.type}, scheduler {spec.scheduler.type}"
    total = queue.total if queue.total is not None else "any number of"
    console.print(f"sweep {queue.store.path}: {total} trials, {how}, {spec.mode} {queue.metric}")
    num_open = sum(trial.state in OPEN for trial in trials)
    if trials:
        failed = sum(trial.state == FAILED for trial in trials)
        console.print(
            f"it resumes: {len(trials) - num_open} of its trials have ended ({failed} failed) and are not run again, "
            f"{num_open} resume from their checkpoints"
        )
    if queue.total is not None and len(trials) >= queue.total and not num_open:
        return None  # nothing is left to do, so no cluster is needed
    machine, wanted = _machine(spec), spec.resources
    concurrency = check_resources(spec, machine, where="this machine") if machine is not None else spec.concurrency or 1
    with sweep_cluster(concurrency * (wanted.workers * wanted.cpus + 0.01), concurrency=concurrency) as resources:
        if machine is None:
            concurrency = check_resources(spec, resources(), where="the cluster")
            check_turns(spec, concurrency)
        driver = SweepDriver(queue, console, concurrency=concurrency, request=request)
        if request is not None:
            request.listen()  # Ray's core has taken the signals
            request.trains = True
        driver.run()
    if driver.over is not None:
        console.print(f"the sweep's budget is used up: {driver.over}; raise it and run the same command to continue")
    return driver.stopped


def _machine(spec: Sweep) -> dict[str, float] | None:
    """Return this machine's resources; None where there is a cluster to ask."""
    ray = sys.modules.get("ray")
    if os.environ.get("RAY_ADDRESS") or (ray is not None and ray.is_initialized()):
        return None
    return this_machine(gpus=spec.resources.gpus > 0)


def _record(queue: TrialQueue, *, name: str, counter: str, own: Config) -> SweepRecord:
    spec, before = queue.sweep, read_sweep_record(queue.store.path)
    kinds = {
        key: ("log" if domain.log else "linear") if isinstance(domain, Range) else "choice"
        for key, domain in spec.space.domains.items()
    }
    return {
        "name": name,
        "config": str(queue.builder.config.absolute()),
        "options": dict(queue.builder.options),
        "spec": dict(spec.raw),
        "metric": queue.metric,
        "mode": spec.mode,
        "counter": counter,
        "num_seeds": spec.num_seeds,
        "kinds": kinds,
        "own_values": queue.filled({}),
        "digest": digest(own),
        "started": time.strftime("%Y-%m-%d %H:%M:%S") if before is None else before["started"],
    }


def _check_same(folder: Path, spec: Sweep, own: Config) -> None:
    """Refuse to resume another sweep, or with the same over another config.

    Raises:
        InputError: They differ.
    """
    about = read_sweep_record(folder)
    if about is None:
        return
    before = about["spec"]
    now = json.loads(json.dumps(spec.raw, default=str))
    for key in FIXED:
        if before.get(key) != now.get(key):
            raise InputError(
                f"{folder} holds a sweep with another {key} ({before.get(key)!r}, in {spec.file} {now.get(key)!r}); "
                "choose another folder with --work-dir DIR"
            )
    if about["digest"] != digest(own):
        raise InputError(
            f"{folder} holds a sweep over another config (it has changed since); choose another --work-dir DIR"
        )


def report(folder: str | Path, out: str | Path | None = None) -> Results:
    """Write a sweep's tables, report and best config anew.

    Args:
        folder: The sweep's folder.
        out: Where to write the page; `report.html` in the folder by default.

    Raises:
        InputError: There is no sweep in it.
    """
    from raydet3d.sweep.sweep_report import write_report

    results = read_results(Path(folder).absolute())
    check_writable(results.folder, "the sweep's folder", "copy it to where its tables can be written")
    write_tables(results)
    if results.best is not None:
        cfg = _config_of(results, results.best)
        if cfg is not None:
            write_best_config(results, cfg)
    write_report(results, None if out is None else Path(out))
    return results


def _config_of(results: Results, trial: Trial) -> Config | None:
    """Return the config with which a trial would train outside of its sweep."""
    about = read_sweep_record(results.folder)
    assert about is not None  # `read_results` has read it
    try:
        spec = read_sweep({**about["spec"]})
        builder = TrialConfigBuilder(config=Path(about["config"]), sweep=spec, options=about["options"])
        cfg = builder.build(trial.setting)
    except InputError as error:
        get_logger().warning("best_config.py cannot be written: %s", error)
        return None
    cfg["randomness"] = {**(cfg.get("randomness") or {}), "seed": trial.seed}
    if digest(cfg) != trial.digest:
        get_logger().warning(
            "best_config.py is left as it is: %s gives another config now than when trial %s ran",
            about["config"],
            trial.id,
        )
        return None
    wanted = spec.resources
    ray = {**(cfg.get("ray") or {}), "num_workers": wanted.workers, "cpus_per_worker": wanted.cpus}
    ray["threads_per_worker"] = wanted.threads or max(int(wanted.cpus), 1)
    cfg["ray"] = {**ray, "gpus_per_worker": wanted.gpus or None}
    return cfg
