"""Schedulers: what they write where, how they are built, and that loading a state applies nothing twice."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.optim import (
    CURVES,
    Curve,
    OptimWrapper,
    ParamScheduler,
    build_optim_wrapper,
    build_param_scheduler,
    register_curve,
)
from raydet3d.optim.schedule import LinearLR, MultiStepLR, OneCycleMomentum, Schedule, StepLR
from raydet3d.registry import PARAM_SCHEDULERS
from tests.kit.optim import small_model

PARAMWISE = {"bias_lr_mult": 2.0, "norm_decay_mult": 0.0}


def wrapper_of(kind="SGD", paramwise=None, **optimizer):
    cfg = {"optimizer": {"type": kind, "lr": 0.1, "weight_decay": 0.01, **optimizer}, "paramwise_cfg": paramwise}
    return build_optim_wrapper(small_model(), cfg)


def build(cfg, wrapper, epoch_length=5, max_epochs=4):
    return build_param_scheduler(
        cfg, wrapper, epoch_length=epoch_length, max_epochs=max_epochs, max_iters=epoch_length * max_epochs
    )


def test_every_curve_has_three_names():
    expected = {f"{name}{suffix}" for name in CURVES for suffix in ("LR", "Momentum", "ParamScheduler")}
    expected |= {f"ReduceOnPlateau{suffix}" for suffix in ("LR", "Momentum", "ParamScheduler")}
    assert len(expected) == 30
    assert expected <= set(PARAM_SCHEDULERS)


class TestTargets:
    def test_first_tick_is_at_construction(self):
        wrapper = wrapper_of()
        LinearLR(wrapper, start_factor=0.1, end=5)
        assert wrapper.get_lr() == {"lr": [pytest.approx(0.01)]}
        assert wrapper.param_groups[0]["initial_lr"] == 0.1

    def test_momentum_of_sgd(self):
        wrapper = wrapper_of(momentum=0.9)
        build({"type": "ExponentialMomentum", "gamma": 0.5}, wrapper)[0].step()
        assert wrapper.param_groups[0]["momentum"] == 0.45
        assert "betas" not in wrapper.param_groups[0]

    def test_momentum_of_adam_is_the_first_beta(self):
        wrapper = wrapper_of("AdamW", betas=(0.9, 0.99))
        build({"type": "ExponentialMomentum", "gamma": 0.5}, wrapper)[0].step()
        group = wrapper.param_groups[0]
        assert group["betas"] == (0.45, 0.99)
        assert group["momentum"] == 0.45
        assert wrapper.get_momentum() == {"momentum": [0.45]}

    def test_no_momentum(self):
        with pytest.raises(InputError, match="Adagrad has neither momentum nor betas"):
            build({"type": "ExponentialMomentum", "gamma": 0.5}, wrapper_of("Adagrad"))

    def test_any_field(self):
        wrapper = wrapper_of(paramwise={"norm_decay_mult": 0.5})
        cfg = {"type": "ExponentialParamScheduler", "param_name": "weight_decay", "gamma": 0.5}
        build(cfg, wrapper)[0].step()
        decays = [group["weight_decay"] for group in wrapper.state_dict()["param_groups"]]
        assert decays == [0.005, 0.005, 0.0025, 0.0025, 0.005, 0.005]

    def test_a_field_that_is_not_there(self):
        cfg = {"type": "ExponentialParamScheduler", "param_name": "eps", "gamma": 0.5}
        with pytest.raises(InputError, match="no 'eps'"):
            build(cfg, wrapper_of())

    def test_onecycle_momentum_exists(self):
        wrapper = wrapper_of(momentum=0.9)
        OneCycleMomentum(wrapper, eta_max=0.95, total_steps=10, div_factor=2.0)
        assert wrapper.get_momentum() == {"momentum": [pytest.approx(0.475)]}

    def test_a_tensor_is_filled(self):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.Adam([parameter], lr=torch.tensor(0.5), capturable=True)
        there = optimizer.param_groups[0]["lr"]
        scheduler = MultiStepLR(optimizer, milestones=[1], gamma=0.5)
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] is there
        assert there.item() == 0.25
        assert optimizer.param_groups[0]["initial_lr"].item() == 0.5


class TestChaining:
    def test_overlapping_curves_multiply(self):
        wrapper = wrapper_of()
        schedulers = build(
            [
                {"type": "LinearLR", "start_factor": 0.5, "end": 3, "by_epoch": False},
                {"type": "MultiStepLR", "milestones": [1], "gamma": 0.1, "by_epoch": False},
            ],
            wrapper,
        )
        seen = [wrapper.get_lr()["lr"][0]]
        for _ in range(3):
            for scheduler in schedulers:
                scheduler.step()
            seen.append(wrapper.get_lr()["lr"][0])
        assert seen == pytest.approx([0.05, 0.0075, 0.01, 0.01])

    def test_a_value_changed_from_outside_carries_on(self):
        wrapper = wrapper_of()
        (scheduler,) = build({"type": "ExponentialLR", "gamma": 0.5}, wrapper)
        wrapper.param_groups[0]["lr"] = 0.8
        scheduler.step()
        assert wrapper.get_lr() == {"lr": [0.4]}

    def test_a_later_onecycle_does_not_move_an_earlier_curves_base(self):
        wrapper = wrapper_of(paramwise=PARAMWISE)
        cosine, _ = build(
            [
                {"type": "CosineRestartLR", "periods": [1, 9], "restart_weights": [1, 0.5], "eta_min": 0.0},
                {"type": "OneCycleLR", "eta_max": 1.0, "begin": 5, "end": 20},
            ],
            wrapper,
            max_epochs=20,
        )
        cosine.step()
        assert wrapper.get_lr()["base_lr"] == [0.05]
        assert set(wrapper.get_lr()["lr"]) == {0.05, 0.1}


class TestLists:
    def test_different_peaks_split_groups(self):
        wrapper = wrapper_of(paramwise=PARAMWISE)
        before = len(wrapper.optimizer.param_groups)
        peaks = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]  # six parameters and the base group
        build({"type": "OneCycleLR", "eta_max": peaks, "total_steps": 10, "div_factor": 1.0}, wrapper)
        assert wrapper.get_lr() == {"base_lr": [7.0], "lr": peaks[:6]}
        assert len(wrapper.optimizer.param_groups) == 6 > before

    def test_equal_peaks_keep_groups_merged(self):
        wrapper = wrapper_of(paramwise={"norm_decay_mult": 0.0})
        build({"type": "OneCycleLR", "eta_max": [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0], "total_steps": 10}, wrapper)
        assert len(wrapper.optimizer.param_groups) == 2

    @pytest.mark.parametrize("paramwise", [None, PARAMWISE])
    def test_wrong_length(self, paramwise):
        with pytest.raises(InputError, match="eta_max lists 3 values"):
            build({"type": "OneCycleLR", "eta_max": [1.0, 2.0, 3.0]}, wrapper_of(paramwise=paramwise))


class TestBuild:
    def test_no_config_gives_no_schedulers(self):
        assert build(None, wrapper_of()) == []
        assert build([], wrapper_of()) == []

    def test_default_end(self):
        wrapper = wrapper_of()
        kinds = [{"type": "PolyLR"}, {"type": "PolyLR", "by_epoch": False}]
        kinds.append({"type": "PolyLR", "convert_to_iter_based": True})
        assert [s.end for s in build(kinds, wrapper, epoch_length=5, max_epochs=4)] == [4, 20, 20]

    def test_convert_to_iter_based(self):
        cfg = {"type": "StepLR", "step_size": 2, "begin": 1, "convert_to_iter_based": True}
        (scheduler,) = build(cfg, wrapper_of(), epoch_length=10)
        assert not scheduler.by_epoch
        assert (scheduler.begin, scheduler.end, scheduler.curve.step_size) == (10, 40, 20)

    def test_convert_a_named_field(self):
        cfg = {"type": "LinearParamScheduler", "param_name": "lr", "end": 2, "convert_to_iter_based": True}
        assert build(cfg, wrapper_of(), epoch_length=10)[0].end == 20

    def test_does_not_change_the_config(self):
        cfg = [{"type": "LinearLR", "end": 2, "convert_to_iter_based": True}]
        build(cfg, wrapper_of())
        assert cfg == [{"type": "LinearLR", "end": 2, "convert_to_iter_based": True}]

    def test_ready_objects_pass_through(self):
        wrapper = wrapper_of()
        ready = LinearLR(wrapper, end=5)
        assert build([ready, {"type": "StepLR", "step_size": 1}], wrapper)[0] is ready

    @pytest.mark.parametrize(
        ("cfg", "what"),
        [
            ({"type": "LinearLR", "begin": 3, "end": 2}, r"param_scheduler\[0\].*end"),
            ({"type": "LinearLR", "start_facto": 0.1}, "start_factor"),
            ({"type": "LinearLR", "start_facto": 0.1, "convert_to_iter_based": True}, "start_factor"),
            ({"type": "LinerLR"}, "LinearLR"),
            ({"type": "LinearLR", "by_epoch": False, "convert_to_iter_based": True}, "by_epoch"),
            ({"type": "ReduceOnPlateauLR", "convert_to_iter_based": True}, "cannot be converted"),
            ({"type": "ReduceOnPlateauLR", "by_epoch": False}, "by_epoch"),
            ({"type": "MultiStepLR"}, "milestones"),
            ({"type": "StepParamScheduler", "step_size": 2}, "param_name"),
        ],
    )
    def test_bad_configs_say_where(self, cfg, what):
        with pytest.raises(InputError, match=what):
            build(cfg, wrapper_of())


class TestState:
    CONFIG = (
        {"type": "LinearLR", "start_factor": 0.1, "end": 4, "by_epoch": False},
        {"type": "CosineAnnealingLR", "T_max": 20, "eta_min": 0.001, "by_epoch": False},
        {"type": "MultiStepMomentum", "milestones": [1, 3], "gamma": 0.5, "by_epoch": True},
    )

    def run(self, wrapper, schedulers, start, stop):
        seen = []
        for i in range(start, stop):
            seen.append((wrapper.get_lr(), wrapper.get_momentum()))
            for scheduler in schedulers:
                if not scheduler.by_epoch or (i + 1) % 5 == 0:
                    scheduler.step()
        return seen

    @pytest.mark.parametrize("stop", [0, 1, 4, 9, 10])
    @pytest.mark.parametrize("paramwise", [None, PARAMWISE])
    def test_resumed_equals_uninterrupted(self, stop, paramwise):
        whole = wrapper_of(paramwise=paramwise, momentum=0.9)
        expected = self.run(whole, build(self.CONFIG, whole), 0, 20)
        first = wrapper_of(paramwise=paramwise, momentum=0.9)
        schedulers = build(self.CONFIG, first)
        self.run(first, schedulers, 0, stop)
        state, states = first.state_dict(), [s.state_dict() for s in schedulers]
        second = wrapper_of(paramwise=paramwise, momentum=0.9)
        again = build(self.CONFIG, second)
        second.load_state_dict(state)
        for scheduler, saved in zip(again, states, strict=True):
            scheduler.load_state_dict(saved)
        assert self.run(second, again, stop, 20) == expected[stop:]

    def test_the_state_is_the_count(self):
        (scheduler,) = build({"type": "ExponentialLR", "gamma": 0.5, "begin": 2}, wrapper_of())
        for _ in range(3):
            scheduler.step()
        state = scheduler.state_dict()
        assert (state["last_step"], state["_global_step"]) == (1, 3)

    def test_resume_keeps_what_the_config_says(self):
        (old,) = build({"type": "MultiStepLR", "milestones": [2], "gamma": 0.1, "end": 4}, wrapper_of())
        old.step()
        (new,) = build({"type": "MultiStepLR", "milestones": [3], "gamma": 0.5, "end": 8}, wrapper_of())
        new.resume(old.state_dict())
        assert (new.end, new.curve.milestones, new.curve.gamma) == (8, [3], 0.5)
        assert (new.last_step, new._global_step) == (1, 1)
        assert new.config_changes == [
            "MultiStepLR.end: 4 -> 8",
            "MultiStepLR.milestones: [2] -> [3]",
            "MultiStepLR.gamma: 0.1 -> 0.5",
        ]

    @pytest.mark.parametrize("begin", [0, 2])
    def test_last_step_continues_without_a_state(self, begin):
        cfg = {"type": "CosineAnnealingLR", "T_max": 6, "eta_min": 0.001, "begin": begin, "end": 9}
        whole, part = wrapper_of(), wrapper_of()
        (scheduler,) = build(cfg, whole, max_epochs=20)
        for _ in range(begin + 3):
            scheduler.step()
        part.param_groups[0].update(lr=whole.param_groups[0]["lr"], initial_lr=0.1)
        (again,) = build({**cfg, "last_step": 3}, part, max_epochs=20)  # takes the next tick as it is built
        for _ in range(8):
            scheduler.step()
            assert part.get_lr()["lr"] == pytest.approx(whole.get_lr()["lr"], rel=1e-12)
            again.step()

    def test_load_state_dict_restores_the_settings(self):
        old = StepLR(wrapper_of(), 3, 0.5, end=9)
        old.step()
        new = StepLR(wrapper_of(), 1, 0.1)
        new.load_state_dict(old.state_dict())
        assert (new.curve, new.end, new.last_step) == (old.curve, 9, 1)

    def test_load_state_dict_takes_mmengines_settings(self):
        new = MultiStepLR(wrapper_of(), [9])
        new.load_state_dict({"milestones": {2: 1, 4: 2}, "gamma": 0.5, "end": 8, "last_step": 7, "_global_step": 7})
        assert (list(new.milestones), new.gamma, new.end, new.last_step) == ([2, 4, 4], 0.5, 8, 7)

    def test_resume_from_mmengines_state(self):
        (scheduler,) = build({"type": "MultiStepLR", "milestones": [2]}, wrapper_of())
        scheduler.resume({"milestones": {2: 1}, "last_step": 7, "_global_step": 7, "base_values": [0.1]})
        assert (scheduler.last_step, scheduler._global_step) == (3, 7)  # its window ends at 4
        assert scheduler.config_changes == []


class TestOnesOwn:
    def test_a_new_curve(self):
        @dataclass(frozen=True, kw_only=True)
        class Halving(Curve):
            """Halves the value each tick."""

            def step(self, t, base):
                return 0.5, 0.0

        with PARAM_SCHEDULERS.temporary():
            assert [k.__name__ for k in register_curve("Halving", Halving)] == [
                "HalvingLR",
                "HalvingMomentum",
                "HalvingParamScheduler",
            ]
            wrapper = wrapper_of()
            build({"type": "HalvingLR"}, wrapper)[0].step()
            assert wrapper.get_lr() == {"lr": [0.025]}

    def test_a_scheduler_with_get_value(self):
        class Square(ParamScheduler):
            def __init__(self, optimizer, **kwargs):
                super().__init__(optimizer, "lr", **kwargs)

            def _get_value(self):
                return [base / (1 + self.last_step) ** 2 for base in self.base_values]

        wrapper = wrapper_of(paramwise=PARAMWISE)
        with PARAM_SCHEDULERS.temporary(Square=Square):
            build({"type": "Square"}, wrapper)[0].step()
        assert wrapper.get_lr() == {"base_lr": [0.025], "lr": [0.025, 0.05, 0.025, 0.025, 0.025, 0.05]}

    def test_a_curve_whose_values_are_changed(self):
        class Halved(LinearLR):
            def _get_value(self):
                return [value / 2 for value in super()._get_value()]

        wrapper = wrapper_of()
        scheduler = Halved(wrapper, start_factor=1.0, end=5)
        scheduler.step()
        assert wrapper.get_lr() == {"lr": [0.025]}

    def test_verbose_logs(self, caplog):
        with caplog.at_level("INFO", logger="raydet3d"):
            LinearLR(wrapper_of(), start_factor=0.5, end=4, verbose=True)
        assert "Adjusting lr of param group 0 to 5.0000e-02" in caplog.text

    def test_on_a_plain_optimizer(self):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        scheduler = MultiStepLR(optimizer, milestones=[1], gamma=0.5)
        scheduler.step()
        assert scheduler.get_last_value() == [0.5]
        assert not isinstance(optimizer, OptimWrapper)


class TestSchedule:
    @staticmethod
    def schedulers() -> tuple[list[str], Any]:
        calls: list[str] = []

        def scheduler(name: str, **attributes: bool) -> Any:
            return SimpleNamespace(step=lambda metrics=None: calls.append(f"{name}{metrics or ''}"), **attributes)

        waiting = scheduler("plateau", by_epoch=True, need_val_args=True)
        return calls, {"g": [scheduler("epochs", by_epoch=True)], "d": [scheduler("iters", by_epoch=False), waiting]}

    def test_advance_steps_what_counts_iterations_or_epochs(self):
        calls, schedulers = self.schedulers()
        Schedule(schedulers).advance(iters=2)
        assert calls == ["iters", "iters"]
        calls.clear()
        Schedule(schedulers).advance(epochs=1)
        assert calls == ["epochs", "plateau"]

    def test_iterations_come_before_epochs(self):
        calls, schedulers = self.schedulers()
        Schedule(schedulers["g"] + schedulers["d"]).advance(iters=1, epochs=1)
        assert calls == ["iters", "epochs", "plateau"]

    def test_metrics_go_to_schedulers_that_ask_for_them(self):
        calls, schedulers = self.schedulers()
        Schedule(schedulers).validated({"loss": 1.0})
        assert calls == ["plateau{'loss': 1.0}"]


class TestMMEngineScripts:
    """What scripts that were written for MMEngine do with schedulers."""

    @pytest.mark.parametrize(
        ("name", "positional", "named"),
        [
            (
                "LinearLR",
                (0.5, 0.9, 1, 5, -1, False),
                dict(start_factor=0.5, end_factor=0.9, begin=1, end=5, by_epoch=False),
            ),
            ("StepLR", (3, 0.5), dict(step_size=3, gamma=0.5)),
            ("MultiStepLR", ([2], 0.5, -1, 1, 9), dict(milestones=[2], gamma=0.5, begin=1, end=9)),
            ("CosineAnnealingLR", (7, None, 0, 9, -1, True, False, 0.1), dict(T_max=7, end=9, eta_min_ratio=0.1)),
            ("OneCycleLR", (0.5, 10), dict(eta_max=0.5, total_steps=10)),
            ("PolyLR", (0.01, 2.0, 0, 6), dict(eta_min=0.01, power=2.0, end=6)),
            ("ReduceOnPlateauLR", ("acc", "greater", 0.5), dict(monitor="acc", rule="greater", factor=0.5)),
        ],
    )
    def test_positional_arguments_are_mmengines(self, name, positional, named):
        optimizers = [wrapper_of().optimizer for _ in range(2)]
        cls = PARAM_SCHEDULERS.get(name)
        one, two = cls(optimizers[0], *positional), cls(optimizers[1], **named)
        assert one.state_dict() == two.state_dict()
        assert getattr(one, "curve", None) == getattr(two, "curve", None)

    def test_the_field_is_the_second_argument(self):
        optimizer = wrapper_of().optimizer
        scheduler = PARAM_SCHEDULERS.get("StepParamScheduler")(optimizer, "weight_decay", 1, 0.5)
        scheduler.step()
        assert optimizer.param_groups[0]["weight_decay"] == 0.005

    def test_wrong_arguments_are_type_errors(self):
        with pytest.raises(TypeError, match="StepLR: missing a required argument: 'step_size'"):
            StepLR(wrapper_of())
        with pytest.raises(TypeError, match="StepLR"):
            StepLR(wrapper_of(), 3, gama=0.1)
        with pytest.raises(TypeError, match="optimizer should be"):
            StepLR("optimizer", 3)

    def test_registry_builds_and_converts(self):
        wrapper = wrapper_of()
        cfg = {"type": "MultiStepLR", "milestones": [2], "convert_to_iter_based": True}
        scheduler = PARAM_SCHEDULERS.build(cfg, default_args={"optimizer": wrapper, "epoch_length": 10})
        assert (scheduler.by_epoch, scheduler.curve.milestones) == (False, [20])
        plain = PARAM_SCHEDULERS.build({"type": "StepLR", "step_size": 2}, {"optimizer": wrapper, "epoch_length": 10})
        assert (plain.by_epoch, plain.curve.step_size) == (True, 2)

    def test_conversion_needs_the_length_of_an_epoch(self):
        cfg = {"type": "StepLR", "step_size": 2, "convert_to_iter_based": True}
        with pytest.raises(AssertionError, match="epoch_length"):
            PARAM_SCHEDULERS.build(cfg, {"optimizer": wrapper_of()})

    def test_conversion_finds_misspelt_arguments(self):
        cfg = {"type": "StepLR", "step_sizes": 2, "convert_to_iter_based": True, "epoch_length": 2}
        with pytest.raises(TypeError, match="StepLR has no argument 'step_sizes'; did you mean 'step_size'"):
            PARAM_SCHEDULERS.build(cfg, {"optimizer": wrapper_of()})

    def test_build_iter_from_epoch_takes_positional_arguments(self):
        scheduler = StepLR.build_iter_from_epoch(wrapper_of(), 3, epoch_length=4)
        assert scheduler.curve.step_size == 12

    def test_a_subclass_with_arguments_of_its_own(self):
        class Slow(StepLR):
            def __init__(self, optimizer, slowness, **kwargs):
                super().__init__(optimizer, step_size=slowness * 2, **kwargs)

        with PARAM_SCHEDULERS.temporary(Slow=Slow):
            made = PARAM_SCHEDULERS.build({"type": "Slow", "slowness": 2, "gamma": 0.5}, {"optimizer": wrapper_of()})
        assert (made.curve.step_size, made.curve.gamma) == (4, 0.5)
