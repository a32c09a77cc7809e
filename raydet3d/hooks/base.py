"""`Hook`, the base class with its 22 stages, and `Hooks`, which calls a run's hooks by priority."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar, TypedDict

from raydet3d.dist import get_world_size
from raydet3d.errors import InputError
from raydet3d.hooks.context import (
    DataBatch,
    DataLoader,
    Losses,
    Metrics,
    Mode,
    PartCfg,
    Predictions,
    RunContext,
    StateDict,
)
from raydet3d.hooks.metric_rules import nearest_metrics
from raydet3d.hooks.serializable import to_plain
from raydet3d.registry import HOOKS, BadArgument

DATA_BATCH = DataBatch
"""MMEngine's name for the type of a batch."""


class Priority(IntEnum):
    """Named priorities of hooks; hooks of a lower number run first."""

    HIGHEST = 0
    VERY_HIGH = 10
    HIGH = 30
    ABOVE_NORMAL = 40
    NORMAL = 50
    BELOW_NORMAL = 60
    LOW = 70
    VERY_LOW = 90
    LOWEST = 100


PRIORITIES = {priority.name: priority.value for priority in Priority}

STAGES = (
    "before_run",
    "after_load_checkpoint",
    "before_train",
    "before_train_epoch",
    "before_train_iter",
    "after_train_iter",
    "after_train_epoch",
    "before_val",
    "before_val_epoch",
    "before_val_iter",
    "after_val_iter",
    "after_val_epoch",
    "after_val",
    "before_save_checkpoint",
    "after_train",
    "before_test",
    "before_test_epoch",
    "before_test_iter",
    "after_test_iter",
    "after_test_epoch",
    "after_test",
    "after_run",
)


def get_priority(priority: str | int) -> int:
    """Convert a priority, a name of `PRIORITIES` or an integer from 0 (first) to 100 (last), to its number.

    Raises:
        InputError: The priority is neither.
    """
    if isinstance(priority, int) and not isinstance(priority, bool):
        if 0 <= priority <= 100:
            return priority
        raise InputError(f"a hook's priority must be between 0 and 100, got {priority}")
    if isinstance(priority, str) and priority.upper() in PRIORITIES:
        return PRIORITIES[priority.upper()]
    names = ", ".join(PRIORITIES)
    raise BadArgument(f"a hook's priority must be an integer from 0 to 100 or one of {names}, got {priority!r}")


def sample_ids(data_batch: DataBatch) -> list[int | str]:
    """Return the `sample_idx` of each sample of a batch that has one."""
    samples = data_batch.get("data_samples") if isinstance(data_batch, Mapping) else None
    ids = [getattr(sample, "sample_idx", None) for sample in samples or ()]
    return [number for number in ids if number is not None]


def global_batch_size(loader: DataLoader) -> int:
    """Return the number of samples per iteration over all ranks; 0 if the loader has no batch size."""
    batches: Any = loader.batch_sampler
    if hasattr(batches, "global_batch_size"):
        return int(batches.global_batch_size)
    size = getattr(getattr(batches, "batch_sampler", batches), "batch_size", None)
    return size * get_world_size() if isinstance(size, int) else 0


