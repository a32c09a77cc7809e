"""`TrainState`: what a checkpoint holds. `load_state_dict` mirrors `state_dict`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from raydet3d import __version__, dist
from raydet3d.dist import unwrapped
from raydet3d.errors import InputError
from raydet3d.hooks.base import Hooks, global_batch_size
from raydet3d.hooks.context import Schedulers, StateDict, TrainLoop
from raydet3d.optim import OptimWrapper, OptimWrapperDict, ParamScheduler, resume_schedulers
from raydet3d.optim.schedule import SchedulerState
from raydet3d.runtime import rng
from raydet3d.runtime.ddp import is_sharded
from raydet3d.runtime.history import History, is_plain
from raydet3d.runtime.loaders import num_batch_workers
from raydet3d.runtime.progress import Progress
from raydet3d.runtime.rng import RngState

T = TypeVar("T")


class Meta(TypedDict, total=False):
    """Facts in a checkpoint about the run and its process; MMEngine's have epoch, iteration, seed and a few others."""

    epoch: int
    iter: int
    seed: int
    time: str
    dataset_meta: StateDict
    world_size: int
    threads: int
    raydet3d_version: str
    torch_version: str
    experiment_name: str
    run: str
    cfg: str


@dataclass(kw_only=True)
class TrainState:
    """The parts of a run whose state a checkpoint holds.

    Args:
        model: The model in its wrapper.
        optim_wrapper: The optimizer in its wrapper.
        schedulers: Its schedulers.
        progress: The counts.
        history: Scalars and facts.
        hooks: The hooks.
        loop: The training loop; its data loader says what an iteration is.
        seed: The run's seed.
        device: Device whose random generator is saved.
        rng: State of the random generators to save; captured when None. (An evaluation that is running has saved
            training's, with which training continues.)
        logger: Where differences between checkpoint and run are reported.
    """

    model: nn.Module
    optim_wrapper: OptimWrapper
    schedulers: Schedulers
    progress: Progress
    history: History
    hooks: Hooks
    loop: TrainLoop
    seed: int
    device: torch.device
    rng: RngState | None
    logger: logging.Logger

    def state_dict(self, *, optimizer: bool = True, schedulers: bool = True) -> StateDict:
        """Return everything a run needs to continue as if it had not stopped. Every rank calls it.

        Args:
            optimizer: Whether the optimizer's state (and the gradient scaler's) is in it.
            schedulers: Whether the schedulers' state is in it.
        """
        progress, loader = self.progress.state_dict(), self.loop.dataloader
        state: StateDict = {
            "meta": {
                "epoch": progress["epoch"],
                "iter": progress["iter"],
                "seed": self.seed,
                "time": time.strftime("%Y%m%d_%H%M%S"),
                "dataset_meta": self._dataset_meta(),
                "world_size": dist.get_world_size(),
                "threads": torch.get_num_threads(),
                "raydet3d_version": __version__,
                "torch_version": str(torch.__version__),
            },
            "state_dict": unwrapped(self.model).state_dict(),
            # MMEngine's resume reads this key; our history, which it could not read, has its own.
            "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
            "progress": progress,
            "history": self.history.state_dict(),
            "hooks": self.hooks.state_dict(),
            "rng": dist.all_gather_object(self.rng or rng.capture(self.device)),
            "sampler": {
                "seed": self.seed,
                "batch_size": global_batch_size(loader),
                "slots": num_batch_workers(loader),
            },
        }
        if optimizer:
            state["optimizer"] = self.optim_wrapper.checkpoint_state()
            if is_sharded(self.model):  # each rank has its shards of the gradients
                state["optimizer"]["pending_gradients"] = self.optim_wrapper.pending_gradients()
            elif dist.get_world_size() > 1:  # in one process, they are in the optimizer's state
                state["pending_gradients"] = self._gather_pending_gradients()
        if schedulers:
            state["param_schedulers"] = _map_schedulers(self.schedulers, lambda scheduler: scheduler.state_dict())
        return state

    def load_state_dict(self, state: StateDict, *, optimizer: bool = True, schedulers: bool = True) -> None:
        """Restore everything but the weights, which are loaded separately.

        A checkpoint of MMEngine's, which lacks our entries, gives counts, optimizer and schedulers.

        Args:
            state: What `state_dict` returned, or a checkpoint of MMEngine's.
            optimizer: Whether to restore the optimizer.
            schedulers: Whether to restore the schedulers.
        """
        meta: Meta = state.get("meta", {})
        if optimizer:
            self.optim_wrapper.load_state_dict(state["optimizer"])
            self._load_pending_gradients(state.get("pending_gradients") or [])
        self.progress.load_state_dict(state.get("progress") or self._mmengine_progress(meta))
        self._report_processes(meta)
        self._keep_sample_position(state.get("sampler", {}).get("batch_size"))
        self._set_max_iters()
        if schedulers and "param_schedulers" in state:
            self._load_schedulers(state["param_schedulers"])
        if "history" in state:
            self.history.load_state_dict(state["history"])
        for name in self.hooks.load_state_dict(state.get("hooks", [])):
            self.logger.warning("the checkpoint has state of %s, which this run does not have", name)
        self._load_rng(state.get("rng", []))
        self._report_exactness(meta)

    # -- parts --------------------------------------------------------------------------------------------------

    def _dataset_meta(self) -> dict[str, Any]:
        meta: Mapping[str, Any] = getattr(self.loop.dataloader.dataset, "metainfo", None) or {}
        return {str(key): value for key, value in dict(meta).items() if is_plain(value)}

    def _gather_pending_gradients(self) -> list[dict[str, Tensor]]:
        """Gather each rank's gradients of an unfinished accumulation; an empty list where there are none."""
        pending = {name: gradient.cpu() for name, gradient in self.optim_wrapper.pending_gradients().items()}
        ranks: list[dict[str, Tensor]] = dist.all_gather_object(pending)
        return ranks if any(ranks) else []

    def _load_pending_gradients(self, ranks: Sequence[Mapping[str, Tensor]]) -> None:
        if len(ranks) == dist.get_world_size():
            self.optim_wrapper.load_pending_gradients(ranks[dist.get_rank()])
        elif ranks:  # the update uses the mean over ranks
            names = {name for rank in ranks for name in rank}
            mean = {n: reduce(add, (rank[n] for rank in ranks if n in rank)) / len(ranks) for n in names}
            self.optim_wrapper.load_pending_gradients(mean)

    def _mmengine_progress(self, meta: Meta) -> dict[str, int]:
        """Return the counts of a checkpoint of MMEngine's, which has epoch and iteration only."""
        iteration, length = int(meta.get("iter", 0)), len(self.loop.dataloader)
        by_epoch = getattr(self.loop, "by_epoch", True)
        epoch = int(meta.get("epoch", 0)) if by_epoch else 0
        done = epoch if by_epoch else iteration // length
        batch = max(0, iteration - done * length)
        return {"epoch": epoch, "iter": iteration, "round": done, "batch": batch, "validated": iteration}

    def _keep_sample_position(self, batch_size: int | None) -> None:
        """Continue at the same sample of the pass where the global batch has another size than in the checkpoint."""
        here = global_batch_size(self.loop.dataloader)
        if batch_size and here and batch_size != here:
            self.progress.batch = self.progress.batch * batch_size // here
            self.logger.warning(
                "the global batch was %d samples and is %d now: continuing at sample %d of the pass; learning rates "
                "stay as they are scheduled",
                batch_size,
                here,
                self.progress.batch * here,
            )

    def _set_max_iters(self) -> None:
        """Count the iterations of an epoch-based run from here: earlier epochs may have had another length."""
        loop, progress = self.loop, self.progress
        max_epochs = getattr(loop, "max_epochs", None)  # a loop of the user's own may have neither
        if getattr(loop, "by_epoch", False) and max_epochs is not None:
            left = max(max_epochs - progress.epoch, 0) * len(loop.dataloader) - progress.batch
            loop.max_iters = progress.iter + max(left, 0)

    def _load_schedulers(self, states: Sequence[SchedulerState] | Mapping[str, Sequence[SchedulerState]]) -> None:
        """Restore the schedulers' counts; the settings of the config hold, and changed ones are reported."""
        parts = self.schedulers
        if isinstance(parts, Mapping) != isinstance(states, Mapping):
            raise InputError("the checkpoint is of one optimizer and the config of several, or the other way round")
        named = parts if isinstance(parts, Mapping) else {"": parts}
        for name, some in named.items():
            changes = resume_schedulers(
                self.optim_wrapper[name] if isinstance(self.optim_wrapper, OptimWrapperDict) else self.optim_wrapper,
                some,
                states[name] if isinstance(states, Mapping) else states,
                iters=self.progress.iter,
                epochs=self.progress.epoch,
                epoch_length=len(self.loop.dataloader),
                max_iters=getattr(self.loop, "max_iters", None),
            )
            for line in changes:
                self.logger.info("changed since the checkpoint: %s", line)

    def _load_rng(self, ranks: Sequence[RngState]) -> None:
        world_size = dist.get_world_size()
        if len(ranks) == world_size:
            rng.restore(ranks[dist.get_rank()], self.device)
        elif ranks:
            self.logger.warning(
                "the checkpoint is of %d processes, this run has %d: random draws inside the model will differ",
                len(ranks),
                world_size,
            )
            rng.set_seed(self.seed + self.progress.iter, rank=dist.get_rank(), diff_rank_seed=True)

    # -- what differs -------------------------------------------------------------------------------------------

    def _report_processes(self, meta: Meta) -> None:
        before, now = meta.get("world_size"), dist.get_world_size()
        if before not in (None, now):
            self.logger.info("changed since the checkpoint: processes: %d -> %d", before, now)

    def _report_exactness(self, meta: Meta) -> None:
        """Report a seed or a number of torch threads that changes the rest of the run."""
        if meta.get("seed", self.seed) != self.seed:
            self.logger.warning(
                "the checkpoint was made with seed %s, this run has %d: what is left of the pass comes in another "
                "order",
                meta["seed"],
                self.seed,
            )
        threads = meta.get("threads", torch.get_num_threads())
        if threads != torch.get_num_threads():
            self.logger.warning(
                "the checkpoint was made with %d torch threads, this run has %d: last digits may differ",
                threads,
                torch.get_num_threads(),
            )


def _map_schedulers(schedulers: Schedulers, function: Callable[[ParamScheduler], T]) -> list[T] | dict[str, list[T]]:
    """Apply a function to each scheduler of a list, or of a dict of lists (several optimizers)."""
    if isinstance(schedulers, Mapping):
        return {name: [function(one) for one in some] for name, some in schedulers.items()}
    return [function(one) for one in schedulers]
