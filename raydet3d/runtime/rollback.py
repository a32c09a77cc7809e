"""Roll back the model and optimizer state to an earlier checkpoint without rewinding the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raydet3d import dist
from raydet3d.checkpoint.load import load_metadata, load_shards
from raydet3d.checkpoint.load_weights import load_weights
from raydet3d.checkpoint.manifest import Manifest
from raydet3d.checkpoint.storage import Location
from raydet3d.dist import unwrapped
from raydet3d.optim import OptimWrapper, OptimWrapperDict
from raydet3d.optim.param_groups import Group, settings_of

if TYPE_CHECKING:
    from raydet3d.hooks.context import RunContext


def roll_back(runner: RunContext, *, before: int, passed_over: Sequence[str] = ()) -> str | None:
    """Load weights, optimizer state and EMA weights from this run's newest checkpoint before an iteration.

    Counters, schedules and the position in the data are kept: the batches between the checkpoint and the current
    iteration are skipped, and the current learning rate stays. Training is reproducible, so repeating these batches
    would repeat the failure. Must be called on all ranks.

    Args:
        runner: The run.
        before: The checkpoint must have fewer finished iterations than this.
        passed_over: Names of checkpoints to skip.

    Returns:
        The checkpoint's name, or None if there is none; then nothing is changed.
    """
    path = dist.on_rank0(lambda: _find(runner, before, set(passed_over)))
    if path is None:
        return None
    model = unwrapped(runner.model)
    state = load_shards(load_metadata(path), path, dict(model.named_parameters()))
    name = str(path).rpartition("/")[2]
    runner.is_resuming = True  # so that hooks restore their own state, such as EMA weights
    try:
        runner.call_hook("after_load_checkpoint", checkpoint=state)
    finally:
        runner.is_resuming = False
    load_weights(model, state["state_dict"], strict=True, title=name)
    wrapper = runner.optim_wrapper
    settings = [settings_of(group) for group in _groups(wrapper)]
    wrapper.load_state_dict(state["optimizer"])
    for group, kept in zip(_groups(wrapper), settings, strict=True):
        group.update(kept)
    wrapper.zero_grad()
    return name


def _find(runner: RunContext, before: int, passed_over: set[str]) -> Location | None:
    """Find the newest valid checkpoint that matches, in the order of the run's stores."""

    def is_wanted(manifest: Manifest) -> bool:
        is_own = manifest.run == runner.run_name and manifest.resumable
        return is_own and manifest.step < before and manifest.name not in passed_over

    for store in runner.stores:
        store.drain()
        if (found := store.find(is_wanted)) is not None:
            return store.location(found)
    return None


def _groups(wrapper: OptimWrapper) -> list[Group]:
    """Return all param groups, including those of every optimizer in an `OptimWrapperDict`."""
    if isinstance(wrapper, OptimWrapperDict):
        return [group for some in wrapper.param_groups.values() for group in some]
    return wrapper.param_groups
