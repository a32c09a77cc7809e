"""The base of all hooks, and ``Hooks``: the ordered caller that knows who listens to which stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from raydet3d.errors import InputError
from raydet3d.hooks.serializable import to_plain
from raydet3d.registry import HOOKS

if TYPE_CHECKING:
    from raydet3d.runtime.runner import Runner

Mode = Literal["train", "val", "test"]
DATA_BATCH = dict[str, Any] | tuple[Any, ...] | list[Any] | None
"""A batch as a loader gives it, for annotations."""

PRIORITIES = {
    "HIGHEST": 0,
    "VERY_HIGH": 10,
    "HIGH": 30,
    "ABOVE_NORMAL": 40,
    "NORMAL": 50,
    "BELOW_NORMAL": 60,
    "LOW": 70,
    "VERY_LOW": 90,
    "LOWEST": 100,
}

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
    """A priority's number: a name of ``PRIORITIES`` or an integer from 0 (first) to 100 (last).

    Raises:
        InputError: Neither.
    """
    if isinstance(priority, int) and not isinstance(priority, bool):
        if 0 <= priority <= 100:
            return priority
        raise InputError(f"a hook's priority must lie between 0 and 100, got {priority}")
    if isinstance(priority, str) and priority.upper() in PRIORITIES:
        return PRIORITIES[priority.upper()]
    raise InputError(f"unknown hook priority {priority!r}; known: {', '.join(PRIORITIES)} or an integer 0 to 100")


def _epoch_stage(when: str, mode: Mode) -> Callable[..., None]:
    general = f"_{when}_epoch"
    if when == "after" and mode != "train":

        def stage(self: Hook, runner: Runner, metrics: dict[str, float] | None = None) -> None:
            getattr(self, general)(runner, mode=mode)

    else:

        def stage(self: Hook, runner: Runner) -> None:  # type: ignore[misc]
            getattr(self, general)(runner, mode=mode)

    return _named(stage, f"{when}_{mode}_epoch", general)


def _iter_stage(when: str, mode: Mode) -> Callable[..., None]:
    general = f"_{when}_iter"
    if when == "before":

        def stage(self: Hook, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode=mode)

    else:

        def stage(  # type: ignore[misc]
            self: Hook, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode=mode)

    return _named(stage, f"{when}_{mode}_iter", general)


def _named(stage: Callable[..., None], name: str, general: str) -> Callable[..., None]:
    stage.__name__ = name
    stage.__qualname__ = f"Hook.{name}"
    stage.__doc__ = f"The stage of this name; falls through to ``{general}``."
    return stage


class Hook:
    """Something that is called at fixed places of a run. Override the stages that you need.

    What a training run calls, in order::

        before_run
        after_load_checkpoint(checkpoint)            # where one is loaded
        before_train
        for each epoch:
            before_train_epoch
            for each batch:
                before_train_iter(batch_idx, data_batch)
                outputs = model.train_step(...)
                after_train_iter(batch_idx, data_batch, outputs)
            after_train_epoch
            before_val, before_val_epoch             # where a validation is due
            (before_val_iter, after_val_iter) ...
            after_val_epoch(metrics), after_val
        after_train
        after_run

    ``before_save_checkpoint(checkpoint)`` comes wherever a hook saves. Testing has the stages of validation, named
    test. All stages get the runner first; the rest are passed as keywords. In ``before_train_iter`` and
    ``after_train_iter``, ``runner.iter`` counts the iterations finished before this one; in ``after_train_epoch``
    the iteration is advanced, the epoch is not yet; in validation both are.

    The per-mode stages fall through to ``_before_epoch``, ``_after_epoch``, ``_before_iter`` and ``_after_iter``,
    so that one override serves training, validation and testing.
    """

    priority: str | int = "NORMAL"
    stages = STAGES

    # -- state: what must survive a stop and a resume -----------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State to keep in checkpoints: containers, numbers, strings and tensors.

        numpy's numbers come back as Python's, its arrays as tensors; anything else is refused when it is saved.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""

    # -- stages of the whole run --------------------------------------------------------------------------------

    def before_run(self, runner: Runner) -> None:
        """Before anything runs: all parts exist, weights are neither initialised nor loaded."""

    def after_run(self, runner: Runner) -> None:
        """After everything."""

    def before_train(self, runner: Runner) -> None:
        """Before the first epoch, with weights in place."""

    def after_train(self, runner: Runner) -> None:
        """After the last epoch and its validation."""

    def before_val(self, runner: Runner) -> None:
        """Before a validation."""

    def after_val(self, runner: Runner) -> None:
        """After a validation."""

    def before_test(self, runner: Runner) -> None:
        """Before a test."""

    def after_test(self, runner: Runner) -> None:
        """After a test."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Before a checkpoint is copied and written; may edit it."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """After a checkpoint is read, before it is applied; may edit it."""

    # -- stages by mode -----------------------------------------------------------------------------------------

    before_train_epoch = _epoch_stage("before", "train")
    before_val_epoch = _epoch_stage("before", "val")
    before_test_epoch = _epoch_stage("before", "test")
    after_train_epoch = _epoch_stage("after", "train")
    after_val_epoch = _epoch_stage("after", "val")
    after_test_epoch = _epoch_stage("after", "test")
    before_train_iter = _iter_stage("before", "train")
    before_val_iter = _iter_stage("before", "val")
    before_test_iter = _iter_stage("before", "test")
    after_train_iter = _iter_stage("after", "train")
    after_val_iter = _iter_stage("after", "val")
    after_test_iter = _iter_stage("after", "test")

    def _before_epoch(self, runner: Runner, mode: Mode = "train") -> None:
        """Before an epoch of any mode."""

    def _after_epoch(self, runner: Runner, mode: Mode = "train") -> None:
        """After an epoch of any mode."""

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: Mode = "train") -> None:
        """Before an iteration of any mode."""

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: Mode = "train"
    ) -> None:
        """After an iteration of any mode."""

    # -- is it time? --------------------------------------------------------------------------------------------

    def every_n_epochs(self, runner: Runner, n: int, start: int = 0) -> bool:
        """Whether the epoch that runs ends a stretch of ``n``, counted from ``start``; never for n <= 0."""
        done = runner.epoch + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Whether this batch of the epoch ends a stretch of ``n``; never for n <= 0."""
        return n > 0 and (batch_idx + 1) % n == 0

    def every_n_train_iters(self, runner: Runner, n: int, start: int = 0) -> bool:
        """Whether the iteration that runs ends a stretch of ``n``, counted from ``start``; never for n <= 0."""
        done = runner.iter + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def end_of_epoch(self, dataloader: Any, batch_idx: int) -> bool:
        """Whether this batch is the loader's last."""
        return batch_idx + 1 == len(dataloader)

    def is_last_train_epoch(self, runner: Runner) -> bool:
        """Whether the epoch that runs is the last."""
        return bool(runner.epoch + 1 == runner.max_epochs)

    def is_last_train_iter(self, runner: Runner) -> bool:
        """Whether the iteration that runs is the last."""
        return bool(runner.iter + 1 == runner.max_iters)

    @classmethod
    def listens(cls, stage: str) -> bool:
        """Whether this class does anything at a stage."""
        own = getattr(cls, stage, None)
        base = getattr(Hook, stage, None)
        if own is not base:
            return own is not None
        parts = stage.split("_")
        if len(parts) == 3 and parts[1] in ("train", "val", "test"):
            general = f"_{parts[0]}_{parts[2]}"
            return getattr(cls, general, None) is not getattr(Hook, general, None)
        return False


