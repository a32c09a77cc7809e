"""A run from MMEngine's arguments: configs and built objects, subclasses, `runner_type`, and the builders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from raydet3d.errors import InputError
from raydet3d.hooks import CheckpointHook, Hook
from raydet3d.optim import OptimWrapper
from raydet3d.registry import RUNNERS
from raydet3d.runtime import EpochBasedTrainLoop, Evaluator, LogProcessor, Runner, assemble
from raydet3d.visual import Visualizer
from tests.kit.toy import ToyMetric, ToyModel, toy_cfg

KEYS = (
    *("model", "work_dir", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "val_dataloader"),
    *("val_cfg", "val_evaluator", "test_dataloader", "test_cfg", "test_evaluator", "default_hooks", "visualizer"),
    "randomness",
)


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    cfg = toy_cfg(folder)
    return {**{key: cfg[key] for key in KEYS}, "log_level": "ERROR", **changes}


def weights(runner: Runner) -> list[torch.Tensor]:
    return [value.clone() for value in runner.model.state_dict().values()]


def test_arguments_train_as_the_config_does(tmp_path: Path) -> None:
    by_config = assemble(toy_cfg(tmp_path / "a", log_level="ERROR"))
    by_config.train()
    by_arguments = Runner(**arguments(tmp_path / "b"))
    by_arguments.train()
    assert all(map(torch.equal, weights(by_config), weights(by_arguments)))
    assert by_arguments.cfg.train_cfg.max_epochs == 3
    assert "max_epochs" in (tmp_path / "b" / "config.py").read_text()


def test_arguments_win_over_the_config(tmp_path: Path) -> None:
    cfg = toy_cfg(tmp_path / "a", log_level="ERROR")
    runner = Runner(model=cfg.model, work_dir=str(tmp_path / "b"), experiment_name="mine", cfg=cfg)
    assert (runner.work_dir, runner.experiment_name) == (tmp_path / "b", f"mine_{runner.timestamp}")
    assert cfg.work_dir == str(tmp_path / "a")


def test_built_objects_are_used_as_they_are(tmp_path: Path) -> None:
    model = ToyModel()
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    loader = Runner.build_dataloader(toy_cfg(tmp_path).train_dataloader, seed=3)
    hook, metric = CheckpointHook(interval=3), ToyMetric()
    given = {
        "model": model,
        "optim_wrapper": optim,
        "train_dataloader": loader,
        "val_evaluator": Evaluator(metric),
        "visualizer": Visualizer(),
        "log_processor": LogProcessor(window_size=3),
        "default_hooks": {"checkpoint": hook},
        "param_scheduler": None,
    }
    runner = Runner(**arguments(tmp_path, **given))
    assert isinstance(loader, DataLoader)
    assert (runner.model, runner.optim_wrapper, runner.train_dataloader) == (model, optim, loader)
    assert runner.visualizer is given["visualizer"]
    assert runner.log_processor is given["log_processor"]
    assert hook in runner.hooks
    before = [p.clone() for p in model.parameters()]
    assert runner.train()["iter"] == 36
    assert not any(map(torch.equal, before, model.parameters()))
    assert (tmp_path / "epoch_3.pth").exists()
    assert not (tmp_path / "epoch_2.pth").exists()


def test_sections_of_a_mode_belong_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no val_cfg"):
        Runner(**arguments(tmp_path, val_cfg=None))
    only_test = arguments(tmp_path)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "val_dataloader", "val_cfg", "val_evaluator"):
        only_test[key] = None
    assert Runner(**only_test).test()["toy/count"] == 9


class Seen(Hook):
    """A hook that a subclass of Runner adds."""


@RUNNERS.register_module()
class OwnRunner(Runner):
    """Overrides builders as scripts written for MMEngine do."""

    def build_model(self, model: Any) -> nn.Module:
        built = super().build_model(model)
        built.made_by = "OwnRunner"  # type: ignore[assignment]
        return built

    def build_train_loop(self, loop: Any) -> Any:
        return super().build_train_loop({**loop, "max_epochs": 1})

    def register_custom_hooks(self, hooks: Any) -> None:
        super().register_custom_hooks(hooks)
        self.register_hook(Seen())


def test_runner_type_and_overridden_builders_are_honoured(tmp_path: Path) -> None:
    for number, make in enumerate((assemble, RUNNERS.build, OwnRunner.from_cfg)):
        cfg = toy_cfg(tmp_path / str(number), log_level="ERROR", runner_type="OwnRunner")
        runner: Any = make(cfg)
        assert type(runner) is OwnRunner
        assert runner.model.made_by == "OwnRunner"
        assert any(type(hook) is Seen for hook in runner.hooks)
        assert runner.train()["epoch"] == 1
    with pytest.raises(InputError, match="NoRunner"):
        assemble(toy_cfg(tmp_path, runner_type="NoRunner"))


def test_a_subclass_with_arguments_of_its_own_gets_what_the_launcher_decides(tmp_path: Path) -> None:
    class Plain(Runner):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    RUNNERS.register_module(name="PlainRunner", module=Plain, force=True)
    cfg = toy_cfg(tmp_path, log_level="ERROR", runner_type="PlainRunner")
    runner = assemble(cfg, timestamp="mine", extra_hooks=[Seen()])
    assert (type(runner), runner.timestamp) == (Plain, "mine")
    assert any(type(hook) is Seen for hook in runner.hooks)
    assert Runner.from_cfg(toy_cfg(tmp_path, log_level="ERROR")).timestamp != "mine"


def test_builders_make_parts_from_configs(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path, log_level="ERROR"))
    assert isinstance(runner.build_train_loop({"by_epoch": True, "max_epochs": 2}), EpochBasedTrainLoop)
    assert isinstance(runner.build_evaluator({"type": ToyMetric}), Evaluator)
    assert isinstance(runner.build_log_processor({"type": "LogProcessor"}), LogProcessor)
    assert runner.build_message_hub() is not runner.message_hub
    assert [type(one).__name__ for one in runner.build_param_scheduler({"type": "StepLR", "step_size": 1})] == [
        "StepLR"
    ]
    assert "after_train_iter" in runner.get_hooks_info()


def test_a_file_of_bare_weights_is_returned_as_it_is(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path, log_level="ERROR"))
    saved = {name: value + 1 for name, value in runner.model.state_dict().items()}
    torch.save(saved, tmp_path / "bare.pth")
    torch.save({"state_dict": saved}, tmp_path / "whole.pth")
    assert set(runner.load_checkpoint(str(tmp_path / "bare.pth"))) == set(saved)
    assert all(torch.equal(value, saved[name]) for name, value in runner.model.state_dict().items())
    assert set(runner.load_checkpoint(str(tmp_path / "whole.pth"))) == {"state_dict"}


def test_a_validation_step_may_return_a_tensor(tmp_path: Path) -> None:
    class TensorMetric(ToyMetric):
        def process(self, data_batch: Any, data_samples: Any) -> None:
            self.results.extend(torch.ones(1) for _ in data_samples)

        def compute_metrics(self, results: list[Any]) -> dict[str, float]:
            return {"count": float(len(results))}

    class TensorModel(ToyModel):
        def val_step(self, data: Any) -> Any:
            return torch.zeros(len(data["inputs"]))

    metric = {"type": TensorMetric}
    cfg = toy_cfg(tmp_path, log_level="ERROR", val_evaluator=metric)
    cfg["model"]["type"] = TensorModel
    assert any(name.endswith("count") and value > 0 for name, value in assemble(cfg).val().items())
