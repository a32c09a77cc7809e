"""Each curve against its closed form, and against torch's scheduler of the same name where there is one."""

import doctest
import math

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedulers

from raydet3d.errors import InputError
from raydet3d.optim import curves
from raydet3d.optim.curves import (
    Constant,
    CosineAnnealing,
    CosineRestart,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Poly,
    Step,
    preview,
)

TICKS = 25


def from_torch(make, value=0.4, ticks=TICKS):
    """The learning rates of a torch scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=value)
    scheduler = make(optimizer)
    seen = []
    for _ in range(ticks):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return pytest.approx(seen, rel=1e-12, abs=1e-15)


def test_tables_in_docstrings():
    result = doctest.testmod(curves)
    assert result.attempted >= 11
    assert result.failed == 0


class TestConstant:
    def test_is_torchs(self):
        # torch gives the value back at tick total_iters, ours on the last tick of the window
        expected = from_torch(lambda o: torch_schedulers.ConstantLR(o, factor=0.3, total_iters=7))
        assert preview(Constant(factor=0.3, end=8), 0.4, TICKS) == expected

    def test_a_window_of_one_tick_is_not_given_back(self):
        assert preview(Constant(factor=0.5, begin=1, end=2), 1.0, 4) == [1.0, 0.5, 0.5, 0.5]

    @pytest.mark.parametrize("factor", [0, -0.1, 1.1])
    def test_refuses(self, factor):
        with pytest.raises(InputError, match="factor"):
            Constant(factor=factor)


class TestLinear:
    @pytest.mark.parametrize(("start", "end"), [(0.1, 1.0), (1.0, 0.2), (0.5, 0.0)])
    def test_is_torchs(self, start, end):
        expected = from_torch(lambda o: torch_schedulers.LinearLR(o, start_factor=start, end_factor=end, total_iters=9))
        assert preview(Linear(start_factor=start, end_factor=end, end=10), 0.4, TICKS) == expected

    def test_is_a_straight_line(self):
        values = preview(Linear(start_factor=0.001, begin=3, end=503), 2.0, 510)
        assert values[:3] == [2.0] * 3
        assert values[3:503] == pytest.approx([2 * (0.001 + 0.999 * t / 499) for t in range(500)], abs=1e-12)
        assert values[503:] == [values[502]] * 7

    @pytest.mark.parametrize("fields", [{"start_factor": 0}, {"start_factor": 1.5}, {"end_factor": -1}])
    def test_refuses(self, fields):
        with pytest.raises(InputError, match="factor"):
            Linear(**fields)


class TestExponential:
    def test_is_torchs(self):
        expected = from_torch(lambda o: torch_schedulers.ExponentialLR(o, gamma=0.9))
        assert preview(Exponential(gamma=0.9), 0.4, TICKS) == expected

    def test_needs_gamma(self):
        with pytest.raises(TypeError, match="gamma"):
            Exponential()


class TestStep:
    def test_is_torchs(self):
        expected = from_torch(lambda o: torch_schedulers.StepLR(o, step_size=4, gamma=0.3))
        assert preview(Step(step_size=4, gamma=0.3), 0.4, TICKS) == expected

    def test_refuses(self):
        with pytest.raises(InputError, match="step_size"):
            Step(step_size=0)


class TestMultiStep:
    def test_is_torchs(self):
        expected = from_torch(lambda o: torch_schedulers.MultiStepLR(o, milestones=[3, 7, 7, 20], gamma=0.3))
        assert preview(MultiStep(milestones=[3, 7, 7, 20], gamma=0.3), 0.4, TICKS) == expected

    def test_milestones_count_from_begin(self):
        assert preview(MultiStep(milestones=[2], gamma=0.5, begin=3), 1.0, 7) == [1.0] * 5 + [0.5] * 2

    def test_refuses(self):
        with pytest.raises(InputError, match="milestones"):
            MultiStep(milestones=5)


class TestPoly:
    def test_is_torchs(self):
        expected = from_torch(lambda o: torch_schedulers.PolynomialLR(o, total_iters=10, power=0.9))
        assert preview(Poly(power=0.9, end=11), 0.4, TICKS) == expected

    def test_reaches_eta_min_on_the_last_tick(self):
        values = preview(Poly(power=2, eta_min=0.1, begin=2, end=13), 1.0, 20)
        assert values[:3] == [1.0] * 3
        assert values[2:13] == pytest.approx([0.9 * (1 - t / 10) ** 2 + 0.1 for t in range(11)], abs=1e-12)
        assert values[12:] == [pytest.approx(0.1, abs=1e-15)] * 8


class TestCosineAnnealing:
    def test_is_torchs(self):
        expected = from_torch(lambda o: torch_schedulers.CosineAnnealingLR(o, T_max=6, eta_min=0.01))
        assert preview(CosineAnnealing(T_max=6, eta_min=0.01), 0.4, TICKS) == expected

    def test_defaults_of_t_max_and_eta_min(self):
        values = preview(CosineAnnealing(begin=2, end=10), 1.0, 12)
        assert values[2:10] == pytest.approx([(1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)], abs=1e-12)

    def test_eta_min_may_exceed_the_value(self):
        """The cyclic schedule: up to ten times, by the same formula."""
        values = preview(CosineAnnealing(T_max=8, eta_min=10.0, end=8), 1.0, 8)
        assert values == pytest.approx([10 - 9 * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)], abs=1e-12)

    def test_eta_min_ratio_is_a_share_of_the_initial_value(self):
        by_ratio = preview(CosineAnnealing(T_max=5, eta_min_ratio=0.1), 0.4, TICKS)
        assert by_ratio == pytest.approx(preview(CosineAnnealing(T_max=5, eta_min=0.04), 0.4, TICKS), abs=1e-15)

    @pytest.mark.parametrize("fields", [{"eta_min": 0, "eta_min_ratio": 0}, {"T_max": 0}])
    def test_refuses(self, fields):
        with pytest.raises(InputError, match=r"eta_min|T_max"):
            CosineAnnealing(**fields)


class TestCosineRestart:
    def test_is_torchs_where_periods_are_equal(self):
        expected = from_torch(lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, T_0=5, eta_min=0.01))
        curve = CosineRestart(periods=[5] * 5, restart_weights=[1] * 5, eta_min=0.01)
        assert preview(curve, 0.4, TICKS) == expected

    def test_weights_and_the_end(self):
        values = preview(CosineRestart(periods=[2, 4], restart_weights=[1, 0.5], eta_min_ratio=0.0), 1.0, 9)
        wave = [(1 + math.cos(math.pi * t / 4)) / 4 for t in range(4)]
        assert values == pytest.approx([1.0, 0.5, *wave, wave[-1], wave[-1], wave[-1]], abs=1e-12)

    @pytest.mark.parametrize(
        ("fields", "what"),
        [
            ({"periods": [3]}, "either eta_min or eta_min_ratio"),
            ({"periods": [3, 3], "eta_min": 0.0}, "restart_weights"),
            ({"periods": [0], "eta_min": 0.0}, "periods"),
        ],
    )
    def test_refuses(self, fields, what):
        with pytest.raises(InputError, match=what):
            CosineRestart(**fields)


class TestOneCycle:
    @pytest.mark.parametrize("strategy", ["cos", "linear"])
    @pytest.mark.parametrize("three_phase", [False, True])
    def test_is_torchs(self, strategy, three_phase):
        expected = from_torch(
            lambda o: torch_schedulers.OneCycleLR(
                o,
                max_lr=2.0,
                total_steps=TICKS + 1,
                pct_start=0.3,
                anneal_strategy=strategy,
                three_phase=three_phase,
                div_factor=10.0,
                cycle_momentum=False,
            )
        )
        curve = OneCycle(
            eta_max=2.0,
            total_steps=TICKS + 1,
            anneal_strategy=strategy,
            three_phase=three_phase,
            div_factor=10.0,
        )
        assert preview(curve, 123.0, TICKS) == expected

    def test_past_its_end(self):
        curve = OneCycle(eta_max=1.0, total_steps=5)
        preview(curve, 1.0, 6)
        with pytest.raises(InputError, match="total_steps"):
            preview(curve, 1.0, 7)

    @pytest.mark.parametrize("fields", [{"anneal_strategy": "sin"}, {"pct_start": 1.5}, {"total_steps": 0}])
    def test_refuses(self, fields):
        with pytest.raises(InputError, match=next(iter(fields))):
            OneCycle(eta_max=1.0, **fields)


class TestInIterations:
    def test_scales_what_is_measured_in_ticks(self):
        got = MultiStep(milestones=[2, 4.5], gamma=0.5, begin=1, end=8).in_iterations(10)
        assert got == MultiStep(milestones=[20, 45.0], gamma=0.5, begin=10, end=80, by_epoch=False)
        assert CosineAnnealing(T_max=3, end=3).in_iterations(7) == CosineAnnealing(T_max=21, end=21, by_epoch=False)
        assert CosineAnnealing(begin=0.5, end=1.5).in_iterations(5).begin == 2

    def test_keeps_what_is_not(self):
        got = Exponential(gamma=0.5).in_iterations(10)
        assert (got.gamma, got.end) == (0.5, curves.FOREVER)

    def test_refuses(self):
        with pytest.raises(InputError, match="by_epoch"):
            Exponential(gamma=0.5, by_epoch=False).in_iterations(10)
        with pytest.raises(InputError, match="epoch_length of at least 1"):
            Exponential(gamma=0.5).in_iterations(0)


@pytest.mark.parametrize(("begin", "end"), [(3, 3), (4, 2), (-1, 2)])
def test_a_window_has_a_length(begin, end):
    with pytest.raises(InputError, match="end should be larger than begin"):
        Exponential(gamma=0.5, begin=begin, end=end)