class Hook:
    """Base class of hooks: subclasses override the stages that they need.

    A training run calls, in this order:

        before_run
        after_load_checkpoint(checkpoint)            # if a checkpoint is loaded
        before_train
        for each epoch:
            before_train_epoch
            for each batch:
                before_train_iter(batch_idx, data_batch)
                outputs = model.train_step(...)
                after_train_iter(batch_idx, data_batch, outputs)
            after_train_epoch
            before_val, before_val_epoch             # if a validation is due
            (before_val_iter, after_val_iter) ...
            after_val_epoch(metrics), after_val
        after_train
        after_run

    `before_save_checkpoint(checkpoint)` is called whenever a hook saves. Testing has the stages of validation, named
    test. All stages receive the run first; other arguments are passed as keywords. In `before_train_iter` and
    `after_train_iter`, `runner.iter` does not count the current iteration yet; in `after_train_epoch`, `runner.iter`
    is up to date and `runner.epoch` does not count the current epoch yet; in validation both are up to date.

    The stages of a mode call `_before_epoch`, `_after_epoch`, `_before_iter` and `_after_iter`, so that one override
    can serve training, validation and testing.
    """

    priority: str | int = "NORMAL"
    stages = STAGES
    copies_model: ClassVar[bool] = False
    """Whether the hook copies the model, which is not possible for a model that is sharded over ranks."""

    @property
    def headline(self) -> Sequence[str]:
        """Substrings of the names of the metrics in the summary at the end of a run."""
        return ()

    @property
    def required_metrics(self) -> Sequence[tuple[str, str]]:
        """Metrics that validation must return for this hook to work, as (setting, metric) pairs."""
        return ()

    # -- state that checkpoints keep ----------------------------------------------------------------------------

    def state_dict(self) -> StateDict:
        """Return the state to keep in checkpoints: containers, numbers, strings and tensors.

        NumPy scalars are restored as Python numbers and arrays as tensors; saving any other type raises an error.
        """
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned."""

    # -- stages of the run --------------------------------------------------------------------------------------

    def before_run(self, runner: RunContext) -> None:
        """Run before everything: all parts exist, weights are neither initialised nor loaded."""

    def after_run(self, runner: RunContext) -> None:
        """Run after everything."""

    def before_train(self, runner: RunContext) -> None:
        """Run before the first epoch, with weights in place."""

    def after_train(self, runner: RunContext) -> None:
        """Run after the last epoch and its validation."""

    def before_val(self, runner: RunContext) -> None:
        """Run before a validation."""

    def after_val(self, runner: RunContext) -> None:
        """Run after a validation."""

    def before_test(self, runner: RunContext) -> None:
        """Run before a test."""

    def after_test(self, runner: RunContext) -> None:
        """Run after a test."""

    def before_save_checkpoint(self, runner: RunContext, checkpoint: StateDict) -> None:
        """Run before a checkpoint is copied and written; may edit it."""

    def after_load_checkpoint(self, runner: RunContext, checkpoint: StateDict) -> None:
        """Run after a checkpoint is read and before it is applied; may edit it."""

    # -- stages of an epoch -------------------------------------------------------------------------------------

    def before_train_epoch(self, runner: RunContext) -> None:
        """Run before a training epoch."""
        self._before_epoch(runner, mode="train")

    def before_val_epoch(self, runner: RunContext) -> None:
        """Run before the batches of a validation."""
        self._before_epoch(runner, mode="val")

    def before_test_epoch(self, runner: RunContext) -> None:
        """Run before the batches of a test."""
        self._before_epoch(runner, mode="test")

    def after_train_epoch(self, runner: RunContext) -> None:
        """Run after a training epoch."""
        self._after_epoch(runner, mode="train")

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Run after the batches of a validation, with its metrics."""
        self._after_epoch(runner, mode="val")

    def after_test_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Run after the batches of a test, with its metrics."""
        self._after_epoch(runner, mode="test")

    # -- stages of an iteration ---------------------------------------------------------------------------------

    def before_train_iter(self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None) -> None:
        """Run before a training step."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="train")

    def before_val_iter(self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None) -> None:
        """Run before a validation step."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="val")

    def before_test_iter(self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None) -> None:
        """Run before a test step."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="test")

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Run after a training step, with its losses."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="train")

    def after_val_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        """Run after a validation step, with its predictions."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="val")

    def after_test_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        """Run after a test step, with its predictions."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="test")

    # -- stages shared by all modes -----------------------------------------------------------------------------

    def _before_epoch(self, runner: RunContext, mode: Mode = "train") -> None:
        """Run before an epoch of any mode."""

    def _after_epoch(self, runner: RunContext, mode: Mode = "train") -> None:
        """Run after an epoch of any mode."""

    def _before_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, mode: Mode = "train"
    ) -> None:
        """Run before a step of any mode."""

    def _after_iter(
        self,
        runner: RunContext,
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Losses | Predictions = None,
        mode: Mode = "train",
    ) -> None:
        """Run after a step of any mode."""

    # -- intervals ----------------------------------------------------------------------------------------------

    def every_n_epochs(self, runner: RunContext, n: int, start: int = 0) -> bool:
        """Whether the current epoch completes `n` epochs, counted from `start`; never for n <= 0."""
        done = runner.epoch + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Whether this batch completes `n` batches of the epoch; never for n <= 0."""
        return n > 0 and (batch_idx + 1) % n == 0

    def every_n_train_iters(self, runner: RunContext, n: int, start: int = 0) -> bool:
        """Whether the current iteration completes `n` iterations, counted from `start`; never for n <= 0."""
        done = runner.iter + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def end_of_epoch(self, dataloader: DataLoader, batch_idx: int) -> bool:
        """Whether this batch is the data loader's last."""
        return batch_idx + 1 == len(dataloader)

    def is_last_train_epoch(self, runner: RunContext) -> bool:
        """Whether the current epoch is the last."""
        return bool(runner.epoch + 1 == runner.max_epochs)

    def is_last_train_iter(self, runner: RunContext) -> bool:
        """Whether the current iteration is the last."""
        return bool(runner.iter + 1 == runner.max_iters)

    @classmethod
    def implements(cls, stage: str) -> bool:
        """Whether this class overrides a stage."""
        own, base = getattr(cls, stage, None), getattr(Hook, stage, None)
        if own is not base:
            return own is not None
        parts = stage.split("_")
        if len(parts) == 3 and parts[1] in ("train", "val", "test"):
            general = f"_{parts[0]}_{parts[2]}"
            return getattr(cls, general, None) is not getattr(Hook, general, None)
        return False

    def get_triggered_stages(self) -> list[str]:
        """Return the stages that this hook implements, in calling order."""
        return [stage for stage in STAGES if _implements(self, stage)]


class HookState(TypedDict):
    """State of one hook in a checkpoint: its position among the hooks, its class, and what `state_dict` returned."""

    position: int
    name: str
    state: StateDict


