"""``Runner``: the parts of one run and their order. It calls hooks, runs a loop, and says what is in a checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydet3d import dist
from raydet3d.active_run import activate
from raydet3d.checkpoint.download import fetch
from raydet3d.checkpoint.load import load_metadata, load_shards, locate
from raydet3d.checkpoint.load_weights import load_weights, rename_weights
from raydet3d.checkpoint.log_upload import LogUploader
from raydet3d.checkpoint.staging import is_sharded
from raydet3d.checkpoint.storage import Location, ObjectStorage
from raydet3d.checkpoint.store import CheckpointStore
from raydet3d.errors import InputError
from raydet3d.hooks.base import Hook, Hooks
from raydet3d.log import close_logger, release_buffered
from raydet3d.runtime.ddp import unwrapped
from raydet3d.runtime.fsdp import is_sharded_model
from raydet3d.runtime.history import History
from raydet3d.runtime.loaders import global_batch_size, num_batch_workers, release
from raydet3d.runtime.nonfinite_debug import diagnose_nonfinite
from raydet3d.runtime.parts import Makers, Parts
from raydet3d.runtime.progress import Phase
from raydet3d.runtime.rollback import roll_back
from raydet3d.runtime.run_setup import ResumeInfo, remove_empty_dirs
from raydet3d.runtime.scalar_log import ScalarLog
from raydet3d.runtime.train_result import headline, summarize, to_lines
from raydet3d.runtime.train_state import apply, collect
from raydet3d.runtime.wanted import check_wanted


class Runner(Parts):
    """One run. Made by ``raydet3d.runtime.build.assemble``, known to users as ``Runner.from_cfg``.

    Args:
        model: On its device and in its wrapper.
        device: The device.
        work_dir: Folder of the run on this machine: of its logs, and of its checkpoints unless ``home`` is elsewhere.
        home: Where its checkpoints live; ``work_dir`` by default, or a URI.
        timestamp: Name of this start; its logs lie in a folder of this name.
        name: Name of the run, for logs and manifests.
        run: Name under which the first start of the run wrote its checkpoints.
        seed: The run's seed.
        batch_workers: Number of ranks that the run is laid out for: an iteration is one batch of each.
        hooks: All hooks, in order.
        logger: Where lines go.
        log_processor: Makes lines of the history.
        visualizer: Takes scalars and pictures.
        makers: Make the rest.
        start: How to begin.
        cfg: The config, for the record.
        cfg_text: The same as text, without secrets.
    """

    from_cfg: Callable[..., Runner]

    def __init__(
        self,
        *,
        model: nn.Module,
        device: torch.device,
        work_dir: Path,
        timestamp: str,
        name: str,
        run: str,
        seed: int,
        batch_workers: int,
        hooks: Hooks,
        logger: logging.Logger,
        log_processor: Any,
        visualizer: Any,
        makers: Makers,
        start: ResumeInfo,
        home: Location | None = None,
        cfg: Any,
        cfg_text: str = "",
    ) -> None:
        super().__init__(makers)
        self.model: Any = model
        self.device = device
        self.work_dir = work_dir
        self.timestamp = timestamp
        self.log_dir = work_dir / timestamp
        self.experiment_name = name
        self.seed = seed
        self.batch_workers = batch_workers
        self._hooks = hooks
        self.logger = logger
        self.log_processor = log_processor
        self.visualizer = visualizer
        self.cfg = cfg
        self.cfg_text = cfg_text
        self.message_hub = History()
        self.scalar_log = ScalarLog(work_dir / "scalars.json")
        self.home = work_dir if home is None else home
        self.store = self._store_at(self.home, run)
        self._log_uploader: LogUploader | None = None
        if isinstance(self.store.storage, ObjectStorage) and self.rank == 0:
            self._log_uploader = LogUploader(work_dir, self.store.storage, logger)
            self.store.after_write = self._log_uploader.push
        self.training_rng: dict[str, Any] | None = None  # training's random state, while a validation runs
        self.is_resuming = False  # whether the checkpoint that hooks are shown is one to go on from
        self.run_name = run
        self._start: ResumeInfo | None = start  # what training has yet to begin with
        self._has_first_weights = False  # initialised, or put in place by the user
        self._has_scored_weights = False  # those that a validation or a test is to see
        self._is_finished = False
        self._is_introduced = False
        self._stores: dict[Location, CheckpointStore] = {work_dir: self.store}

    # -- what it is called and how it runs, for scripts written for MMEngine ------------------------------------

    @property
    def model_name(self) -> str:
        """Name of the model's class."""
        return type(unwrapped(self.model)).__name__

    @property
    def launcher(self) -> str:
        """``pytorch`` where there are several processes, whoever started them; else ``none``."""
        return "pytorch" if self.distributed else "none"

    @property
    def deterministic(self) -> bool:
        """Whether the config asks for deterministic algorithms only."""
        return bool((self.cfg.get("randomness") or {}).get("deterministic", False))

    # -- hooks -------------------------------------------------------------------------------------------------

    @property
    def hooks(self) -> list[Hook]:
        """The hooks in calling order."""
        return list(self._hooks)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks at a stage."""
        if fn_name == "after_train_iter":  # here, for loops of a user's own: what is saved from now on has the step
            self.progress.phase = Phase.ITER
        self._hooks.call(self, fn_name, **kwargs)

    def register_hook(self, hook: Hook | Mapping[str, Any], priority: str | int | None = None) -> None:
        """Add a hook, or one made from its config, which may have a ``priority``."""
        self._hooks.register(hook, priority)

    def hook_table(self) -> str:
        """The hooks of each stage, in order, as lines of text."""
        return self._hooks.table()

    def hook_states(self) -> list[dict[str, Any]]:
        """State of the hooks that have some."""
        return self._hooks.state_dict()

    def load_hook_states(self, states: list[dict[str, Any]]) -> list[str]:
        """Give hooks their state back; returns the names of those that this run does not have."""
        return self._hooks.load_state_dict(states)

    # -- doing --------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train from where the run stands to its end, validating on the way.

        Returns:
            The summary: ``metrics`` of the last validation, ``headline`` (the ones that count, by short name),
            ``best_score`` and ``best_checkpoint``, ``last_checkpoint``, ``log_dir``, ``picture_dir``, ``epoch``,
            ``iter``, ``seconds``.
        """
        with activate(self), dist.require_process_group():
            return self._train()

    def _train(self) -> dict[str, Any]:
        began = time.monotonic()
        self._prepare_training()
        wrapper, loop = self.optim_wrapper, self.train_loop
        if self.val_loop is None:
            self.logger.info("no validation: the config has no val_dataloader, val_cfg and val_evaluator")
        self.call_hook("before_run")
        self._init_weights()
        self._begin()
        if not self._is_finished:
            self._is_finished = True
            self._makers.finish_model(self)
        wrapper.initialize_count_status(self.model, self.iter, -1 if self.max_iters is None else self.max_iters)
        if self.rank == 0:
            self.store.clean_up()
            if self._log_uploader is not None:
                self._log_uploader.pull()
            due = self.progress.validated < self.iter
            self.scalar_log.begin(self.iter, drop_validation=due)
        try:
            loop.run()
        finally:
            self._release()
        self.call_hook("after_run")
        self._close_stores()
        result = summarize(self, seconds=time.monotonic() - began)
        self.logger.info("%s", to_lines(result))
        self.push_logs()
        return result

    def val(self) -> dict[str, Any]:
        """Validate the model as it is, or as ``load_from`` says.

        Returns:
            The metrics.
        """
        with activate(self), dist.require_process_group():
            return self._evaluate("val")

    def test(self) -> dict[str, Any]:
        """Test the model as it is, or as ``load_from`` says.

        Returns:
            The metrics.
        """
        with activate(self), dist.require_process_group():
            return self._evaluate("test")

    @contextmanager
    def _preparing(self) -> Iterator[None]:
        """Make the parts of a run; only when all are there, say what runs. What fails before leaves nothing behind."""
        try:
            yield
        except BaseException:
            if not self._is_introduced:
                close_logger(self.logger)
                remove_empty_dirs(self.work_dir, self.timestamp)
            raise
        if not self._is_introduced:
            self._is_introduced = True
            self._makers.introduce(self)
            release_buffered(self.logger)

    def _prepare_training(self) -> None:
        with self._preparing():
            _ = self.train_loop, self.optim_wrapper, self.param_schedulers
            val = self.val_loop
            given = val.names() if hasattr(val, "names") else None
            check_wanted(self._hooks, given, validates=val is not None)

    def _evaluate(self, mode: str) -> dict[str, Any]:
        with self._preparing():
            loop = self.val_loop if mode == "val" else self.test_loop
            if loop is None:
                raise InputError(f"nothing to do: the config has no {mode}_dataloader, {mode}_cfg and {mode}_evaluator")
        self.call_hook("before_run")
        self._load_to_score()
        try:
            metrics: dict[str, Any] = loop.run()
        finally:
            self._release()
        self.call_hook("after_run")
        return metrics

    def _release(self) -> None:
        """Let loader workers go; what is being saved is written to its end, whatever happened."""
        for name in ("train_loop", "val_loop", "test_loop"):
            if (loop := vars(self).get(name)) is not None:
                for loader in getattr(loop.dataloader, "loaders", [loop.dataloader]):
                    release(loader)
        for store in self._stores.values():
            store.drain()
        self.push_logs()

    def push_logs(self) -> None:
        """Copy logs and pictures to the work dir, where that is not on this machine."""
        if self._log_uploader is not None:
            self._log_uploader.push()

    def close(self) -> None:
        """Wait for what is being written and give files back. Asks nothing of the other ranks."""
        for store in self._stores.values():
            store.drain()
        self.visualizer.close()
        self.scalar_log.close()
        self.push_logs()
        close_logger(self.logger)

    # -- beginning ----------------------------------------------------------------------------------------------

    def _init_weights(self) -> None:
        """Initialise the weights, the same on every rank; once a runner."""
        if self._has_first_weights:
            return
        self._has_first_weights = True
        model: Any = unwrapped(self.model)
        if is_sharded_model(self.model):  # it was initialised before it was cut
            return
        if hasattr(model, "init_weights"):
            model.init_weights()
        if self.distributed:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor)

    def _begin(self) -> None:
        """Resume, or load the weights to train from; once a runner."""
        start = self._start
        if start is not None and start.resume_from is not None and start.state is not None:
            state = load_shards(start.state, start.resume_from, self._parameters())
            self._resume(state, str(start.resume_from))
        elif start is not None and start.load_from is not None:
            # What is trained may begin with a part of the weights (a backbone's).
            self._load_file(start.load_from, strict=False)
        self._start = None
        self._has_scored_weights = True

    def _load_to_score(self) -> None:
        """Load the weights to score, once a runner, unless others are in place. Training begins as if it had not."""
        start = self._start
        if self._has_scored_weights or start is None:
            return
        if start.resume_from is not None and start.state is not None:
            state = load_shards(start.state, start.resume_from, self._parameters())
            state["state_dict"] = dict(state["state_dict"])  # hooks may edit it, and training is to see it whole
            self.call_hook("after_load_checkpoint", checkpoint=state)
            self._load_weights(state, str(start.resume_from), strict=True)
        elif start.load_from is not None:
            self._load_file(start.load_from, strict=True)  # what is scored must be whole
        self._has_scored_weights = True

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),),
    ) -> dict[str, Any]:
        """Load the weights of a checkpoint, in place of those that ``load_from`` says.

        Args:
            filename: The file, or an ``http(s)://`` URL.
            map_location: Accepted for MMEngine's sake: it is always read to the host first.
            strict: Refuse a checkpoint whose names or shapes differ.
            revise_keys: (pattern, replacement) pairs for the names.

        Returns:
            The checkpoint.
        """
        if not strict:  # the file may have a part of the weights
            self._init_weights()
        checkpoint = self._load_file(filename, strict=strict, revise_keys=revise_keys)
        self._has_first_weights = self._has_scored_weights = True
        if self._start is not None and self._start.resume_from is None:
            self._start = None
        return checkpoint

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = "default",
    ) -> None:
        """Go on from a checkpoint.

        Args:
            filename: The file, or an ``http(s)://`` URL.
            resume_optimizer: Whether the optimizer's state is taken over.
            resume_param_scheduler: Whether the schedulers' state is.
            map_location: Accepted for MMEngine's sake: it is always read to the host first.
        """
        self._prepare_training()
        state = self._read(filename)
        self._resume(state, filename, optimizer=resume_optimizer, schedulers=resume_param_scheduler)
        self._has_first_weights = self._has_scored_weights = True
        self._start = None

    def _resume(self, state: dict[str, Any], title: str, *, optimizer: bool = True, schedulers: bool = True) -> None:
        self.is_resuming = True
        try:
            self.call_hook("after_load_checkpoint", checkpoint=state)
        finally:
            self.is_resuming = False
        self._load_weights(state, title, strict=True)
        if optimizer and "optimizer" not in state:
            raise InputError(f"{title} has no optimizer state, so training cannot go on from it; use it as load_from")
        self.load_state_dict(state, optimizer=optimizer, schedulers=schedulers)
        self.logger.info("resumed from %s: epoch %d, iteration %d", title, self.epoch, self.iter)

    def _load_file(
        self, filename: str, *, strict: bool, revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),)
    ) -> dict[str, Any]:
        checkpoint = self._read(filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        self._load_weights(checkpoint, filename, strict=strict, revise_keys=revise_keys)
        return checkpoint

    def _read(self, filename: str | Path) -> dict[str, Any]:
        location = locate(fetch(str(filename)))
        return load_shards(load_metadata(location), location, self._parameters())

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(unwrapped(self.model).named_parameters())

    def _load_weights(
        self,
        checkpoint: Mapping[str, Any],
        title: str,
        *,
        strict: bool,
        revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),),
    ) -> None:
        weights = rename_weights(checkpoint["state_dict"], revise_keys)
        self.logger.info("%s", load_weights(unwrapped(self.model), weights, strict=strict, title=title))

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: Mapping[str, Any] | None = None) -> None:
        """Scale learning rates by global batch size over ``auto_scale_lr['base_batch_size']``, where it is enabled.

        The batch size is the one that the batch sampler says, whoever made it. ``accumulative_counts`` does not count,
        as in MMEngine; a line in the log says so.

        Args:
            optim_wrapper: The wrapper, before schedulers are made for it.
            auto_scale_lr: ``dict(enable=, base_batch_size=)``.
        """
        if not auto_scale_lr or not auto_scale_lr.get("enable", False):
            return
        base = auto_scale_lr.get("base_batch_size")
        if isinstance(base, bool) or not isinstance(base, int) or base < 1:
            raise InputError(f"auto_scale_lr.base_batch_size must be an integer of at least 1, got {base!r}")
        samples, batch_workers = global_batch_size(self.train_dataloader), num_batch_workers(self.train_dataloader)
        if not samples:
            raise InputError(
                "auto_scale_lr needs train_dataloader.batch_size, or a batch sampler that has an attribute batch_size"
            )
        ratio = samples / base
        self.logger.info(
            "learning rates times %g: batch size %d x %d processes over %d",
            ratio,
            samples // batch_workers,
            batch_workers,
            base,
        )
        counts = getattr(optim_wrapper, "accumulative_counts", 1)
        if counts > 1:
            self.logger.info(
                "auto_scale_lr does not count accumulative_counts=%d; base_batch_size=%g would", counts, base / counts
            )
        optim_wrapper.scale_lr(ratio)

    def roll_back(self, *, before: int, passed_over: Sequence[str] = ()) -> str | None:
        """Put weights and moments back to a checkpoint's, and go on from there with the batches to come.

        Args:
            before: Iterations finished in the checkpoint are fewer than this.
            passed_over: Names of checkpoints not to use.

        Returns:
            The checkpoint's name; None where there is none, and nothing is changed.
        """
        return roll_back(self, before=before, passed_over=passed_over)

    def diagnose_nonfinite(self, data_batch: Any) -> str:
        """What of a batch, or which module on it, gives something that is not finite, by trying; in a few words."""
        return diagnose_nonfinite(self.model, self.optim_wrapper, data_batch, self.device)

    # -- state --------------------------------------------------------------------------------------------------

    def state_dict(self, *, optimizer: bool = True, schedulers: bool = True) -> dict[str, Any]:
        """Everything a run needs to go on as if it had not stopped. Every rank calls it.

        Args:
            optimizer: Whether the optimizer's state (and the scaler's) is in it.
            schedulers: Whether the schedulers' state is in it.
        """
        return collect(self, optimizer=optimizer, schedulers=schedulers)

    def load_state_dict(self, state: Mapping[str, Any], *, optimizer: bool = True, schedulers: bool = True) -> None:
        """The mirror of ``state_dict``, but for the weights, which are in place already."""
        apply(self, state, optimizer=optimizer, schedulers=schedulers)

    def save_checkpoint(
        self,
        out_dir: Location,
        filename: str,
        file_client_args: Any = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: Mapping[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: Any = None,
        *,
        group: str = "",
        limit: int = -1,
        scores: Mapping[str, float] | None = None,
        point: bool = False,
        milestone: bool = False,
        budget: int | None = None,
    ) -> Location:
        """Save a checkpoint. Every rank calls it, at the same step; rank 0 writes (all do, where the
        model is sharded), behind the training's back.

        Args:
            out_dir: The folder.
            filename: The file's name.
            file_client_args: Accepted for MMEngine's sake.
            save_optimizer: Whether the optimizer's state is in it.
            save_param_scheduler: Whether the schedulers' state is in it.
            meta: Further entries of ``meta``.
            by_epoch: Accepted for MMEngine's sake: the counts in it are always those to go on from.
            backend_args: Accepted for MMEngine's sake.
            group: Group that ``limit`` counts.
            limit: How many of the group to keep.
            scores: Metrics to note in the manifest.
            point: Whether ``last_checkpoint`` is to name it.
            milestone: Whether it stays whatever ``limit`` says.
            budget: Bytes that the run's checkpoints there may have together.

        Returns:
            Where it will lie.
        """
        dist.broadcast_buffers(unwrapped(self.model))
        state = self.state_dict(optimizer=save_optimizer, schedulers=save_param_scheduler)
        state["meta"].update(meta or {})
        self.call_hook("before_save_checkpoint", checkpoint=state)
        store = self.store_in(locate(out_dir))
        if self.rank == 0 or is_sharded(state):
            step = state["progress"]["iter"]
            store.save(
                state,
                filename,
                step=step,
                group=group,
                limit=limit,
                scores=scores,
                point=point,
                resumable=save_optimizer,
                milestone=milestone,
                budget=budget,
            )
        return store.storage.location(filename)

    @property
    def stores(self) -> list[CheckpointStore]:
        """The stores that this run has saved to, the work dir's first."""
        return list(self._stores.values())

    def store_in(self, folder: Location) -> CheckpointStore:
        """The store of a folder."""
        folder = self.work_dir if folder == self.home else folder
        if folder not in self._stores:
            self._stores[folder] = self._store_at(folder, self.run_name)
        return self._stores[folder]

    def _store_at(self, folder: Location, run: str) -> CheckpointStore:
        return CheckpointStore(
            folder, run=run, start=self.timestamp, seed=self.seed, logger=self.logger, pointer_dir=self.home
        )

    def _close_stores(self) -> None:
        """Wait for the writers; all ranks fail together if checkpoints were to be kept and none could be."""
        for store in self._stores.values():
            store.drain()
        lost = [store.failure for store in self._stores.values() if store.failure and not store.has_own()]
        failure = dist.broadcast_object(lost[0] if lost else None)
        if failure:
            raise RuntimeError(failure)

    def not_kept(self) -> dict[str, str]:
        """Checkpoints that this start could not write, and why; every rank asks, once all is written."""
        lost: dict[str, str] = {name: why for store in self._stores.values() for name, why in store.lost.items()}
        told: dict[str, str] = dist.broadcast_object(lost)
        return told

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The metrics that count, by the last part of their name: those that hooks name, or all where they are few."""
        return headline(metrics, [part for hook in self._hooks for part in getattr(hook, "headline", None) or ()])
