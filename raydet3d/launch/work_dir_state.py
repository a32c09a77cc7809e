"""Inspect a work dir before training: empty, resumable, finished, or used by another run.

What is on disk is asked of the checkpoint store; the log of starts adds whether a run came to its end.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from raydet3d.checkpoint.catalog import CheckpointCatalog
from raydet3d.checkpoint.earlier_runs import find_earlier_runs
from raydet3d.checkpoint.manifest import Manifest, text_digest
from raydet3d.checkpoint.storage import ObjectStorage
from raydet3d.config import Config, is_uri
from raydet3d.config.differences import find_differences, read_dump
from raydet3d.errors import InputError, some_of
from raydet3d.launch.restart_file import RestartEntry, read_reached, read_starts
from raydet3d.run_status import RunResult

# Keys that say where and how a run works, and not what it learns.
_ABOUT = ("ray", "work_dir", "resume", "load_from", "log_level", "launcher", "experiment_name", "visualizer")


@dataclass(frozen=True, kw_only=True)
class PreviousRun:
    """A run that has left something in the work dir.

    Args:
        run: Its name.
        reached: Iterations that it had finished.
        finished: Whether it came to its end and its last weights are kept.
        result: Its result, if it did.
        differences: What the config says now and did not say then, a line each; None where that is not known.
        saved: Whether it has a checkpoint to resume from.
    """

    run: str
    reached: int
    finished: bool
    result: RunResult = field(default_factory=RunResult)
    differences: list[str] | None = None
    saved: bool = True

    @property
    def is_same(self) -> bool:
        """Whether the config is the one that the run was started with."""
        return self.differences == []

    def describe(self) -> str:
        """Describe the differences briefly."""
        if not self.differences:
            return "whose config is not known" if self.differences is None else "with the same config"
        return f"whose config differs ({some_of(self.differences, 6, separator='; ')})"


@dataclass(frozen=True, kw_only=True)
class WorkDirState:
    """The runs of a work dir.

    Args:
        active: The run whose checkpoints lie in the work dir itself; where there are none, the last that began there.
        earlier: Runs whose checkpoints were moved aside, newest first.
    """

    active: PreviousRun | None = None
    earlier: list[PreviousRun] = field(default_factory=list)

    def with_same_config(self) -> PreviousRun | None:
        """Return the newest run with a checkpoint and the same config."""
        runs = [run for run in (self.active, *self.earlier) if run is not None]
        return next((run for run in runs if run.is_same and run.saved), None)


def inspect_work_dir(work_dir: Path, cfg: Config) -> WorkDirState:
    """Find the runs of a work dir.

    Args:
        work_dir: The folder; where `cfg.work_dir` is a URI, the one that stands for it on this machine: what other
            machines have left there is downloaded first.
        cfg: The config that is to run, before a seed was drawn for it.
    """
    home = str(cfg.get("work_dir"))
    if is_uri(home):
        _bring(home, work_dir, _config_name(cfg))
    store = CheckpointCatalog(home if is_uri(home) else work_dir)
    starts = read_starts(work_dir)
    active = _newest_run(store, work_dir, cfg, starts)
    if active is None and starts:
        active = PreviousRun(
            run=starts[-1]["run"],
            reached=read_reached(work_dir) or 0,
            finished=False,
            differences=_differences(_read_text(work_dir / _config_name(cfg)), cfg),
            saved=False,
        )
    earlier = [
        (found, manifest.time)
        for one in find_earlier_runs(store)
        if (found := _newest_run(one, work_dir, cfg, starts)) is not None
        for manifest in _manifests(one)[-1:]
    ]
    return WorkDirState(active=active, earlier=[run for run, _ in sorted(earlier, key=lambda pair: pair[1])[::-1]])


def _manifests(store: CheckpointCatalog) -> list[Manifest]:
    """Return a work dir's manifests; those in the folder that `last_checkpoint` points to come last."""
    return [manifest for one in reversed(store.with_elsewhere()) for manifest in one.manifests()]


def _newest_run(
    store: CheckpointCatalog, work_dir: Path, cfg: Config, starts: list[RestartEntry]
) -> PreviousRun | None:
    """Return the run that saved last in a store; None if there is no checkpoint."""
    manifests = _manifests(store)
    if not manifests:
        return None
    newest = manifests[-1]
    own = [manifest for manifest in manifests if manifest.run == newest.run]
    regular = [manifest.step for manifest in own if not manifest.is_best]
    last: RestartEntry = next((entry for entry in reversed(starts) if entry["run"] == newest.run), RestartEntry())
    finished = last.get("finished") is True and _is_kept(store, newest.run, last.get("saved"))
    reached = read_reached(work_dir) if starts and starts[-1]["run"] == newest.run else None
    return PreviousRun(
        run=newest.run,
        reached=last["iter"] if finished else max(reached or 0, *regular, 0),
        finished=finished,
        result=last.get("result") or {},
        differences=_differences(_config_of(store, newest, work_dir, cfg), cfg),
        saved=any(manifest.resumable for manifest in own),
    )


def _is_kept(store: CheckpointCatalog, run: str, step: int | None) -> bool:
    """Whether a run's last weights are there and whole; of a run that has saved none, nothing is missing."""
    if step is None:
        return True
    return any(
        one.find(lambda manifest: manifest.run == run and not manifest.is_best and manifest.step >= step) is not None
        for one in store.with_elsewhere()
    )


def _bring(uri: str, work_dir: Path, config: str) -> None:
    """Bring what other machines have logged of a run behind a URI."""
    from raydet3d.checkpoint.log_upload import LogUploader
    from raydet3d.log import get_logger

    LogUploader(work_dir, ObjectStorage.at(uri), get_logger()).pull(config)


def _config_name(cfg: Config) -> str:
    return Path(cfg.filename).name if cfg.filename else "config.py"


def _read_text(path: Path) -> str | None:
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")
    return None


def _config_of(store: CheckpointCatalog, manifest: Manifest, work_dir: Path, cfg: Config) -> str | None:
    """Return the config text of a checkpoint: from a copy in the work dir, else from the checkpoint."""
    for path in (work_dir / _config_name(cfg), work_dir / manifest.start / "vis_data" / "config.py"):
        text = _read_text(path)
        if text is not None and text_digest(text) == manifest.config:
            return text
    from raydet3d.checkpoint.load import load_metadata  # imports torch: a command names what is wrong before

    for one in store.with_elsewhere():
        with suppress(InputError, OSError, KeyError, TypeError):
            return str(load_metadata(one.location(manifest))["meta"]["cfg"])
    return None


def _differences(before: str | None, cfg: Config) -> list[str] | None:
    """Return the differences from the config of the earlier run; None if they are not known."""
    if not before:
        return None
    with suppress(ValueError):
        return [str(one) for one in find_differences(read_dump(before), cfg, ignored=_ABOUT)]
    return None
