"""Resume schedulers: restore their counts, and recompute scheduled values if the config has changed."""

from __future__ import annotations

from collections.abc import Sequence

from raydet3d.errors import InputError
from raydet3d.optim.param_groups import Group
from raydet3d.optim.plateau import ReduceOnPlateauParamScheduler
from raydet3d.optim.schedule import CurveScheduler, ParamScheduler, Schedule, Scheduler, SchedulerState
from raydet3d.optim.wrapper import OptimWrapper

REPLAYABLE = (CurveScheduler, ReduceOnPlateauParamScheduler)


def resume_schedulers(
    optim_wrapper: OptimWrapper,
    schedulers: Sequence[Scheduler],
    states: Sequence[SchedulerState],
    *,
    iters: int,
    epochs: int,
    epoch_length: int,
    max_iters: int | None = None,
) -> list[str]:
    """Load the schedulers' states, and make the param groups hold what the config says now.

    Call it after schedulers are built and the wrapper's state is loaded, in this order. If the config is unchanged,
    no value is written, so that a resumed run equals the uninterrupted one bit for bit. Otherwise the fields concerned
    (a configured value or a curve has changed, a scheduler was added or removed) are computed again tick by tick, as if
    the run had used this config from its start.

    Args:
        optim_wrapper: The wrapper, its state loaded.
        schedulers: The schedulers, in the config's order.
        states: The saved states, ours or MMEngine's.
        iters: Iterations done.
        epochs: Epochs done.
        epoch_length: Iterations of one epoch.
        max_iters: Iterations of the whole run, for schedules that last as long as it does.

    Returns:
        What has changed, one line each, for the log.
    """
    lines = list(optim_wrapper.config_changes)
    fields = {line.split(":", 1)[0] for line in lines}
    if "betas" in fields:
        fields.add("momentum")
    rest = list(states)
    for scheduler in schedulers:
        if max_iters is not None and isinstance(scheduler, CurveScheduler) and scheduler.lasts_all_iters:
            scheduler.end_at(max_iters)
        state = _take_state(scheduler, rest)
        if state is None:
            lines.append(f"{type(scheduler).__name__} is new")
            fields.add(getattr(scheduler, "param_name", ""))
        elif isinstance(scheduler, ParamScheduler):
            scheduler.resume(state)
        else:
            scheduler.load_state_dict(state)
        if isinstance(scheduler, ParamScheduler):
            if state is None or state.get("by_epoch", scheduler.by_epoch) != scheduler.by_epoch:
                scheduler.set_count(epochs if scheduler.by_epoch else iters)
            if scheduler.config_changes:
                lines += scheduler.config_changes
                fields.add(scheduler.param_name)
    for state in rest:
        lines.append(f"{state.get('type', 'a scheduler')} is gone")
        fields.add(str(state.get("param_name", "lr")))
    _follow(optim_wrapper, schedulers, fields, lines, epoch_length)
    return lines


def _take_state(scheduler: Scheduler, states: list[SchedulerState]) -> SchedulerState | None:
    """Remove the first state of this scheduler's type from a list; MMEngine's states name no type."""
    for i, state in enumerate(states):
        if state.get("type", type(scheduler).__name__) == type(scheduler).__name__:
            return states.pop(i)
    return None


def _follow(
    optim_wrapper: OptimWrapper, schedulers: Sequence[Scheduler], fields: set[str], lines: list[str], epoch_length: int
) -> None:
    """Compute some fields again through all ticks, from the config's values."""
    for field in sorted(fields):
        acting = [s for s in schedulers if getattr(s, "param_name", None) == field]
        strange = next((s for s in acting if not isinstance(s, REPLAYABLE)), None)
        if strange is not None:
            lines.append(f"{field} starts from the config's value: {type(strange).__name__} cannot be replayed")
        for group, configured in zip(optim_wrapper.param_groups, optim_wrapper.configured(), strict=True):
            _reset(group, configured, field)
        if acting and strange is None:
            replay([s for s in acting if isinstance(s, CurveScheduler)], epoch_length)
            for scheduler in acting:  # reductions by a metric belong to no tick, so they come last
                if isinstance(scheduler, ReduceOnPlateauParamScheduler):
                    scheduler.repeat_reductions()


def _reset(group: Group, configured: Group, field: str) -> None:
    if field in configured:
        group[field] = configured[field]
    elif field == "momentum" and "betas" in configured:
        group["betas"] = tuple(configured["betas"])
        group["momentum"] = configured["betas"][0]


def replay(schedulers: Sequence[ParamScheduler], epoch_length: int) -> None:
    """Repeat all ticks of some schedulers up to their counts, in the order in which training makes them.

    Args:
        schedulers: The schedulers; their fields hold the configured values.
        epoch_length: Iterations of one epoch.
    """
    if epoch_length < 1:
        raise InputError(f"an epoch has at least one iteration, got epoch_length={epoch_length}")
    counts = {id(scheduler): scheduler.count for scheduler in schedulers}
    for scheduler in schedulers:
        if scheduler.count >= 0:
            scheduler.set_count(-1)
            scheduler.step()
    iteration = 0
    while behind := [scheduler for scheduler in schedulers if scheduler.count < counts[id(scheduler)]]:
        schedule = Schedule(behind)
        if all(scheduler.by_epoch for scheduler in behind):
            schedule.advance(epochs=1)
            continue
        iteration += 1
        schedule.advance(iters=1, epochs=int(iteration % epoch_length == 0))
