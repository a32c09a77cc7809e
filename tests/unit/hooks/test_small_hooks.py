"""Timer, info, schedule, sampler and augmentation hooks, in runs of toys."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydet3d.hooks import DistSamplerSeedHook, EMAHook, Hook, IterTimerHook, LoggerHook
from raydet3d.runtime import Runner, assemble
from raydet3d.runtime.history import History
from tests.kit.toy import ToyData, toy_cfg

NO_SAVES = {"type": "CheckpointHook", "save_last": False}


def make(folder: Path, **changes: Any) -> Runner:
    return assemble(toy_cfg(folder, default_hooks__checkpoint=NO_SAVES, log_level="ERROR", **changes))


def test_data_time_and_iteration_time_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("raydet3d.hooks.iter_timer.time.perf_counter", lambda: clock[0])
    hook, history = IterTimerHook(), History()
    runner: Any = SimpleNamespace(message_hub=history, iter=0, max_iters=3)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    for i in range(2):
        runner.iter = i
        clock[0] += 2
        hook.before_train_iter(runner, batch_idx=i)
        clock[0] += 3 + i
        hook.after_train_iter(runner, batch_idx=i)
        if i == 0:
            clock[0] += 20  # a validation: it belongs to no iteration
            hook.after_val(runner)
    assert history.get_scalar("train/data_time").data == [2, 2]
    assert history.get_scalar("train/time").data == [5, 6]
    assert history.get_info("eta") == 5.5  # one of three is left


class Watch(Hook):
    """Notes learning rates, stages and what the data set was told."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.stages: list[str] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.rates.append(runner.optim_wrapper.optimizer.param_groups[0]["lr"])
        self.stages.append(runner.message_hub.get_info("loop_stage"))

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.stages.append(runner.message_hub.get_info("loop_stage"))


def test_what_is_logged_is_what_the_step_used_and_schedules_tick_after_it(tmp_path: Path) -> None:
    watch = Watch()
    runner = make(
        tmp_path,
        custom_hooks=[watch],
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.5, "by_epoch": False, "begin": 0, "end": 3},
            {"type": "MultiStepLR", "milestones": [2], "by_epoch": True},
        ],
    )
    runner.train()
    # LinearLR from 0.5 in two ticks; MultiStepLR divides by ten after the second epoch of 12 iterations.
    expected = [0.005, 0.0075] + [0.01] * 22 + [0.001] * 12
    assert watch.rates == pytest.approx(expected)
    assert runner.message_hub.get_scalar("train/lr").data == pytest.approx(expected)
    assert watch.stages == (["train"] * 12 + ["val"] * 5) * 3


def test_plateau_schedulers_receive_the_metrics(tmp_path: Path) -> None:
    plateau = {"type": "ReduceOnPlateauLR", "monitor": "toy/count", "rule": "greater", "patience": 0, "end": 99}
    runner = make(tmp_path, param_scheduler=[plateau])
    runner.train()
    # toy/count stays at 9: the second and the third validation are no improvement.
    assert runner.optim_wrapper.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_the_epoch_of_the_sampler_is_set_once_per_epoch() -> None:
    told: list[tuple[str, int]] = []

    def sampler(name: str) -> Any:
        return SimpleNamespace(set_epoch=lambda epoch: told.append((name, epoch)))

    inner = SimpleNamespace(sampler=sampler("inner"))
    both = SimpleNamespace(sampler=sampler("outer"), batch_sampler=inner)
    only = SimpleNamespace(sampler=object(), batch_sampler=inner)
    for loader, epoch in ((both, 4), (only, 5)):
        runner: Any = SimpleNamespace(train_loop=SimpleNamespace(dataloader=loader), epoch=epoch)
        DistSamplerSeedHook().before_train_epoch(runner)
    assert told == [("outer", 4), ("inner", 5)]


@pytest.mark.parametrize("workers", [0, 2])
def test_object_sample_is_disabled_at_its_epoch_also_after_a_resume(tmp_path: Path, workers: int) -> None:
    sizes: list[float] = []

    class Size(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            sizes.append(max(float(x.abs().max()) for x in data_batch["inputs"]))

    changes: dict[str, Any] = {
        "train_dataloader__num_workers": workers,
        "train_dataloader__persistent_workers": workers > 0,
        "train_dataloader__dataset": {"type": ToyData, "noise": 1e-9, "size": 2},
        "train_cfg": {"by_epoch": True, "max_epochs": 4, "val_interval": 4},
        "custom_hooks": [Size(), {"type": "DisableObjectSampleHook", "disable_after_epoch": 2}],
    }
    make(tmp_path, **changes).train()
    # The toy halves its input once it is off: from the third epoch on.
    assert sizes == pytest.approx([sizes[0]] * 2 + [sizes[0] / 2] * 2)
    changes["default_hooks__checkpoint"] = {"type": "CheckpointHook", "interval": 1}
    assemble(toy_cfg(tmp_path / "all", log_level="ERROR", **changes)).train()
    whole = sizes[4:]
    resumed = str(tmp_path / "all" / "epoch_3.pth")
    assemble(toy_cfg(tmp_path / "rest", log_level="ERROR", **changes), resume=resumed).train()
    assert sizes[8:] == whole[3:]


def test_a_transform_that_the_pipeline_lacks_is_logged(tmp_path: Path) -> None:
    runner = make(tmp_path, custom_hooks=[{"type": "DisableObjectSampleHook"}])
    runner.logger.setLevel("WARNING")
    runner.train_dataloader.dataset.dataset.disable_transform = lambda *_: 0
    runner.train()
    assert "nothing to do" in next(tmp_path.glob("*/*.log")).read_text()


def test_the_loop_stage_ends_with_its_loop(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path, log_level="ERROR", train_cfg__max_epochs=1))
    runner.val()
    assert runner.message_hub.get_info("loop_stage") is None
    runner.train()
    assert runner.message_hub.get_info("loop_stage") is None


def test_arguments_of_wrong_types_raise_what_mmengine_raises() -> None:
    for wrong in ({"interval": "100"}, {"ignore_last": "no"}, {"out_suffix": [100]}, {"out_dir": 1}):
        with pytest.raises(TypeError):
            LoggerHook(**wrong)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        EMAHook(begin_iter=-1)
    with pytest.raises(AssertionError):
        EMAHook(begin_iter=1, begin_epoch=1)
