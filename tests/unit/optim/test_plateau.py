"""ReduceOnPlateau against torch's, and what it makes of epochs, metrics and states."""

import doctest

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from raydet3d.errors import InputError
from raydet3d.optim import build_optim_wrapper, build_param_scheduler, plateau
from raydet3d.optim.plateau import ReduceOnPlateauLR, ReduceOnPlateauMomentum
from tests.kit.optim import small_model


def optimizer_of(**settings):
    return torch.optim.SGD([torch.zeros(1)], **{"lr": 1.0, "momentum": 0.9, **settings})


def test_the_example():
    assert doctest.testmod(plateau).failed == 0


@pytest.mark.parametrize("rule", ["less", "greater"])
@pytest.mark.parametrize("threshold_rule", ["rel", "abs"])
@pytest.mark.parametrize(("patience", "cooldown"), [(0, 0), (2, 0), (1, 3)])
def test_is_torchs(rule, threshold_rule, patience, cooldown):
    settings = {"factor": 0.5, "patience": patience, "threshold": 0.05, "cooldown": cooldown, "eps": 1e-3}
    ours, theirs = optimizer_of(), optimizer_of()
    scheduler = ReduceOnPlateauLR(
        ours, monitor="m", rule=rule, threshold_rule=threshold_rule, min_value=0.01, **settings
    )
    reference = ReduceLROnPlateau(
        theirs, mode="min" if rule == "less" else "max", threshold_mode=threshold_rule, min_lr=0.01, **settings
    )
    for value in (1 + torch.rand(60, generator=torch.Generator().manual_seed(patience))).tolist():
        scheduler.step({"m": value, "other": 1})
        reference.step(value)
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    assert ours.param_groups[0]["lr"] < 1


def test_epochs_count_without_judging():
    optimizer = optimizer_of()
    scheduler = ReduceOnPlateauLR(optimizer, patience=0, factor=0.5, begin=2)
    assert scheduler.need_val_args
    for _ in range(2):
        scheduler.step({"loss": 1.0})
        scheduler.step()
    assert scheduler.state_dict()["last_step"] == -1
    scheduler.step({"loss": 1.0})
    scheduler.step({"loss": torch.tensor(1.0)})
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert (scheduler.last_step, scheduler._global_step) == (1, 2)


def test_momentum():
    optimizer = optimizer_of()
    scheduler = ReduceOnPlateauMomentum(optimizer, patience=0, factor=0.5)
    for _ in range(2):
        scheduler.step({"loss": 1.0})
    assert optimizer.param_groups[0]["momentum"] == 0.45


@pytest.mark.parametrize("floors", [[0.5] + [0.0] * 5, [0.5] + [0.0] * 6])
def test_min_value_may_be_one_per_group(floors):
    wrapper = build_optim_wrapper(
        small_model(), {"optimizer": {"type": "SGD", "lr": 1.0}, "paramwise_cfg": {"bias_lr_mult": 2.0}}
    )
    cfg = {"type": "ReduceOnPlateauLR", "patience": 0, "factor": 0.1, "min_value": floors}
    (scheduler,) = build_param_scheduler(cfg, wrapper, epoch_length=1, max_epochs=9, max_iters=9)
    for _ in range(2):
        scheduler.step({"loss": 1.0})
    assert wrapper.get_lr()["lr"] == pytest.approx([0.5, 0.2, 0.1, 0.1, 0.1, 0.2])


def test_state():
    settings = {"patience": 1, "factor": 0.5, "cooldown": 1}
    losses = [3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 2.5, 1.0, 2.0]
    whole = optimizer_of()
    scheduler = ReduceOnPlateauLR(whole, **settings)
    for loss in losses:
        scheduler.step({"loss": loss})
    first, second = optimizer_of(), optimizer_of()
    one, two = ReduceOnPlateauLR(first, **settings), ReduceOnPlateauLR(second, **settings)
    for loss in losses[:4]:
        one.step({"loss": loss})
    second.load_state_dict(first.state_dict())
    two.load_state_dict(one.state_dict())
    for loss in losses[4:]:
        two.step({"loss": loss})
    assert second.param_groups[0]["lr"] == whole.param_groups[0]["lr"] < 1
    assert two.state_dict() == scheduler.state_dict()


def test_a_metric_that_is_not_there():
    scheduler = ReduceOnPlateauLR(optimizer_of(), monitor="mAP")
    with pytest.raises(InputError, match="monitors 'mAP'; validation gave loss, AP"):
        scheduler.step({"loss": 1.0, "AP": 2.0})


@pytest.mark.parametrize(
    "settings", [{"factor": 1.0}, {"rule": "more"}, {"threshold_rule": "none"}, {"by_epoch": False}]
)
def test_refuses(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        ReduceOnPlateauLR(optimizer_of(), **settings)


def test_min_value_list_of_a_wrong_length_is_refused():
    with pytest.raises(InputError, match="min_value lists 2 values for 1"):
        ReduceOnPlateauLR(optimizer_of(), min_value=[0.0, 1.0])
