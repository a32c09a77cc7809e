"""A resumed run with a changed config stands where a run with the new one would; an unchanged one as it was saved."""

import copy

import pytest

from raydet3d.optim import ParamScheduler, build_optim_wrapper, build_param_scheduler, resume_schedulers
from raydet3d.registry import PARAM_SCHEDULERS
from tests.kit.optim import small_model

EPOCH = 5
OPTIMIZER = {"type": "AdamW", "lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.01}
RULES = {"bias_lr_mult": 2.0, "norm_decay_mult": 0.0}
SCHEDULE = [
    {"type": "LinearLR", "start_factor": 0.1, "end": 7, "by_epoch": False},
    {"type": "CosineAnnealingLR", "eta_min": 1e-4, "by_epoch": True},
    {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5, "by_epoch": True},
    {"type": "CosineAnnealingMomentum", "eta_min": 0.8, "convert_to_iter_based": True},
]


def start(optimizer=OPTIMIZER, schedule=SCHEDULE, epochs=6, rules=RULES, ratio=None):
    wrapper = build_optim_wrapper(small_model(), {"optimizer": dict(optimizer), "paramwise_cfg": rules})
    if ratio:
        wrapper.scale_lr(ratio)
    schedulers = build_param_scheduler(
        schedule, wrapper, epoch_length=EPOCH, max_epochs=epochs, max_iters=epochs * EPOCH
    )
    return wrapper, schedulers


def tick(schedulers, first, last):
    for iteration in range(first, last):
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % EPOCH == 0:
                scheduler.step()


def resume(old, new, iters=0):
    state, states = copy.deepcopy((old[0].checkpoint_state(), [s.state_dict() for s in old[1]]))
    new[0].load_state_dict(state)
    return resume_schedulers(new[0], new[1], states, iters=iters, epochs=iters // EPOCH, epoch_length=EPOCH)


def shown(wrapper):
    decay = [group["weight_decay"] for group in wrapper.state_dict()["param_groups"]]
    return wrapper.get_lr(), wrapper.get_momentum(), decay


@pytest.mark.parametrize(
    ("new", "what"),
    [
        ({"optimizer": {**OPTIMIZER, "lr": 0.5}}, "lr: 0.1 -> 0.5"),
        ({"ratio": 4.0}, "lr: 0.1 -> 0.4"),
        ({"epochs": 12}, "CosineAnnealingLR.end: 6 -> 12"),
        ({"schedule": [SCHEDULE[0], {**SCHEDULE[1], "eta_min": 0.01}, *SCHEDULE[2:]]}, "eta_min: 0.0001 -> 0.01"),
        ({"optimizer": {**OPTIMIZER, "weight_decay": 0.1}}, "weight_decay: 0.01 -> 0.1"),
        ({"optimizer": {**OPTIMIZER, "betas": (0.95, 0.99)}}, "betas"),
        ({"rules": {**RULES, "bias_lr_mult": 3.0}}, "lr: 0.2 -> 0.3"),
        ({"rules": None}, ""),
        ({"schedule": SCHEDULE[:2]}, "MultiStepLR is gone"),
        ({"schedule": []}, "LinearLR is gone"),
        ({"schedule": [*SCHEDULE[:1], {"type": "ExponentialLR", "gamma": 0.9}, *SCHEDULE[1:]]}, "ExponentialLR is new"),
        ({"schedule": [*SCHEDULE[:3], {**SCHEDULE[3], "convert_to_iter_based": False}]}, "by_epoch: False -> True"),
    ],
)
@pytest.mark.parametrize("stop", [3, 10, 17])
def test_changed_config_values_take_effect_on_resume(new, what, stop):
    old = start()
    tick(old[1], 0, stop)
    resumed, expected = start(**new), start(**new)
    lines = resume(old, resumed, stop)
    tick(expected[1], 0, stop)
    assert not what or any(what in line for line in lines), lines
    for _ in range(2):
        for ours, theirs in zip(shown(resumed[0]), shown(expected[0]), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-12) if isinstance(ours, list) else ours.keys() == theirs.keys()
            if not isinstance(ours, list):
                for key in ours:
                    assert ours[key] == pytest.approx(theirs[key], rel=1e-12)
        tick(resumed[1], stop, stop + 8)
        tick(expected[1], stop, stop + 8)


@pytest.mark.parametrize("stop", [0, 3, 10, 17])
def test_an_unchanged_config_writes_no_value(stop):
    old, new = start(), start()
    tick(old[1], 0, stop)
    old[0].optimizer.param_groups[0]["lr"] *= 1.7  # changed from outside: it carries on
    assert resume(old, new, stop) == []
    assert shown(new[0]) == shown(old[0])


def test_a_field_that_nothing_schedules_keeps_what_was_made_of_it():
    old, new = start(schedule=None), start(schedule=None)
    old[0].optimizer.param_groups[0]["lr"] = 0.07
    assert resume(old, new) == []
    assert shown(new[0]) == shown(old[0])


def test_reductions_by_a_metric_are_kept():
    schedule = [{"type": "ReduceOnPlateauLR", "patience": 0, "factor": 0.5}]
    old = start(schedule=schedule)
    for _ in range(3):
        old[1][0].step({"loss": 1.0})
    assert old[0].get_lr()["base_lr"] == [0.025]
    new = start(schedule=schedule, optimizer={**OPTIMIZER, "lr": 1.0})
    resume(old, new)
    assert new[0].get_lr()["base_lr"] == [0.25]


def test_changes_to_an_mmengine_checkpoint_are_inferred_from_initial_values():
    """Their files do not say what was configured, but what each schedule started from."""
    old, same_lr, new = start(), start(), start(optimizer={**OPTIMIZER, "lr": 0.5})
    tick(old[1], 0, 8)
    state = old[0].state_dict()
    same_lr[0].load_state_dict(state)
    assert same_lr[0].config_changes == []
    assert shown(same_lr[0]) == shown(old[0])
    new[0].load_state_dict(state)
    assert [line.split(" (")[0] for line in new[0].config_changes] == ["lr: 0.1 -> 0.5", "lr: 0.2 -> 1.0"]


def test_a_scheduler_that_cannot_be_replayed_is_named():
    class Own(ParamScheduler):
        def __init__(self, optimizer, **kwargs):
            super().__init__(optimizer, "lr", **kwargs)

        def _get_value(self):
            return [0.5 * self.target.read(group) for group in self.optimizer.param_groups]

    with PARAM_SCHEDULERS.temporary(Own=Own):
        schedule = [{"type": "Own"}]
        old, new = start(schedule=schedule), start(schedule=schedule, optimizer={**OPTIMIZER, "lr": 1})
    lines = resume(old, new)
    assert lines[-1] == "lr starts from the config's value: Own cannot be replayed"
    assert new[0].get_lr()["base_lr"] == [1]
