"""Cache, buffers, profiler, benchmark, augmentation and test-time augmentation, in runs of toys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raydet3d.data import Compose, RepeatDataset
from raydet3d.data.seeded import SeededDataset
from raydet3d.errors import InputError
from raydet3d.hooks import BenchmarkHook, DisableAugHook, DisableObjectSampleHook, Hook, ProfilerHook
from raydet3d.models import BaseTTAModel
from raydet3d.registry import HOOKS
from raydet3d.runtime import Runner, assemble, build_runner_with_tta
from tests.kit.spawn import run_ranks
from tests.kit.toy import ToyData, ToyModel, toy_cfg

NO_SAVES = {"type": "CheckpointHook", "save_last": False}


def make(folder: Path, *hooks: Any, **changes: Any) -> Runner:
    return assemble(toy_cfg(folder, default_hooks__checkpoint=NO_SAVES, custom_hooks=list(hooks), **changes))


def log_of(runner: Runner) -> str:
    return next(runner.log_dir.glob("*.log")).read_text()


@pytest.mark.parametrize(
    ("args", "count"),
    [({}, 3 + 3), ({"before_epoch": True}, 12), ({"after_epoch": False, "after_iter": True}, 3 * (12 + 5))],
)
def test_the_cache_is_emptied_in_training_and_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: dict[str, Any], count: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    make(tmp_path, {"type": "EmptyCacheHook", **args}, log_level="ERROR").train()
    assert len(calls) == count


def buffers(folder: str, by_epoch: bool) -> dict[str, Any]:
    loop = {"by_epoch": True, "max_epochs": 1} if by_epoch else {"by_epoch": False, "max_iters": 4, "val_interval": 4}
    note = Note()
    norm = {"type": ToyModel, "norm": True}
    runner = make(Path(folder), note, {"type": "SyncBuffersHook"}, model=norm, train_cfg=loop, log_level="ERROR")
    runner.train()
    after = runner.model.module.norm
    return {"before": note.mean, "after": after.running_mean.tolist(), "count": after.num_batches_tracked.item()}


class Note(Hook):
    """Notes this rank's statistics after each step."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.mean = runner.model.module.norm.running_mean.tolist()


@pytest.mark.parametrize("by_epoch", [True, False])
def test_buffers_become_the_mean_of_all_ranks(tmp_path: Path, by_epoch: bool) -> None:
    first, second = run_ranks(buffers, 2, str(tmp_path), by_epoch)
    assert first["before"] != second["before"]
    mean = [(a + b) / 2 for a, b in zip(first["before"], second["before"], strict=True)]
    assert first["after"] == second["after"] == pytest.approx(mean, rel=1e-6)
    assert first["count"] == second["count"] > 0


def test_a_profile_of_some_iterations(tmp_path: Path) -> None:
    trace = tmp_path / "traces" / "trace.json"
    hook = {"type": "ProfilerHook", "by_epoch": False, "profile_times": 3, "json_trace_path": str(trace)}
    runner = make(
        tmp_path, {**hook, "on_trace_ready": {"type": "log_trace", "sort_by": "cpu_time_total", "row_limit": 5}}
    )
    runner.train()
    assert "profiling the next 3 iterations" in log_of(runner)
    assert "profiled 3 iterations" in log_of(runner)
    assert "Self CPU" in log_of(runner)
    events = json.loads(trace.read_text())["traceEvents"]
    assert any("linear" in str(event.get("name")) for event in events)


def test_a_profile_of_an_epoch_for_tensorboard_also_after_a_resume(tmp_path: Path) -> None:
    assemble(toy_cfg(tmp_path, log_level="ERROR")).train()
    cfg = toy_cfg(tmp_path, custom_hooks=[{"type": "ProfilerHook", "on_trace_ready": {"type": "tb_trace"}}])
    runner = assemble(cfg, resume=str(tmp_path / "epoch_2.pth"))
    runner.train()
    assert "profiled 12 iterations" in log_of(runner)
    assert len(list((runner.log_dir / "tf_tracing_logs").glob("*.pt.trace.json"))) == 1


