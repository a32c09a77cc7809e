"""What is in a checkpoint: the writer, and below it the reader that mirrors it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from raydet3d import __version__, dist
from raydet3d.errors import InputError
from raydet3d.optim import resume_schedulers
from raydet3d.runtime import rng
from raydet3d.runtime.ddp import unwrapped
from raydet3d.runtime.fsdp import is_sharded_model
from raydet3d.runtime.history import is_plain
from raydet3d.runtime.loaders import global_batch_size, num_batch_workers


def collect(runner: Any, *, optimizer: bool, schedulers: bool) -> dict[str, Any]:
    """Everything a run needs to go on as if it had not stopped. Every rank calls it.

    Args:
        runner: The run.
        optimizer: Whether the optimizer's state (and the scaler's) is in it.
        schedulers: Whether the schedulers' state is in it.
    """
    progress = runner.progress.state_dict()
    state: dict[str, Any] = {
        "meta": {
            "epoch": progress["epoch"],
            "iter": progress["iter"],
            "seed": runner.seed,
            "experiment_name": runner.experiment_name,
            "run": runner.run_name,
            "time": time.strftime("%Y%m%d_%H%M%S"),
            "cfg": runner.cfg_text,
            "dataset_meta": _dataset_meta(runner),
            "world_size": runner.world_size,
            "threads": torch.get_num_threads(),
            "raydet3d_version": __version__,
            "torch_version": str(torch.__version__),
        },
        "state_dict": unwrapped(runner.model).state_dict(),
        # MMEngine's resume reads this key; our history, which it could not read, has its own.
        "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
        "progress": progress,
        "history": runner.message_hub.state_dict(),
        "hooks": runner.hook_states(),
        # While a validation runs, the generators are fenced: training goes on with what they were before.
        "rng": dist.all_gather_object(runner.training_rng or rng.capture(runner.device)),
        "sampler": {
            "seed": runner.seed,
            "batch_size": global_batch_size(runner.train_dataloader),
            "slots": num_batch_workers(runner.train_dataloader),
        },
    }
    if optimizer:
        state["optimizer"] = runner.optim_wrapper.state_dict()
        if is_sharded_model(runner.model):  # each rank has its shards of them
            state["optimizer"]["pending_gradients"] = _pending(runner)
        elif runner.distributed:  # alone, they are in the optimizer's state
            state["pending_gradients"] = _gather_pending(runner)
    if schedulers:
        state["param_schedulers"] = _each(runner.param_schedulers, lambda scheduler: scheduler.state_dict())
    return state


def apply(runner: Any, state: Mapping[str, Any], *, optimizer: bool, schedulers: bool) -> None:
    """Set a run to what ``collect`` saw, but for the weights.

    A checkpoint of MMEngine's, which lacks our entries, gives counts, optimizer and schedulers.

    Args:
        runner: The run.
        state: What ``collect`` gave, or a checkpoint of MMEngine's.
        optimizer: Whether the optimizer's state is taken over.
        schedulers: Whether the schedulers' state is.
    """
    meta = state.get("meta", {})
    if optimizer:
        runner.optim_wrapper.load_state_dict(state["optimizer"])
        pending = state.get("pending_gradients") or []
        if len(pending) == runner.world_size:
            runner.optim_wrapper.load_pending_gradients(pending[runner.rank])
        elif pending:  # what counts is the ranks' mean
            names = {name for rank in pending for name in rank}
            mean = {n: sum(rank[n] for rank in pending if n in rank) / len(pending) for n in names}
            runner.optim_wrapper.load_pending_gradients(mean)
    runner.progress.load_state_dict(state.get("progress") or _foreign_progress(runner, meta))
    if meta.get("world_size", runner.world_size) != runner.world_size:
        runner.logger.info("changed since the checkpoint: processes: %d -> %d", meta["world_size"], runner.world_size)
    _move_position(runner, state.get("sampler", {}).get("batch_size"))
    _set_end(runner)
    if schedulers and "param_schedulers" in state:
        _load_schedulers(runner, state["param_schedulers"])
    if "history" in state:
        runner.message_hub.load_state_dict(state["history"])
    for name in runner.load_hook_states(state.get("hooks", [])):
        runner.logger.warning("the checkpoint has state of %s, which this run does not have", name)
    _restore_rng(runner, state.get("rng", []))
    if meta.get("seed", runner.seed) != runner.seed:
        runner.logger.warning(
            "the checkpoint was made with seed %s, this run has %d: what is left of the pass comes in another order",
            meta["seed"],
            runner.seed,
        )
    threads = meta.get("threads", torch.get_num_threads())
    if threads != torch.get_num_threads():
        runner.logger.warning(
            "the checkpoint was made with %d torch threads, this run has %d: last digits may differ",
            threads,
            torch.get_num_threads(),
        )


def _gather_pending(runner: Any) -> list[dict[str, Any]]:
    """Gradients of an accumulation that has not made its step: each rank has its own. Empty where there are none."""
    ranks = dist.all_gather_object({name: gradient.cpu() for name, gradient in _pending(runner).items()})
    return ranks if any(ranks) else []


def _pending(runner: Any) -> dict[str, Any]:
    pending: dict[str, Any] = getattr(runner.optim_wrapper, "pending_gradients", dict)()
    return pending


def _restore_rng(runner: Any, states: list[dict[str, Any]]) -> None:
    if len(states) == runner.world_size:
        rng.restore(states[runner.rank], runner.device)
    elif states:
        runner.logger.warning(
            "the checkpoint is of %d processes, this run has %d: random draws inside the model will differ",
            len(states),
            runner.world_size,
        )
        rng.set_seed(runner.seed + runner.iter, rank=runner.rank, diff_rank_seed=True)


def _foreign_progress(runner: Any, meta: Mapping[str, Any]) -> dict[str, int]:
    """Counts for a checkpoint of MMEngine's, which knows epoch and iteration only."""
    iteration, length = int(meta.get("iter", 0)), len(runner.train_dataloader)
    by_epoch = getattr(runner.train_loop, "by_epoch", True)
    epoch = int(meta.get("epoch", 0)) if by_epoch else 0
    done = epoch if by_epoch else iteration // length
    batch = max(0, iteration - done * length)
    return {"epoch": epoch, "iter": iteration, "round": done, "batch": batch, "validated": iteration}


