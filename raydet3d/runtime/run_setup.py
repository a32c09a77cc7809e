"""Resolve how a run begins: its folder, name, seed, and the checkpoint to resume from."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from raydet3d import dist
from raydet3d.checkpoint.earlier_runs import bring_back
from raydet3d.checkpoint.load import exists, load_metadata, locate
from raydet3d.checkpoint.storage import Location
from raydet3d.checkpoint.store import CheckpointStore
from raydet3d.config import Config, default_work_dir, work_dir_of
from raydet3d.config.differences import find_differences, read_dump
from raydet3d.config.provenance import config_context
from raydet3d.config.section_schemas import Randomness
from raydet3d.config.type_check import read_section
from raydet3d.download import fetch
from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg, StateDict
from raydet3d.runtime import rng

_PLACES = ("work_dir", "resume", "load_from")  # keys that differ between starts of one run


@dataclass(frozen=True, kw_only=True)
class ResumeInfo:
    """Start of a run: what it resumes from, or the weights that it begins with.

    Args:
        resume_from: Checkpoint to resume from.
        state: Its content, without shards.
        load_from: Weights to begin with where nothing is resumed.
    """

    resume_from: Location | None = None
    state: StateDict | None = None
    load_from: str | None = None


def pick_device(device: torch.device | str | None) -> torch.device:
    """Return the device to run on."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def work_dir_and_name(cfg: Config) -> tuple[Path, str]:
    """Return the work dir and the name of a run."""
    stem = Path(cfg.filename).stem if cfg.filename else "run"
    return default_work_dir(cfg, cfg.filename), str(cfg.get("experiment_name") or stem)


def checkpoint_root(cfg: Config) -> Location:
    """Return the location of a run's checkpoints: its work dir, which may be a URI."""
    return locate(work_dir_of(cfg, cfg.filename))


def make_log_dir(work_dir: Path, timestamp: str | None) -> str:
    """Make the log folder of this start and return its name, the same on every rank; a given name is kept."""
    return dist.on_rank0(lambda: _make_place(work_dir, timestamp))


def _make_place(work_dir: Path, timestamp: str | None) -> str:
    wanted = timestamp or time.strftime("%Y%m%d_%H%M%S")
    number = 0
    while True:
        name = f"{wanted}-{number}" if number else wanted
        try:
            (work_dir / name).mkdir(parents=True, exist_ok=timestamp is not None)
        except OSError as error:
            if not isinstance(error, FileExistsError) or not (work_dir / name).is_dir():
                raise InputError(f"work_dir {work_dir} cannot be written to: {error.strerror}") from None
            number += 1
        else:
            return name


def remove_empty_dirs(work_dir: Path, timestamp: str, *, keep_work_dir: bool = False) -> None:
    """Remove the folder of a start that failed, and the work dir, if they are empty.

    Args:
        work_dir: Folder of the run.
        timestamp: Name of the start.
        keep_work_dir: Whether the work dir was there before the start.
    """
    if dist.is_main_process():
        with suppress(OSError):  # it is not empty
            (work_dir / timestamp).rmdir()
            if not keep_work_dir:
                work_dir.rmdir()


def resolve_resume(
    cfg: PartCfg, resume: bool | str, work_dir: Location, timestamp: str, *, retry: bool = False, run: str = ""
) -> ResumeInfo:
    """Resolve how a run begins: what is to be resumed from comes first, then `load_from`, then nothing.

    Args:
        cfg: The config.
        resume: True, False or a checkpoint.
        work_dir: Location of the run's checkpoints.
        timestamp: Name of this start.
        retry: Whether this start was tried before: it continues from what it has saved; where that is nothing yet, it
            begins as it did.
        run: With `resume=True`, the run of the work dir to resume; by default the one that saved last.
    """
    load_from: str | None = cfg.get("load_from")
    path = _latest(work_dir, start=timestamp) if retry else None
    wanted = (resume or cfg.get("resume", False)) if path is None else False
    if isinstance(wanted, str):
        path = locate(fetch(wanted))
    elif wanted:
        path = _latest(work_dir, run=run)
        if path is None and resume is not True and load_from is not None:
            path = locate(fetch(load_from))  # resume=True and load_from=F in a config: continue from F, as in MMEngine
    if path is None:
        with config_context("load_from"):
            place = fetch(load_from)
            if place is not None and not exists(locate(place)):
                raise InputError(f"there is no file {load_from}")
            return ResumeInfo(load_from=place)
    return ResumeInfo(resume_from=path, state=load_metadata(path))


def _latest(work_dir: Location, *, start: str | None = None, run: str = "") -> Location | None:
    """Return the newest checkpoint, found by rank 0 for all ranks."""

    def look() -> Location | None:
        store = CheckpointStore(work_dir)
        if run:
            bring_back(store, run)
        return store.latest(start=start, run=run or None)

    return dist.on_rank0(look)


def log_config_changes(state: StateDict, cfg: Config, logger: logging.Logger) -> None:
    """Name every difference between a checkpoint's config and the run's; those that change the numbers as warnings."""
    text = (state.get("meta") or {}).get("cfg")
    if not text or not isinstance(text, str):
        return
    try:
        differences = find_differences(read_dump(text), cfg, ignored=_PLACES)
    except ValueError:
        logger.warning("the config in the checkpoint cannot be read: what has changed since is not known")
        return
    for one in differences:
        level = logging.WARNING if one.is_exact else logging.INFO
        logger.log(level, "changed since the checkpoint: %s", one)


def resolve_seed(cfg: PartCfg, start: ResumeInfo) -> int:
    """Seed with the config's seed, else the checkpoint's, else a drawn one, and return it."""
    given = read_section(Randomness, cfg.get("randomness"), "randomness")
    seed = given.seed
    if seed is None and start.state is not None:
        seed = start.state.get("meta", {}).get("seed")
    if seed is None:
        seed = rng.draw_seed()
    rng.set_seed(seed, rank=dist.get_rank(), diff_rank_seed=given.diff_rank_seed, deterministic=given.deterministic)
    return seed


def resolve_batch_workers(cfg: PartCfg, start: ResumeInfo) -> int:
    """Return the number of ranks that the run is laid out for: as many as when it began.

    It is the present number where `batch_size` was changed so that an iteration keeps its number of samples.
    """
    state, here = start.state or {}, dist.get_world_size()
    sampler = state.get("sampler", {})
    loader = cfg.get("train_dataloader")
    size = loader.get("batch_size") if isinstance(loader, Mapping) else None
    if isinstance(size, int) and size * here == sampler.get("batch_size"):
        return here
    return int(sampler.get("slots") or state.get("meta", {}).get("world_size") or here)
