"""`Runner`: one run. It builds the parts in order, calls hooks, runs a loop and says what is in a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from torch import nn

from raydet3d import dist
from raydet3d.active_run import activate
from raydet3d.checkpoint.load import load_metadata, load_shards, locate
from raydet3d.checkpoint.load_weights import load_weights, rename_weights
from raydet3d.checkpoint.nested import is_sharded as holds_shards
from raydet3d.checkpoint.safe_load import content_of_file
from raydet3d.checkpoint.storage import Location
from raydet3d.checkpoint.store import CheckpointStore
from raydet3d.dist import unwrapped
from raydet3d.download import fetch
from raydet3d.errors import InputAssertionError, InputError, InputRuntimeError
from raydet3d.hooks.context import DataBatch, EvalLoop, StateDict, TrainLoop
from raydet3d.log import close_logger, release_buffered
from raydet3d.registry import RUNNERS
from raydet3d.run_status import RunResult
from raydet3d.runtime import build
from raydet3d.runtime.ddp import is_sharded
from raydet3d.runtime.headline import headline
from raydet3d.runtime.loaders import release
from raydet3d.runtime.rollback import roll_back
from raydet3d.runtime.run_parts import RunParts
from raydet3d.runtime.run_setup import (
    log_config_changes,
    remove_empty_dirs,
)
from raydet3d.runtime.train_state import TrainState

DDP_PREFIX = ((r"^module\.", ""),)


@RUNNERS.register_module()
class Runner(RunParts):
    """One run, made from a config (`Runner.from_cfg`, `raydet3d.runtime.assemble`) or from MMEngine's arguments.

    Subclasses may override any method; the config's `runner_type` names a registered one.
    """

    # -- running ------------------------------------------------------------------------------------------------

    def train(self) -> RunResult:
        """Train to the end, validating on the way, and return the result."""
        with activate(self), dist.require_process_group():
            return self._train()

    def _train(self) -> RunResult:
        began = time.monotonic()
        self._prepare_training()
        if self.val_loop is None:
            self.logger.info("no validation: the config has no val_dataloader, val_cfg and val_evaluator")
        self.call_hook("before_run")
        self._init_weights()
        self.load_or_resume()
        if not self._is_finished:
            self._is_finished = True
            build.finish_model(self.model, self.cfg)
        max_iters = -1 if self.max_iters is None else self.max_iters
        self.optim_wrapper.initialize_count_status(self.model, self.iter, max_iters)
        if self.rank == 0:
            self.checkpoints.begin()
            self.scalar_log.begin(self.iter, drop_validation=self.progress.validated < self.iter)
        self._run(self.train_loop)
        self.checkpoints.finish()
        result = self._result(time.monotonic() - began)
        self.logger.info("done in %.0f s: epoch %d, iteration %d", result["seconds"], self.epoch, self.iter)
        self.push_logs()
        return result

    def val(self) -> dict[str, Any]:
        """Validate the model as it is, or as `load_from` says, and return the metrics."""
        with activate(self), dist.require_process_group():
            return self._evaluate("val")

    def test(self) -> dict[str, Any]:
        """Test the model as it is, or as `load_from` says, and return the metrics."""
        with activate(self), dist.require_process_group():
            return self._evaluate("test")

    def _evaluate(self, mode: str) -> dict[str, Any]:
        with self._preparing(mode):
            loop = self.val_loop if mode == "val" else self.test_loop
            if loop is None:
                raise InputRuntimeError(
                    f"nothing to do: the config has no {mode}_dataloader, {mode}_cfg and {mode}_evaluator"
                )
        self.call_hook("before_run")
        self._load_weights_to_score()
        metrics: dict[str, Any] = self._run(loop)
        return metrics

    def _run(self, loop: TrainLoop | EvalLoop) -> Any:
        """Run a loop; in any case, stop loader workers and finish the checkpoints that are being written."""
        try:
            result = loop.run()
        finally:
            for name in ("train_loop", "val_loop", "test_loop"):
                if (made := vars(self).get(name)) is not None:
                    release(made.dataloader)
            self.checkpoints.drain()
            self.push_logs()
        self.call_hook("after_run")
        return result

    @contextmanager
    def _preparing(self, mode: str) -> Iterator[None]:
        """Build parts in the block; a failure leaves no files behind, and once all exist, the run is described.

        Args:
            mode: `train`, `val` or `test`.
        """
        try:
            yield
        except BaseException:
            if not self._is_introduced:
                close_logger(self.logger)
                remove_empty_dirs(self.work_dir, self.timestamp, keep_work_dir=self._found_work_dir)
            raise
        if not self._is_introduced:
            self._is_introduced = True
            self._introduce(mode)
            release_buffered(self.logger)
        if mode != "test" and not self._is_config_dumped:  # a test leaves the config of the folder's training alone
            self._is_config_dumped = True
            self.dump_config()

    def _prepare_training(self) -> None:
        with self._preparing("train"):
            _ = self.train_loop, self.optim_wrapper, self.param_schedulers
            val = self.val_loop
            self._check_steps(["train_step"] if val is None else ["train_step", "val_step"])
            names = getattr(val, "names", lambda: None)()  # a loop of the user's own need not know them
            self._hooks.check_metrics(names, validates=val is not None)

    def _check_steps(self, names: Sequence[str]) -> None:
        """Refuse a model without the steps that the loops call.

        Raises:
            InputAssertionError: A step is missing.
        """
        model = unwrapped(self.model)
        for name in names:
            if not hasattr(model, name):
                raise InputAssertionError(f"the model {type(model).__name__} has no {name}, which this run calls")

    def _result(self, seconds: float) -> RunResult:
        info = self.message_hub.get_info
        metrics = {k: v for k, v in info("val_metrics", {}).items() if isinstance(v, (int, float))}
        best, last = self.checkpoints.existing(info("best_ckpt"), info("last_ckpt"))
        pictures = self.log_dir / "vis_data" / "vis_image"
        return {
            "metrics": metrics,
            "headline": self.headline(metrics),
            "best_score": info("best_score"),
            "best_checkpoint": best,
            "last_checkpoint": last,
            "not_kept": self.checkpoints.not_kept(),
            "log_dir": str(self.log_dir),
            "picture_dir": str(pictures) if pictures.is_dir() else None,
            "epoch": self.epoch,
            "iter": self.iter,
            "seconds": seconds,
        }

    def headline(self, metrics: Mapping[str, object]) -> dict[str, float]:
        """Select the metrics that count: those that hooks name, or all where they are few."""
        return headline(metrics, [part for hook in self._hooks for part in hook.headline])

    def push_logs(self) -> None:
        """Copy logs and pictures to the work dir, where that is not on this machine."""
        self.checkpoints.push_logs()

    def close(self) -> None:
        """Wait for what is being written and close files; asks nothing of the other ranks."""
        self.checkpoints.drain()
        self.visualizer.close()
        self.scalar_log.close()
        self.push_logs()
        close_logger(self.logger)

    # -- weights and checkpoints --------------------------------------------------------------------------------

    @property
    def store(self) -> CheckpointStore:
        """The checkpoint store of the work dir."""
        return self.checkpoints.store

    @property
    def stores(self) -> list[CheckpointStore]:
        """The checkpoint stores that this run has saved to, the work dir's first."""
        return self.checkpoints.stores

    def store_in(self, folder: Location) -> CheckpointStore:
        """Return the checkpoint store of a folder."""
        return self.checkpoints.store_in(folder)

    @property
    def train_state(self) -> TrainState:
        """The parts of the run whose state a checkpoint holds."""
        return TrainState(
            model=self.model,
            optim_wrapper=self.optim_wrapper,
            schedulers=self.param_schedulers,
            progress=self.progress,
            history=self.message_hub,
            hooks=self._hooks,
            loop=self.train_loop,
            seed=self.seed,
            device=self.device,
            rng=self.training_rng,
            logger=self.logger,
        )

    def _init_weights(self) -> None:
        """Initialise the weights once, the same on every rank."""
        if self._has_first_weights:
            return
        self._has_first_weights = True
        if is_sharded(self.model):  # initialised before it was sharded
            return
        model = unwrapped(self.model)
        init_weights = getattr(model, "init_weights", None)
        if init_weights is not None:
            init_weights()
        if self.distributed:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor)

    def load_or_resume(self) -> None:
        """Resume, or load the weights to train from, as config and launcher say; once a run."""
        start, self._resume_info = self._resume_info, None
        if start is not None and start.resume_from is not None and start.state is not None:
            self._resume(load_shards(start.state, start.resume_from, self._parameters()), str(start.resume_from))
        elif start is not None and start.load_from is not None:
            self._load_file(start.load_from, strict=False)  # training may begin with a part of the weights
        self._has_scored_weights = True

    def _load_weights_to_score(self) -> None:
        """Load the weights to score, once a run, unless others are in place; training starts as if it had not."""
        start = self._resume_info
        if self._has_scored_weights or start is None:
            return
        if start.resume_from is not None and start.state is not None:
            state = load_shards(start.state, start.resume_from, self._parameters())
            state["state_dict"] = copy(state["state_dict"])  # hooks may edit it, and training needs all of it
            self.call_hook("after_load_checkpoint", checkpoint=state)
            self._load_weights(state, str(start.resume_from), strict=True)
        elif start.load_from is not None:
            self._load_file(start.load_from, strict=True)  # a model that is scored must be complete
        self._has_scored_weights = True

    def load_checkpoint(
        self,
        filename: str,
        map_location: object = "cpu",
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = DDP_PREFIX,
    ) -> dict[str, Any]:
        """Load the weights of a checkpoint, in place of those that `load_from` names.

        Args:
            filename: The file, or an `http(s)://` URL.
            map_location: Accepted as an argument of MMEngine's; files are always read to the host first.
            strict: Refuse a checkpoint whose names or shapes differ.
            revise_keys: (pattern, replacement) pairs for the names.

        Returns:
            The checkpoint; of a file that holds bare weights, those weights.
        """
        if not strict:  # the file may have a part of the weights
            self._init_weights()
        checkpoint = self._load_file(filename, strict=strict, revise_keys=revise_keys)
        self._has_first_weights = self._has_scored_weights = True
        if self._resume_info is not None and self._resume_info.resume_from is None:
            self._resume_info = None
        return content_of_file(checkpoint)

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: object = "default",
    ) -> None:
        """Continue from a checkpoint.

        Args:
            filename: The file, or an `http(s)://` URL.
            resume_optimizer: Whether to restore the optimizer.
            resume_param_scheduler: Whether to restore the schedulers.
            map_location: Accepted as an argument of MMEngine's; files are always read to the host first.
        """
        self._prepare_training()
        state = self._read(filename)
        self._resume(state, filename, optimizer=resume_optimizer, schedulers=resume_param_scheduler)
        self._has_first_weights = self._has_scored_weights = True
        self._resume_info = None

    def _resume(self, state: StateDict, title: str, *, optimizer: bool = True, schedulers: bool = True) -> None:
        log_config_changes(state, self.cfg, self.logger)
        self.is_resuming = True
        try:
            self.call_hook("after_load_checkpoint", checkpoint=state)
        finally:
            self.is_resuming = False
        self._load_weights(state, title, strict=True)
        if optimizer and "optimizer" not in state:
            raise InputError(
                f"{title} has no optimizer state, so training cannot continue from it; use it as load_from"
            )
        self.train_state.load_state_dict(state, optimizer=optimizer, schedulers=schedulers)
        self.logger.info("resumed from %s: epoch %d, iteration %d", title, self.epoch, self.iter)

    def _load_file(
        self, filename: str, *, strict: bool, revise_keys: Sequence[tuple[str, str]] = DDP_PREFIX
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
        checkpoint: StateDict,
        title: str,
        *,
        strict: bool,
        revise_keys: Sequence[tuple[str, str]] = DDP_PREFIX,
    ) -> None:
        weights = rename_weights(checkpoint["state_dict"], revise_keys)
        self.logger.info("%s", load_weights(unwrapped(self.model), weights, strict=strict, title=title))

    def state_dict(self, *, optimizer: bool = True, schedulers: bool = True) -> dict[str, Any]:
        """Return everything a run needs to continue as if it had not stopped. Every rank calls it.

        Args:
            optimizer: Whether the optimizer's state (and the gradient scaler's) is in it.
            schedulers: Whether the schedulers' state is in it.
        """
        state = self.train_state.state_dict(optimizer=optimizer, schedulers=schedulers)
        state["meta"].update(experiment_name=self.experiment_name, run=self.run_name, cfg=self.cfg_text)
        return state

    def save_checkpoint(
        self,
        out_dir: Location,
        filename: str,
        file_client_args: object = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: StateDict | None = None,
        by_epoch: bool = True,
        backend_args: object = None,
        *,
        group: str = "",
        limit: int = -1,
        scores: Mapping[str, float] | None = None,
        point: bool = False,
        milestone: bool = False,
        budget: int | None = None,
    ) -> Location:
        """Save a checkpoint; every rank calls it at the same step.

        Rank 0 writes it (each rank its part, if the model is sharded) while training continues.

        Args:
            out_dir: The folder.
            filename: The file's name.
            file_client_args: Accepted as an argument of MMEngine's, as are `by_epoch` and `backend_args`.
            save_optimizer: Whether the optimizer's state is in it.
            save_param_scheduler: Whether the schedulers' state is in it.
            meta: Further entries of `meta`.
            by_epoch: See `file_client_args`; the counts in it are always those to resume from.
            backend_args: See `file_client_args`.
            group: Group that `limit` counts.
            limit: How many of the group to keep.
            scores: Metrics for the manifest.
            point: Whether `last_checkpoint` is to name it.
            milestone: Whether it is kept regardless of `limit`.
            budget: Bytes that the run's checkpoints there may take together.

        Returns:
            Where it will be.
        """
        dist.broadcast_buffers(unwrapped(self.model))
        state = self.state_dict(optimizer=save_optimizer, schedulers=save_param_scheduler)
        state["meta"].update(meta or {})
        self.call_hook("before_save_checkpoint", checkpoint=state)
        store = self.store_in(locate(out_dir))
        if self.rank == 0 or holds_shards(state):
            store.save(
                state,
                filename,
                step=state["progress"]["iter"],
                group=group,
                limit=limit,
                scores=scores,
                point=point,
                resumable=save_optimizer,
                milestone=milestone,
                budget=budget,
            )
        return store.storage.location(filename)

    def roll_back(self, *, before: int, passed_over: Sequence[str] = ()) -> str | None:
        """Restore weights and moments of an earlier checkpoint, and continue with the batches to come.

        Args:
            before: The checkpoint has fewer finished iterations than this.
            passed_over: Names of checkpoints not to use.

        Returns:
            The checkpoint's name; None where there is none, and nothing is changed.
        """
        return roll_back(self, before=before, passed_over=passed_over)

    def diagnose_nonfinite(self, data_batch: DataBatch) -> str:
        """Replay a batch and name what was not finite first: the batch, a module's output, or a gradient."""
        from raydet3d.runtime.nonfinite_debug import diagnose_nonfinite  # rarely needed

        return diagnose_nonfinite(self.model, self.optim_wrapper, data_batch, self.device)
