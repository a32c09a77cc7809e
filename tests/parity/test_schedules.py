"""Learning rate and momentum of every stored schedule, iteration by iteration, against MMEngine's numbers."""

import pytest

from raydet3d.optim import build_optim_wrapper, build_param_scheduler
from tests.kit.optim import read_table, toy_model

TABLE = read_table("schedules")
EPOCH = TABLE["epoch_length"]


def _title(case):
    kinds = "+".join(s["type"] for s in case["param_scheduler"])
    return f"{case['optimizer']['type']}-{kinds}-{'paramwise' if case['paramwise_cfg'] else 'plain'}"


def _now(group):
    return group["lr"], group["betas"][0] if "betas" in group else group["momentum"]


def test_the_table_is_whole():
    kinds = {s["type"] for case in TABLE["cases"] for s in case["param_scheduler"]}
    assert len(TABLE["cases"]) == 180
    assert len(kinds) == 17  # nine curves for LR, all but OneCycle for momentum
    assert all(len(case["trace_first"]) == 8 * EPOCH + 1 for case in TABLE["cases"])


@pytest.mark.parametrize("case", TABLE["cases"], ids=_title)
def test_schedule(case):
    cfg = {"optimizer": case["optimizer"], "paramwise_cfg": case["paramwise_cfg"]}
    wrapper = build_optim_wrapper(toy_model(), cfg)
    iters = case["max_epochs"] * EPOCH
    schedulers = build_param_scheduler(
        case["param_scheduler"], wrapper, epoch_length=EPOCH, max_epochs=case["max_epochs"], max_iters=iters
    )
    for iteration in range(iters + 1):
        for group, trace in (
            (wrapper.param_groups[0], case["trace_first"]),
            (wrapper.param_groups[-1], case["trace_last"]),
        ):
            assert _now(group) == pytest.approx(trace[iteration], rel=0, abs=1e-12), iteration
        assert wrapper.get_lr()["lr"][0] == wrapper.param_groups[0]["lr"]
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % EPOCH == 0:
                scheduler.step()