def _move_position(runner: Any, batch_size: int | None) -> None:
    """Keep the place in the data when the global batch has another size than in the checkpoint."""
    here = global_batch_size(runner.train_dataloader)
    if batch_size and here and batch_size != here:
        runner.progress.batch = runner.progress.batch * batch_size // here
        runner.logger.warning(
            "the global batch was %d samples and is %d now: going on at sample %d of the pass; learning rates stay as "
            "they are scheduled",
            batch_size,
            here,
            runner.progress.batch * here,
        )


def _set_end(runner: Any) -> None:
    """Count the iterations of an epoch-based run from where it stands: earlier epochs may have had another length."""
    loop, progress = runner.train_loop, runner.progress
    if getattr(loop, "by_epoch", False) and runner.max_epochs is not None:  # a loop of a user's own may do without
        length = len(runner.train_dataloader)
        left = max(runner.max_epochs - progress.epoch, 0) * length - progress.batch
        loop.max_iters = progress.iter + max(left, 0)


def _dataset_meta(runner: Any) -> dict[str, Any]:
    meta = getattr(runner.train_dataloader.dataset, "metainfo", None) or {}
    return {str(key): value for key, value in dict(meta).items() if is_plain(value)}


def _each(parts: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to schedulers: a list, or a dict of lists for several optimizers."""
    if isinstance(parts, Mapping):
        return {name: _each(some, function) for name, some in parts.items()}
    return [function(part) for part in parts]


def _load_schedulers(runner: Any, states: Any) -> None:
    """Schedules go on from their counts; what the config says now holds, and the log says what has changed."""
    parts = runner.param_schedulers
    if isinstance(parts, Mapping) != isinstance(states, Mapping):
        raise InputError("the checkpoint is of one optimizer and the config of several, or the other way round")
    pairs = (
        [(runner.optim_wrapper[name], some, states[name]) for name, some in parts.items()]
        if isinstance(parts, Mapping)
        else [(runner.optim_wrapper, parts, states)]
    )
    for wrapper, some, saved in pairs:
        changes = resume_schedulers(
            wrapper,
            some,
            saved,
            iters=runner.iter,
            epochs=runner.epoch,
            epoch_length=len(runner.train_dataloader),
            max_iters=runner.max_iters,
        )
        for line in changes:
            runner.logger.info("changed since the checkpoint: %s", line)