class Hooks:
    """The hooks of one run in calling order: by priority, then by registration.

    The hooks of a stage are collected once, so a stage that no hook overrides costs a dictionary look-up.
    """

    def __init__(self) -> None:
        self._hooks: list[Hook] = []
        self._calls: dict[str, list[tuple[Hook, Callable[..., None]]]] = {}

    def __iter__(self) -> Iterator[Hook]:
        return iter(self._hooks)

    def __len__(self) -> int:
        return len(self._hooks)

    def register(self, hook: Hook | PartCfg, priority: str | int | None = None) -> None:
        """Insert a hook after those of the same priority.

        Args:
            hook: The hook, or its config, which may have a `priority`.
            priority: Overrides the priority of the config and of the hook.
        """
        if not isinstance(hook, Hook):
            args: Any = dict(hook) if isinstance(hook, Mapping) else hook
            given = args.pop("priority", None) if isinstance(args, dict) else None
            priority = given if priority is None else priority
            hook = HOOKS.build(args)
            if not isinstance(hook, Hook):
                raise InputError(f"{type(hook).__name__} is not a Hook")
        if priority is not None:
            hook.priority = priority
        rank = get_priority(hook.priority)
        place = len(self._hooks)
        while place > 0 and get_priority(self._hooks[place - 1].priority) > rank:
            place -= 1
        self._hooks.insert(place, hook)
        self._calls.clear()

    def call(self, runner: RunContext, stage: str, **kwargs: Any) -> None:
        """Call every hook that implements a stage, in order.

        Exceptions keep their type and traceback; a note names the hook, stage and iteration.

        Args:
            runner: The run, passed first.
            stage: One of `STAGES`, or the name of a method of custom hooks.
            **kwargs: The stage's other arguments.
        """
        calls = self._calls.get(stage)
        if calls is None:
            calls = self._calls[stage] = [(h, getattr(h, stage)) for h in self._hooks if _implements(h, stage)]
        for hook, method in calls:
            try:
                method(runner, **kwargs)
            except Exception as error:
                if not any("in hook " in note for note in getattr(error, "__notes__", ())):
                    where = f"epoch {runner.epoch + 1}, iteration {runner.iter + 1}"
                    error.add_note(f"in hook {type(hook).__name__}, stage {stage}, {where}")
                raise

    def check_metrics(self, given: Sequence[str] | None, *, validates: bool) -> None:
        """Check that validation returns the metrics that the hooks require.

        Args:
            given: Names of the metrics that validation returns; None if they are unknown before the first validation.
            validates: Whether the run validates.

        Raises:
            InputError: A hook requires a metric that validation does not return, or the run does not validate.
        """
        for hook in self._hooks:
            for setting, name in hook.required_metrics:
                where = f"{type(hook).__name__}: {setting}={name!r}"
                if not validates:
                    missing = "val_dataloader, val_cfg and val_evaluator"
                    raise InputError(f"{where}, but there is no validation: the config has no {missing}")
                if given is not None and name != "auto" and name not in given:
                    raise InputError(f"{where}, but validation gives {nearest_metrics(given, name)}")

    def table(self, stages: Sequence[str] = STAGES) -> str:
        """Return the hooks of each stage as lines of text; stages with the same hooks share a line.

        Args:
            stages: The stages, in the order of the lines.
        """
        lines: dict[str, list[str]] = {}
        for stage in stages:
            names = " ".join(
                f"{type(h).__name__}({get_priority(h.priority)})" for h in self._hooks if _implements(h, stage)
            )
            if names:
                lines.setdefault(names, []).append(stage)
        groups = [", ".join(group) for group in lines.values()]
        width = max((len(s) for s in groups if len(s) <= 40), default=0)
        return "\n".join(f"  {s:<{width}}  {names}" for s, names in zip(groups, lines, strict=True))

    def state_dict(self) -> list[HookState]:
        """Return the non-empty hook states, each identified by the hook's position and class name."""
        entries: list[HookState] = []
        for position, hook in enumerate(self._hooks):
            name, state = type(hook).__name__, hook.state_dict()
            if state:
                entries.append({"position": position, "name": name, "state": to_plain(state, name)})
        return entries

    def load_state_dict(self, entries: Sequence[HookState]) -> list[str]:
        """Restore each saved state to the hook of that class at the same position, else to the next of that class.

        Returns:
            Class names of saved hooks that this run does not have.
        """
        free = [hook for hook in self._hooks if type(hook).state_dict is not Hook.state_dict]
        missing = []
        for entry in entries:
            position, name = entry["position"], entry["name"]
            there = self._hooks[position] if position < len(self._hooks) else None
            named = [hook for hook in free if type(hook).__name__ == name]
            if not named:
                missing.append(name)
                continue
            hook = there if there in named and there is not None else named[0]
            free.remove(hook)
            hook.load_state_dict(entry["state"])
        return missing


def _implements(hook: Hook, stage: str) -> bool:
    """Whether a hook implements a stage, by its class or by a method set on the instance."""
    return stage in vars(hook) or type(hook).implements(stage)
