"""Going back to an earlier checkpoint's weights in a run that goes on: what is behind is not trained on again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raydet3d import dist
from raydet3d.checkpoint.load import load_metadata, load_shards
from raydet3d.checkpoint.load_weights import load_weights
from raydet3d.checkpoint.manifest import Manifest
from raydet3d.checkpoint.storage import Location
from raydet3d.runtime.ddp import unwrapped

if TYPE_CHECKING:
    from raydet3d.hooks.context import RunContext


def roll_back(runner: RunContext, *, before: int, passed_over: Sequence[str] = ()) -> str | None:
    """Take weights, moments and averages from this run's newest checkpoint that is older than an iteration.

    Counts, schedules and the place in the data stay where they are: the batches between the checkpoint and now are
    skipped, the learning rate is that of now. (Repeating them would repeat what happened: a run is exact.) Every rank
    calls it.

    Args:
        runner: The run.
        before: Iterations finished in the checkpoint are fewer than this.
        passed_over: Names of checkpoints not to use.

    Returns:
        The checkpoint's name; None where there is none, and nothing is changed.
    """
    path = dist.on_rank0(lambda: _find(runner, before, set(passed_over)))
    if path is None:
        return None
    model = unwrapped(runner.model)
    state = load_shards(load_metadata(path), path, dict(model.named_parameters()))
    name = str(path).rpartition("/")[2]
    runner.is_resuming = True  # hooks put back what they keep beside the model: an average of weights
    try:
        runner.call_hook("after_load_checkpoint", checkpoint=state)
    finally:
        runner.is_resuming = False
    load_weights(model, state["state_dict"], strict=True, title=name)
    wrapper = runner.optim_wrapper
    settings = [_settings(group) for group in _groups(wrapper)]
    wrapper.load_state_dict(state["optimizer"])
    for group, kept in zip(_groups(wrapper), settings, strict=True):
        group.update(kept)
    wrapper.zero_grad()
    return name


def _find(runner: RunContext, before: int, passed_over: set[str]) -> Location | None:
    """The newest whole checkpoint that will do."""

    def is_wanted(manifest: Manifest) -> bool:
        is_own = manifest.run == runner.run_name and manifest.resumable
        return is_own and manifest.step < before and manifest.name not in passed_over

    for store in runner.stores:
        store.drain()
        if (found := store.find(is_wanted)) is not None:
            return store.location(found)
    return None


def _groups(wrapper: Any) -> list[dict[str, Any]]:
    """All param groups, of several optimizers too."""
    groups = wrapper.param_groups
    return [group for some in groups.values() for group in some] if isinstance(groups, dict) else groups


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}