def test_a_profile_by_a_schedule_and_a_function_of_ones_own(tmp_path: Path) -> None:
    seen: list[int] = []
    schedule = {"wait": 1, "warmup": 1, "active": 2, "repeat": 2}
    hook = {"type": "ProfilerHook", "by_epoch": False, "profile_times": 9, "schedule": schedule}
    make(tmp_path, {**hook, "on_trace_ready": lambda done: seen.append(done.step_num)}, log_level="ERROR").train()
    assert seen == [4, 8]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"profile_times": 0}, "profile_times must be an integer of at least 1"),
        ({"profile_times": 2}, "by_epoch=True profiles one epoch, got profile_times=2"),
        ({"activity_with_cpu": False}, "nothing to record"),
        ({"on_trace_ready": {"type": "print"}}, "must be log_trace or tb_trace, got 'print'"),
        ({"on_trace_ready": {"type": "tb_trace"}, "json_trace_path": "x"}, "a trace is written once"),
        ({"on_trace_ready": 3}, "must be a dict or a function, got 3"),
        ({"schedule": {"wit": 1}}, "ProfilerHook: schedule: .*wit"),
    ],
)
def test_what_cannot_be_profiled(args: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ProfilerHook(**args)


def test_more_iterations_than_there_are_cannot_be_profiled(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="profile_times=99, but only 36 iterations are left"):
        make(tmp_path, {"type": "ProfilerHook", "by_epoch": False, "profile_times": 99}).train()


@pytest.mark.parametrize(("length", "left_out"), [(1, 0), (12, 6), (99, 49), (100, 50), (400, 50)])
def test_speed_of_short_and_long_epochs(monkeypatch: pytest.MonkeyPatch, length: int, left_out: int) -> None:
    clock = [0.0]
    monkeypatch.setattr("raydet3d.hooks.benchmark_hook.time.perf_counter", lambda: clock[0])
    logged: list[Any] = []
    runner: Any = SimpleNamespace(
        train_dataloader=range(length),
        train_loop=SimpleNamespace(by_epoch=True),
        progress=SimpleNamespace(batch=0),
        iter=0,
        epoch=0,
        max_iters=length,
        message_hub=SimpleNamespace(update_scalar=lambda *_: None),
        logger=SimpleNamespace(info=lambda *args: logged.append(args)),
    )
    hook = BenchmarkHook()
    hook.before_train_epoch(runner)
    for i in range(length):
        clock[0] += 100.0 if i < left_out else 2.0
        hook.after_train_iter(runner, i)
        clock[0] += 1000
        hook.after_val(runner)
    hook.after_train_epoch(runner)
    hook.after_train(runner)
    assert logged[0][1:] == (1, 2.0, length - left_out)
    assert logged[1][1] == 2.0


def test_speed_in_a_run_of_iterations_and_of_epochs(tmp_path: Path) -> None:
    runner = make(tmp_path / "a", {"type": "BenchmarkHook"})
    runner.train()
    assert log_of(runner).count("training speed of epoch") == 3
    runner = make(tmp_path / "b", {"type": "BenchmarkHook"}, train_cfg={"by_epoch": False, "max_iters": 20})
    runner.train()
    assert "s/iter over 10 iterations" in log_of(runner)


class Remembers(Hook):
    """Keeps what it has seen, in numpy, as users do."""

    def __init__(self) -> None:
        self.losses: Any = np.zeros(0)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses = np.append(self.losses, float(outputs["loss"]))

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "best": self.losses.min()}

    def load_state_dict(self, state: Any) -> None:
        self.losses = np.asarray(state["losses"])


def test_f13_states_of_hooks_survive_a_resume(tmp_path: Path) -> None:
    whole, rest = Remembers(), Remembers()
    assemble(toy_cfg(tmp_path, custom_hooks=[whole], log_level="ERROR")).train()
    path = str(tmp_path / "epoch_2.pth")
    assemble(toy_cfg(tmp_path / "rest", custom_hooks=[rest], log_level="ERROR"), resume=path).train()
    assert len(whole.losses) == 36
    assert (whole.losses == rest.losses).all()


# -- augmentation -----------------------------------------------------------------------------------------------


class ObjectSample:
    """A step that can be told by its name, as can ``Flip``."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, number: int) -> int:
        return number + self.amount


class Flip(ObjectSample):
    pass


class Pasted:
    """A data set with a pipeline of its own."""

    def __init__(self) -> None:
        self.pipeline = Compose([])
        self.pipeline.transforms = [ObjectSample(100), Flip(10)]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self.pipeline(index)

    def full_init(self) -> None:
        pass

    metainfo: dict[str, Any] = {}  # noqa: RUF012


class Wrapper:
    """A user's wrapper, which knows nothing of switching off."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


