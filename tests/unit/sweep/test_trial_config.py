"""The trials' configs: values that are computed follow a variable, whole alternatives replace, equal runs are told."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from raydet3d.config import Config, find_config
from raydet3d.errors import InputError
from raydet3d.sweep.spec import read_sweep
from raydet3d.sweep.trial_config import TrialConfigBuilder, digest, run_length
from raydet3d.sweep.validation import (
    check_configs,
    check_folder,
    check_lengths,
    check_resources,
    match_metric,
    this_machine,
)
from tests.kit.sweeps import write_config

DEMO = "configs/demo/pointpillars_town.py"
ONE_CYCLE = [{"type": "OneCycleLR", "eta_max": "${lr * 10}", "total_steps": "${epoch_num}"}]
FLAT = [{"type": "ConstantLR", "factor": 0.5}]


def builder(space: dict[str, Any], config: str | Path = DEMO, **changes: Any) -> TrialConfigBuilder:
    sweep = read_sweep({"metric": "AP", "mode": "max", "trials": 2, "space": space, **changes})
    return TrialConfigBuilder(config=find_config(config), sweep=sweep, options=sweep.cfg_options)


def test_values_computed_from_a_swept_variable_follow_it() -> None:
    cfg = builder({"lr": [0.1, 0.004]}).build({"lr": 0.004})
    assert cfg.optim_wrapper.optimizer.lr == 0.004
    assert cfg.param_scheduler[0].eta_min == pytest.approx(0.04)
    assert cfg.param_scheduler[1].eta_min == pytest.approx(0.004 * 1e-4)


def test_alternatives_replace_as_a_whole_and_see_the_variables() -> None:
    space = {
        "lr": {"loguniform": [1e-4, 1e-2]},
        "param_scheduler": {"alternatives": {"cycle": ONE_CYCLE, "flat": FLAT}},
        "param_scheduler.0.factor": {"uniform": [0.1, 1.0], "when": {"param_scheduler": "flat"}},
        "optim_wrapper": {
            "alternatives": {"sgd": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": "${lr}"}}}
        },
        "optim_wrapper.optimizer.lr": {"uniform": [0.1, 1.0]},
    }
    made = builder(space, cfg_options={"epoch_num": 7})
    cfg = made.build({"lr": 0.002, "param_scheduler": "cycle", "optim_wrapper": "sgd"})
    assert cfg.to_dict()["param_scheduler"] == [{"type": "OneCycleLR", "eta_max": 0.02, "total_steps": 7}]
    assert cfg.to_dict()["optim_wrapper"] == {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.002}}
    setting = {
        "optim_wrapper.optimizer.lr": 0.5,
        "param_scheduler": "flat",
        "param_scheduler.0.factor": 0.2,
        "optim_wrapper": "sgd",
    }
    other = made.build(setting)
    assert (other.optim_wrapper.optimizer.lr, other.param_scheduler[0].factor) == (0.5, 0.2)
    assert len(check_configs(made)) > 5


def test_a_key_with_dots_in_it(tmp_path: Path) -> None:
    path = write_config(tmp_path, optim_wrapper__paramwise_cfg={"custom_keys": {"first.weight": {"lr_mult": 1.0}}})
    key = 'optim_wrapper.paramwise_cfg.custom_keys["first.weight"].lr_mult'
    cfg = builder({key: [0.1, 0.5]}, path).build({key: 0.5})
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys["first.weight"].lr_mult == 0.5


def test_a_digest_differs_only_where_the_run_does() -> None:
    made = builder({"lr": [0.1, 0.2], "optim_wrapper.clip_grad.max_norm": [1, 2]})
    base = digest(made.build({}))
    assert digest(made.build({"lr": 0.001})) == base  # the config's own value
    assert (
        len({base, digest(made.build({"lr": 0.1})), digest(made.build({"optim_wrapper.clip_grad.max_norm": 1}))}) == 3
    )
    moved = made.build({})
    moved["work_dir"] = "elsewhere"
    assert digest(moved) == base


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optim_wrapper.optimizer.lrr": [1, 2]}, "did you mean 'optim_wrapper.optimizer.lr'"),
        ({"param_scheduler.9.T_max": [1, 2]}, "no such key; did you mean 'param_scheduler"),
        ({"learning": [1, 2]}, "the config has no 'learning'"),
        ({"town_seed2": [1, 2]}, "the config has no 'town_seed2'"),
        ({"model.backbone.depth.more": [1, 2]}, "space.model.backbone.depth.more"),
    ],
)
def test_a_key_that_the_config_does_not_have_is_an_error(space: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_configs(builder(space))


def test_a_key_that_changes_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "idle.py"
    path.write_text(write_config(tmp_path).read_text() + "unused = 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"space.unused: its values change nothing that the run reads \(5, 6 give"):
        check_configs(builder({"unused": [5, 6]}, path))


def test_run_length_in_epochs_or_iterations() -> None:
    assert run_length({"train_cfg": {"max_epochs": 3}}) == ("epoch", 3, 1)
    assert run_length({"train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 3, "val_interval": 2}}) == (
        "epoch",
        3,
        2,
    )
    assert run_length({"train_cfg": {"by_epoch": False, "max_iters": 30, "val_interval": 10}}) == ("iter", 30, 10)
    with pytest.raises(InputError, match=r"train_cfg\.max_epochs must be a number"):
        run_length({"train_cfg": {}})


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        (
            {"type": "asha", "grace_period": 16},
            {"train_cfg.val_interval": 1},
            "grace_period is 16 epochs, longer than the run, which has 15",
        ),
        (
            {"type": "pbt", "interval": 20, "mutate": ["lr"]},
            {"train_cfg.val_interval": 1},
            "scheduler.interval is 20 epochs",
        ),
        ({"type": "asha", "max_t": 40}, {"train_cfg.val_interval": 1}, "scheduler.max_t is 40"),
        ({"type": "asha"}, {}, "decides by validations, and there is one in a run"),
    ],
)
def test_a_schedulers_time_longer_than_the_run_is_an_error(scheduler: Any, options: Any, message: str) -> None:
    made = builder({"lr": [0.1, 0.2]}, scheduler=scheduler, cfg_options=options)
    with pytest.raises(InputError, match=message):
        check_lengths(made.sweep, check_configs(made))


@pytest.mark.parametrize(
    ("resources", "concurrency", "message"),
    [
        ({"workers": 3, "cpus": 2}, None, "a trial of 3 workers with 2 CPU each needs 6 CPUs, this machine has 4"),
        ({"gpus": 1}, None, "needs 1 GPUs, this machine has 0"),
        ({"cpus": 2}, 3, "concurrency is 3, but only 2 such trials fit"),
    ],
)
def test_missing_resources_are_an_error(resources: Any, concurrency: Any, message: str) -> None:
    sweep = builder({"lr": [0.1, 0.2]}, resources=resources, concurrency=concurrency).sweep
    with pytest.raises(InputError, match=message):
        check_resources(sweep, {"CPU": 4.0}, where="this machine")


def test_concurrency_is_what_the_resources_allow() -> None:
    sweep = builder({"lr": [0.1, 0.2]}, resources={"cpus": 1.5}).sweep
    assert check_resources(sweep, {"CPU": 4.0, "GPU": 0.0}, where="x") == 2


def test_a_metric_is_found_by_its_last_part() -> None:
    sweep = builder({"lr": [0.1, 0.2]}).sweep
    assert match_metric(sweep, ["toy/AP", "toy/loss"]) == "toy/AP"
    with pytest.raises(InputError, match="could be a/AP or b/AP"):
        match_metric(sweep, ["a/AP", "b/AP"])
    with pytest.raises(InputError, match=r"never gives 'AP'; did you mean 'mAP'\?; it gives mAP, loss"):
        match_metric(sweep, ["toy/mAP", "toy/loss"])
    with pytest.raises(InputError, match=r"never gives 'los'; did you mean 'loss'"):
        match_metric(sweep, ["toy/AP", "toy/loss"], "los")


def test_gpus_are_counted_only_on_request() -> None:
    import torch

    assert this_machine(gpus=True)["GPU"] == torch.cuda.device_count()
    assert "GPU" not in this_machine()


def test_a_trials_config_keeps_environment_placeholders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment gave is no text for a file: not in a trial's config, not after the way to its process."""
    monkeypatch.setenv("RD_TOKEN", "9f8e7d6c5b4a")
    write_config(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text("_base_ = 'toy.py'\nsite = dict(header='Bearer {{$RD_TOKEN:}}')\n")
    cfg = builder({"lr": [0.1, 0.5]}, path).build({"lr": 0.5})
    assert cfg.site.header == "Bearer 9f8e7d6c5b4a"
    values, origin = pickle.loads(pickle.dumps((cfg.to_dict(), cfg.origin)))
    there = Config(values, origin=origin)
    for text in (cfg.pretty_text, there.pretty_text):
        assert "9f8e7d6c5b4a" not in text
        assert "{{$RD_TOKEN:}}" in text


def test_a_folder_with_only_a_lock_file_is_accepted(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    check_folder(tmp_path)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="no sweep's folder"):
        check_folder(tmp_path)
