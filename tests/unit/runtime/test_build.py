"""From a config to a run: what is wrong is said by key before anything runs; defaults and forms as in MMEngine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from raydet3d.config import Config
from raydet3d.data.samplers import DefaultSampler
from raydet3d.errors import InputError
from raydet3d.hooks import CheckpointHook, Hook, LoggerHook
from raydet3d.optim import build_param_scheduler
from raydet3d.runtime import Evaluator, assemble
from raydet3d.runtime.build import (
    build_evaluator,
    build_hooks,
    build_model,
    build_optim,
    build_visualizer,
    wrap_model,
)
from raydet3d.runtime.history import MessageHub
from tests.kit.toy import ToyData, ToyMetric, ToyModel, toy_cfg


def quiet(folder: Path, **changes: Any) -> Any:
    return toy_cfg(folder, **{"log_level": "ERROR", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, "the config has no model=dict"),
        ({"model": {"type": "VoxelNett"}}, "model: unknown model type 'VoxelNett'; did you mean 'VoxelNet'"),
        ({"model": {"type": ToyModel, "dropuot": 1}}, "model: model ToyModel has no argument 'dropuot'; .*'dropout'"),
        ({"train_cfg": {"max_epoch": 3}}, "train_cfg: .* has no argument 'max_epoch'; did you mean 'max_epochs'"),
        ({"train_cfg": {"type": "EpochBasedTrainLoop", "by_epoch": True, "max_epochs": 1}}, "train_cfg: has both"),
        ({"train_cfg": {}}, "train_cfg: .*max_epochs"),
        ({"train_cfg": {"type": "EpochTrainLoop"}}, "train_cfg: unknown loop type 'EpochTrainLoop'"),
        ({"val_cfg": {"fp_16": True}}, "val_cfg: .* has no argument 'fp_16'; did you mean 'fp16'"),
        ({"val_cfg": None}, "the config has val_dataloader and val_evaluator but no val_cfg: all three or none"),
        ({"custom_hooks": [{"type": "NoHook"}]}, r"custom_hooks\[0\]: unknown hook type 'NoHook'"),
        ({"custom_hooks": {"type": "LoggerHook"}}, "custom_hooks must be a list"),
        ({"custom_hooks": [{"type": "LoggerHook", "priority": "FIRST"}]}, r"custom_hooks\[0\]: a hook.s priority"),
        ({"default_hooks__timer": {"type": "IterTimerHook", "x": 1}}, "default_hooks.timer: .* has no argument 'x'"),
        ({"default_hooks__emma": None}, "default_hooks.emma: there is no default hook of this name"),
        ({"log_processor": {"windowsize": 3}}, "log_processor: .*'windowsize'; did you mean 'window_size'"),
        ({"randomness": {"sed": 3}}, "randomness has no 'sed'"),
        ({"env_cfg": {"cudnn_bench": True}}, "env_cfg has no 'cudnn_bench'; did you mean 'cudnn_benchmark'"),
        ({"auto_scale_lr": {"basebatch": 4}}, "auto_scale_lr has no 'basebatch'; did you mean 'base_batch_size'"),
        ({"log_level": "INFOO"}, "log_level must be DEBUG, .* got 'INFOO'"),
        ({"randomness": {"seed": -3}}, "randomness.seed must be an integer of at least 0, got -3"),
        ({"visualizer": {"type": "Visualiser"}}, "visualizer: unknown visualizer type 'Visualiser'; .*'Visualizer'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path: Path, changes: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        assemble(quiet(tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"optim_wrapper__optimizer": {"type": "AdamWW", "lr": 1}},
            "optim_wrapper.optimizer: unknown optimizer type 'AdamWW'; did you mean 'AdamW'",
        ),
        (
            {"optim_wrapper__optimizer": {"type": "AdamW", "lr": -0.1}},
            "optim_wrapper.optimizer: AdamW: Invalid learning rate: -0.1",
        ),
        ({"optim_wrapper__optimizer": {"type": "AdamW", "lr": "abc"}}, "optim_wrapper.optimizer: AdamW: .*'str'"),
        ({"optim_wrapper": {"clip_grad": {"max_norm": 1}}}, "optim_wrapper: .*must contain an 'optimizer'"),
        ({"optim_wrapper__type": "OptimWraper"}, "optim_wrapper: unknown optim wrapper type 'OptimWraper'"),
        ({"param_scheduler": [{"type": "StepLr", "step_size": 1}]}, r"param_scheduler\[0\]: .*StepLr.*StepLR"),
        ({"train_dataloader__batchsize": 3}, "train_dataloader has no 'batchsize'; did you mean 'batch_size'"),
        ({"train_dataloader__sampler": {"type": "Defaultsampler"}}, "train_dataloader.sampler: unknown sampler type"),
        ({"train_dataloader__dataset": {"type": "KitiDataset"}}, "train_dataloader.dataset: unknown dataset type"),
        ({"val_evaluator": {"type": "KitiMetric"}}, "val_evaluator: unknown metric type 'KitiMetric'; .*'KittiMetric'"),
        (
            {"env_cfg": {"mp_cfg": {"mp_start_method": "frok"}}},
            "mp_start_method must be one of fork, spawn",
        ),
        (
            {"auto_scale_lr": {"enable": True}},
            "auto_scale_lr.base_batch_size must be an integer of at least 1",
        ),
    ],
)
def test_what_is_wrong_in_training_is_said_by_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        assemble(quiet(tmp_path / "run", **{"log_level": "INFO", **changes})).train()
    assert capsys.readouterr().out == ""  # before the first line
    assert not (tmp_path / "run").exists()  # and no empty log folder stays


def test_a_work_dir_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"work_dir .*file cannot be written to"):
        assemble(quiet(tmp_path / "file"))


def test_default_hooks_and_what_replaces_them() -> None:
    hooks = build_hooks({})
    names = [type(hook).__name__ for hook in hooks]
    assert names == [
        "RuntimeInfoHook",
        "IterTimerHook",
        "DistSamplerSeedHook",
        "LoggerHook",
        "GuardHook",
        "ParamSchedulerHook",
        "CheckpointHook",
    ]
    own = Hook()
    cfg = {
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 7}, "timer": None, "extra": own},
        "custom_hooks": [{"type": "DisableObjectSampleHook", "priority": "LOWEST"}],
    }
    hooks = build_hooks(cfg, extra_hooks=[Hook()])
    kinds = [type(hook) for hook in hooks]
    assert "IterTimerHook" not in [kind.__name__ for kind in kinds]
    assert next(hook for hook in hooks if isinstance(hook, LoggerHook)).interval == 7
    assert next(hook for hook in hooks if isinstance(hook, CheckpointHook)).interval == 1
    assert own in list(hooks)
    assert kinds[-1].__name__ == "DisableObjectSampleHook"
    assert cfg["custom_hooks"][0]["priority"] == "LOWEST"  # the config is not eaten up


def test_evaluators() -> None:
    metric = {"type": ToyMetric}
    for cfg in (metric, [metric], {"type": "Evaluator", "metrics": [metric]}, Evaluator(ToyMetric())):
        evaluator = build_evaluator(cfg)
        assert [type(one) for one in evaluator.metrics] == [ToyMetric]


def test_the_preprocessor_of_the_top_level_goes_into_the_model() -> None:
    class Needs(nn.Module):
        def __init__(self, data_preprocessor: Any) -> None:
            super().__init__()
            self.given = data_preprocessor

    cfg = {"model": {"type": Needs}, "data_preprocessor": {"type": "X"}}
    assert build_model(cfg).given == {"type": "X"}
    cfg["model"]["data_preprocessor"] = {"type": "Y"}
    assert build_model(cfg).given == {"type": "Y"}
    with pytest.raises(InputError, match=r"model: .* does not make an nn.Module"):
        build_model({"model": {"type": dict}})


def test_parts_alone(tmp_path: Path) -> None:
    cfg = quiet(tmp_path)
    model = wrap_model(build_model(cfg), cfg, torch.device("cpu"))
    wrapper = build_optim(cfg, model)
    schedulers = build_param_scheduler(cfg["param_scheduler"], wrapper, epoch_length=12, max_epochs=3, max_iters=36)
    assert [type(s).__name__ for s in schedulers] == ["LinearLR", "CosineAnnealingLR"]
    assert type(build_visualizer(None, save_dir=tmp_path)).__name__ == "Visualizer"


def test_learning_rates_are_scaled_by_batch_size(tmp_path: Path) -> None:
    changes = {"auto_scale_lr": {"enable": True, "base_batch_size": 8}, "param_scheduler": []}
    runner = assemble(quiet(tmp_path, **changes))
    assert runner.optim_wrapper.get_lr()["lr"] == [0.0025]


def test_start_method_is_for_loaders_alone(tmp_path: Path) -> None:
    # S4
    import multiprocessing

    before = multiprocessing.get_start_method(allow_none=True)
    changes = {"env_cfg": {"mp_cfg": {"mp_start_method": "spawn"}}, "train_dataloader__num_workers": 1}
    loader = assemble(quiet(tmp_path, **changes)).train_dataloader
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert multiprocessing.get_start_method(allow_none=True) == before


def test_two_runs_in_one_process_share_nothing(tmp_path: Path) -> None:
    # S2, S3
    first = assemble(toy_cfg(tmp_path / "a"))
    second = assemble(toy_cfg(tmp_path / "b", optim_wrapper__optimizer={"type": "AdamW", "lr": 0.02}))
    assert first.logger is not second.logger
    assert first.visualizer is not second.visualizer
    first.train()
    assert not second.message_hub.log_scalars
    second.train()
    texts = [next((tmp_path / name).glob("*/*.log")).read_text() for name in "ab"]
    assert texts[0].count("Epoch(train)") == texts[1].count("Epoch(train)") == 6
    first.close()
    second.close()
    assert not first.logger.handlers
    # The same second, the same work dir: each start has a folder of its own.
    names = {assemble(quiet(tmp_path / "c")).timestamp for _ in range(3)}
    assert len(names) == 3


def test_the_config_is_kept_and_live_objects_are_no_obstacle(tmp_path: Path, caplog: Any) -> None:
    assemble(quiet(tmp_path / "a")).val()
    assert "max_epochs" in (tmp_path / "a" / "config.py").read_text()
    assemble(quiet(tmp_path / "b", custom_hooks=[Hook()])).val()
    assert not (tmp_path / "b" / "config.py").exists()
    values = {**quiet(tmp_path / "c"), "label_map": {0: 1}}  # a base or an option gave what JSON cannot hold
    assemble(Config(values, filename=tmp_path / "small.json")).val()
    assert Config.fromfile(tmp_path / "c" / "small.py").label_map == {0: 1}
    assert logging.getLogger("raydet3d").level == logging.NOTSET


def test_parts_of_a_wrong_type_are_type_errors(tmp_path: Path) -> None:
    runner = assemble(quiet(tmp_path))
    for build in (
        runner.build_model,
        runner.build_visualizer,
        runner.build_log_processor,
        runner.build_message_hub,
        runner.build_train_loop,
        runner.build_val_loop,
        runner.build_optim_wrapper,
        runner.build_param_scheduler,
    ):
        with pytest.raises(TypeError):
            build("wrong")
    with pytest.raises(TypeError):
        runner.build_dataloader({**runner.cfg["train_dataloader"], "collate_fn": 3})
    with pytest.raises(AssertionError):
        runner.scale_lr(runner.optim_wrapper, {"enable": True})


def test_a_run_without_a_section_for_what_it_is_asked_is_a_runtime_error(tmp_path: Path) -> None:
    runner = assemble(quiet(tmp_path, **dict.fromkeys(["test_dataloader", "test_cfg", "test_evaluator"])))
    with pytest.raises(RuntimeError, match="test_dataloader"):
        runner.test()


def test_the_message_hub_is_found_by_its_class_and_name(tmp_path: Path) -> None:
    runner = assemble(quiet(tmp_path))
    assert isinstance(runner.message_hub, MessageHub)
    assert runner.message_hub.instance_name == runner.experiment_name
    assert runner.build_message_hub({"name": "other"}).instance_name == "other"


def test_the_length_of_training_is_known_before_the_loop_is_built(tmp_path: Path) -> None:
    runner = assemble(quiet(tmp_path, train_cfg={"by_epoch": True, "max_epochs": 7}))
    assert runner.max_epochs == 7
    assert not runner.is_training


def test_a_start_that_fails_leaves_the_users_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        assemble(quiet(tmp_path, **dict.fromkeys(["val_dataloader", "val_cfg", "val_evaluator"]))).val()
    assert tmp_path.is_dir()
    assert not list(tmp_path.iterdir())


def test_loaders_show_the_data_set_and_the_sampler_of_the_config(tmp_path: Path) -> None:
    runner = assemble(quiet(tmp_path, train_dataloader__collate_fn={"type": "default_collate"}))
    loader = runner.build_dataloader(runner.cfg["train_dataloader"], seed=5)
    assert isinstance(loader.dataset, ToyData)
    assert isinstance(loader.sampler, DefaultSampler)
    assert loader.collate_fn is default_collate


def test_a_model_without_the_steps_of_the_run_is_refused_before_training(tmp_path: Path) -> None:
    class OnlyTrains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 1)

        def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
            return {"loss": torch.zeros(())}

    with pytest.raises(AssertionError, match="val_step"):
        assemble(quiet(tmp_path, model={"type": OnlyTrains})).train()
    assert not list(tmp_path.iterdir())


def test_another_model_of_a_script_gets_no_data_preprocessor(tmp_path: Path) -> None:
    runner = assemble(quiet(tmp_path, data_preprocessor={"type": "BaseDataPreprocessor"}, model=ToyModel()))
    assert isinstance(runner.build_model({"type": ToyModel}), ToyModel)
