"""What MMEngine's optim wrappers and schedulers trip over, and ours do not; and what looks odd there and is kept.

The ids are those of the runtime's reference: D6 and D7 (distributed and mixed precision), F10 to F12 (resume), and the
traps of its sections 1.3 (optim wrappers) and 1.4 (param schedulers). F10 to F12 with whole runs:
``integration/test_config_changes.py``; D6: ``test_zero.py``.
"""

import math

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.optim import AmpOptimWrapper, build_optim_wrapper, build_param_scheduler
from tests.kit.optim import batches, same, small_model, train, weights


def wrapper_of(**cfg):
    return build_optim_wrapper(small_model(), {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}, **cfg})


def schedule(wrapper, *cfgs, length=5, epochs=4):
    return build_param_scheduler(list(cfgs), wrapper, epoch_length=length, max_epochs=epochs, max_iters=length * epochs)


class TestWrappers:
    def test_d7_mixed_precision_runs_on_a_cpu(self):
        """D7: MMEngine's AmpOptimWrapper asserts that there is an accelerator."""
        model = small_model()
        before = weights(model)
        wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        train(model, wrapper, batches(2))
        assert not same(weights(model), before)

    def test_d7_bfloat16_has_no_loss_scaler(self):
        """D7: there a scaler goes with bfloat16 too, and skips steps that nothing is wrong with."""
        wrapper = build_optim_wrapper(
            small_model(), {"type": "AmpOptimWrapper", "dtype": "bfloat16", "optimizer": {"type": "SGD", "lr": 0.1}}
        )
        assert wrapper.loss_scaler is None
        assert "loss_scaler" not in wrapper.state_dict()

    def test_1_3_an_integer_loss_scale_is_a_number(self):
        """1.3: there ``loss_scale=512`` is a TypeError and ``512.0`` is not."""
        cfg = {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": 512, "optimizer": {"type": "SGD", "lr": 1}}
        assert build_optim_wrapper(small_model(), cfg).loss_scaler.get_scale() == 512.0

    def test_1_3_the_config_is_left_as_it_was(self):
        """1.3: there ``clip_grad`` loses its ``type``, so the same config gives another wrapper the next time."""
        cfg = {"optimizer": {"type": "SGD", "lr": 1}, "clip_grad": {"type": "value", "clip_value": 1.0}}
        for _ in range(2):
            assert build_optim_wrapper(small_model(), cfg).clip_type == "value"
        assert cfg["clip_grad"] == {"type": "value", "clip_value": 1.0}

    @pytest.mark.parametrize("clip", [{}, {"type": "norm"}, {"type": "value"}])
    def test_1_3_clip_grad_without_its_argument_is_said(self, clip):
        """1.3: an AssertionError there."""
        with pytest.raises(InputError, match=r"clip_grad of type '(norm|value)' needs"):
            wrapper_of(clip_grad=clip)

    def test_1_3_a_stop_within_an_accumulation_loses_nothing(self):
        """1.3: there the gradients of the group that was begun are gone after a resume, with a warning."""
        cfg = {"optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": 3}
        data = batches(6)
        whole, first, second = small_model(), small_model(), small_model(1)
        train(whole, build_optim_wrapper(whole, cfg), data)
        one = build_optim_wrapper(first, cfg)
        train(first, one, data[:4])
        second.load_state_dict(first.state_dict())
        two = build_optim_wrapper(second, cfg)
        two.load_state_dict(one.checkpoint_state())
        two.initialize_count_status(second, 4, 6)
        train(second, two, data[4:])
        assert same(weights(second), weights(whole))

    def test_1_3_kept_the_base_group_is_not_scaled(self):
        """1.3: ``scale_lr`` leaves ``base_lr`` as it was; so does ours, since the numbers are to be the same."""
        wrapper = wrapper_of(paramwise_cfg={"bias_lr_mult": 2.0})
        wrapper.scale_lr(0.5)
        assert wrapper.get_lr()["base_lr"] == [0.1]
        assert wrapper.get_lr()["lr"][:2] == [0.05, 0.1]

    def test_1_3_kept_schedules_go_on_when_a_step_is_left_out(self):
        """1.3: a step that the scaler skips is a tick all the same."""
        wrapper = wrapper_of()
        (scheduler,) = schedule(wrapper, {"type": "ExponentialLR", "gamma": 0.5, "by_epoch": False})
        x, y = batches(1)[0]
        model = small_model()
        wrapper = build_optim_wrapper(model, wrapper)
        wrapper.update_params((model(x) - y * math.nan).square().mean())
        scheduler.step()
        assert wrapper.get_lr() == {"lr": [0.05]}

    def test_1_3_groups_with_equal_settings_are_one_in_memory(self):
        """1.3: there every parameter is its own group as soon as ``paramwise_cfg`` is set."""
        wrapper = wrapper_of(paramwise_cfg={"bias_lr_mult": 2.0})
        assert len(wrapper.optimizer.param_groups) == 2
        assert len(wrapper.state_dict()["param_groups"]) == len(wrapper.get_lr()["lr"]) == 6


class TestSchedulers:
    def test_1_4_milestones_count_from_begin(self):
        """1.4, kept: a milestone at 2 of a schedule that begins at 3 is at 5."""
        wrapper = wrapper_of()
        (scheduler,) = schedule(wrapper, {"type": "MultiStepLR", "milestones": [2], "begin": 3}, epochs=10)
        seen = []
        for _ in range(7):
            seen.append(wrapper.get_lr()["lr"][0])
            scheduler.step()
        assert seen == pytest.approx([0.1] * 5 + [0.01] * 2)

    @pytest.mark.parametrize("kind", ["LinearLR", "ConstantLR"])
    def test_1_4_a_window_of_one_tick_never_recovers(self, kind):
        """1.4, kept: with ``end - begin == 1`` there is no last tick on which the value comes back."""
        wrapper = wrapper_of()
        (scheduler,) = schedule(wrapper, {"type": kind, "end": 1})
        for _ in range(3):
            scheduler.step()
        assert wrapper.get_lr()["lr"] == [pytest.approx(0.1 / 3)]

    def test_1_4_a_start_factor_of_0_is_refused(self):
        """1.4: a ZeroDivisionError there, and not before the second iteration."""
        with pytest.raises(InputError, match="start_factor must be above 0"):
            schedule(wrapper_of(), {"type": "LinearLR", "start_factor": 0})

    def test_1_4_a_whole_pct_start_is_a_number(self):
        """1.4: there ``pct_start=1`` is refused, because it is an int."""
        schedule(wrapper_of(), {"type": "OneCycleLR", "eta_max": 1.0, "pct_start": 1, "total_steps": 9})

    def test_1_4_onecycle_has_a_momentum_form(self):
        """1.4: the one name that is missing there."""
        wrapper = wrapper_of()
        schedule(wrapper, {"type": "OneCycleMomentum", "eta_max": 0.95, "total_steps": 9, "div_factor": 2.0})
        assert wrapper.get_momentum() == {"momentum": [pytest.approx(0.475)]}

    def test_1_4_the_cyclic_schedule_takes_beta1_towards_1_and_stays_below(self):
        """1.4, kept: the published pair has absolute targets, and the tick that would reach 1 is not taken."""
        wrapper = build_optim_wrapper(
            small_model(), {"optimizer": {"type": "AdamW", "lr": 0.001, "betas": (0.9, 0.99)}}
        )
        common = {"type": "CosineAnnealingMomentum", "convert_to_iter_based": True}
        schedulers = schedule(
            wrapper,
            {**common, "T_max": 8, "eta_min": 0.85 / 0.95, "begin": 0, "end": 8},
            {**common, "T_max": 12, "eta_min": 1, "begin": 8, "end": 20},
            length=50,
            epochs=20,
        )
        seen = []
        for _ in range(20 * 50):
            seen.append(wrapper.param_groups[0]["betas"][0])
            for scheduler in schedulers:
                scheduler.step()
        assert seen[0] == 0.9
        assert min(seen) == pytest.approx(0.85 / 0.95, abs=1e-6)
        assert 0.9999 < seen[-1] < 1
        assert wrapper.param_groups[0]["betas"][0] < 1

    def test_1_4_what_the_config_says_is_not_overwritten_by_a_state(self):
        """1.4 (F10): there the whole object comes back, end and milestones with it."""
        (old,) = schedule(wrapper_of(), {"type": "MultiStepLR", "milestones": [2]})
        (new,) = schedule(wrapper_of(), {"type": "MultiStepLR", "milestones": [3], "end": 9})
        new.resume(old.state_dict())
        assert (new.curve.milestones, new.end) == ([3], 9)

    def test_1_4_the_optimizer_is_not_patched(self):
        """1.4: there ``optimizer.step`` is replaced on the object to count its calls."""
        wrapper = wrapper_of()
        schedule(wrapper, {"type": "LinearLR", "end": 3})
        assert "step" not in vars(wrapper)
        assert "_global_step" not in vars(wrapper.optimizer)

    def test_1_4_two_cycles_keep_a_peak_each(self):
        """1.4: there the second cycle's peak and start hold for the first one too."""
        wrapper = wrapper_of()
        cycle = {"type": "OneCycleLR", "by_epoch": False, "div_factor": 2.0}
        schedulers = schedule(
            wrapper,
            {**cycle, "eta_max": 1.0, "begin": 0, "end": 9},
            {**cycle, "eta_max": 0.2, "begin": 9, "end": 20},
        )
        seen = []
        for _ in range(20):
            seen.append(wrapper.get_lr()["lr"][0])
            for scheduler in schedulers:
                scheduler.step()
        assert max(seen[:9]) > 0.9
        assert 0.19 < max(seen[9:]) <= 0.2

    def test_1_4_one_optimizer_that_is_told_what_it_lacks(self):
        """1.4: there the error has no name of the scheduler and none of its place."""
        wrapper = build_optim_wrapper(nn.Linear(1, 1), {"optimizer": {"type": "Adadelta", "lr": 1.0}})
        with pytest.raises(InputError, match=r"param_scheduler\[1\].*Adadelta has neither momentum nor betas"):
            schedule(wrapper, {"type": "PolyLR"}, {"type": "PolyMomentum"})