class Hooks:
    """The hooks of one run in calling order: by priority, then by registration.

    Who listens to which stage is worked out once, so a stage that nobody overrides costs a dictionary look-up.
    """

    def __init__(self) -> None:
        self._hooks: list[Hook] = []
        self._calls: dict[str, list[tuple[Hook, Callable[..., None]]]] = {}

    def __iter__(self) -> Iterator[Hook]:
        return iter(self._hooks)

    def __len__(self) -> int:
        return len(self._hooks)

    def register(self, hook: Hook | Mapping[str, Any], priority: str | int | None = None) -> None:
        """Put a hook in its place.

        Args:
            hook: The hook, or its config, which may have a ``priority``.
            priority: Overrides the config's and the hook's own.
        """
        if not isinstance(hook, Hook):
            args: Any = dict(hook) if isinstance(hook, Mapping) else hook
            given = args.pop("priority", None) if isinstance(args, dict) else None
            priority = given if priority is None else priority
            hook = HOOKS.build(args)
            if not isinstance(hook, Hook):
                raise InputError(f"{type(hook).__name__} is no Hook")
        if priority is not None:
            hook.priority = priority
        rank = get_priority(hook.priority)
        place = len(self._hooks)
        while place > 0 and get_priority(self._hooks[place - 1].priority) > rank:
            place -= 1
        self._hooks.insert(place, hook)
        self._calls.clear()

    def call(self, runner: Runner, stage: str, **kwargs: Any) -> None:
        """Call every hook that listens to a stage, in order.

        An error keeps its type and trace; a note says which hook, stage and iteration it came from.

        Args:
            runner: Passed first.
            stage: One of ``STAGES``, or any method name that some hook has.
            **kwargs: The stage's other arguments.
        """
        calls = self._calls.get(stage)
        if calls is None:
            calls = self._calls[stage] = [(h, getattr(h, stage)) for h in self._hooks if _listens(h, stage)]
        for hook, method in calls:
            try:
                method(runner, **kwargs)
            except Exception as error:
                if not any("in hook " in note for note in getattr(error, "__notes__", ())):
                    where = f"epoch {runner.epoch + 1}, iteration {runner.iter + 1}"
                    error.add_note(f"in hook {type(hook).__name__}, stage {stage}, {where}")
                raise

    def table(self) -> str:
        """The hooks of each stage as lines of text; stages with the same hooks share a line."""
        lines: dict[str, list[str]] = {}
        for stage in STAGES:
            names = " ".join(
                f"{type(h).__name__}({get_priority(h.priority)})" for h in self._hooks if _listens(h, stage)
            )
            if names:
                lines.setdefault(names, []).append(stage)
        stages = [", ".join(group) for group in lines.values()]
        width = max((len(s) for s in stages if len(s) <= 40), default=0)
        return "\n".join(f"  {s:<{width}}  {names}" for s, names in zip(stages, lines, strict=True))

    def state_dict(self) -> list[dict[str, Any]]:
        """State of every hook that has some, with its position and name, so that two of a kind stay apart."""
        entries = []
        for position, hook in enumerate(self._hooks):
            name, state = type(hook).__name__, hook.state_dict()
            if state:
                entries.append({"position": position, "name": name, "state": to_plain(state, name)})
        return entries

    def load_state_dict(self, entries: list[dict[str, Any]]) -> list[str]:
        """Give each hook its state back: the hook at that position, else the next of that name.

        Returns:
            Names of saved hooks that this run does not have.
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


def _listens(hook: Hook, stage: str) -> bool:
    """Whether a hook does anything at a stage, also by a method set on the object."""
    return stage in vars(hook) or type(hook).listens(stage)