DEPTHS = {
    "none": lambda: Pasted(),
    "one": lambda: RepeatDataset(Pasted(), 2),
    "two, a user's below": lambda: RepeatDataset(Wrapper(Pasted()), 2),
    "three, a user's above": lambda: Wrapper(RepeatDataset(Wrapper(Pasted()), 2)),
    "torch's": lambda: torch.utils.data.ConcatDataset([torch.utils.data.Subset(Pasted(), [0, 1]), Pasted()]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_f14_transforms_are_disabled_in_nested_data_sets(depth: str) -> None:
    dataset = SeededDataset(DEPTHS[depth](), seed=0)
    runner: Any = SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=dataset), logger=SimpleNamespace(warning=pytest.fail)
    )
    DisableObjectSampleHook(disable_after_epoch=2).before_train(runner)
    assert [dataset[epoch, 1] for epoch in range(4)] == [111, 111, 11, 11]
    DisableAugHook(3, ["Flip"]).before_train(runner)
    assert [dataset[epoch, 1] for epoch in range(4)] == [111, 111, 11, 1]
    said: list[Any] = []
    runner.logger.warning = lambda *args: said.append(args[1:])
    DisableAugHook(3, ["Flop"]).before_train(runner)
    assert said == [("DisableAugHook", "Flop")]


def test_unsupported_hooks_name_their_replacement() -> None:
    with pytest.raises(InputError, match=r"NPUProfilerHook .*; use ProfilerHook"):
        HOOKS.build({"type": "NPUProfilerHook", "begin": 0, "result_path": "x"})
    with pytest.raises(InputError, match=r"NaiveVisualizationHook .*; use Det3DVisualizationHook"):
        HOOKS.build({"type": "mmengine.NaiveVisualizationHook"})


# -- test-time augmentation -------------------------------------------------------------------------------------


class Views(ToyData):
    """Two views of each sample: as it is, and mirrored; the pipeline says which."""

    def __init__(self, pipeline: Sequence[float] = (1.0,), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipeline = list(pipeline)

    def __getitem__(self, index: int) -> Any:
        sample = super().__getitem__(index)
        if len(self.pipeline) == 1:
            return sample
        other = super().__getitem__(index)
        factors = zip(self.pipeline, (sample, other), strict=True)
        views = [{"inputs": view["inputs"] * factor, "data_samples": view["data_samples"]} for factor, view in factors]
        return {key: [view[key] for view in views] for key in ("inputs", "data_samples")}


class Mean(BaseTTAModel):
    """The mean of the predictions."""

    def merge_preds(self, data_samples_list: Sequence[Sequence[Any]]) -> list[Any]:
        for first, *others in data_samples_list:
            for other in others:
                first.prediction = first.prediction + other.prediction
            first.prediction = first.prediction / (1 + len(others))
        return [views[0] for views in data_samples_list]


def test_a_test_on_several_views(tmp_path: Path) -> None:
    data = {"type": Views, "size": 9, "noise": 0.0}
    cfg = toy_cfg(tmp_path, test_dataloader__dataset=data, log_level="ERROR", default_hooks__checkpoint=NO_SAVES)
    cfg["test_dataloader"]["dataset"] = {"type": RepeatDataset, "dataset": data, "times": 1}
    with pytest.raises(InputError, match="test-time augmentation needs tta_model in the config"):
        build_runner_with_tta(cfg)
    cfg["tta_model"], cfg["tta_pipeline"] = {"type": Mean}, [1.0, -1.0]
    runner = build_runner_with_tta(cfg)
    metrics = runner.test()
    assert "pipeline" not in data
    assert isinstance(runner.model, ToyModel)  # unwrapped again
    samples = [ToyData(9, 0.0)[i] for i in range(9)]
    x = torch.stack([sample["inputs"] for sample in samples])
    y = torch.stack([sample["data_samples"].target for sample in samples])
    with torch.no_grad():
        merged = (runner.model.eval()(x, []) + runner.model(-x, [])) / 2
    assert metrics["toy/mAE_loss"] == pytest.approx(float((merged - y).abs().mean()), rel=1e-5)
