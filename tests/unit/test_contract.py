"""The contract, frozen: what users' hooks, configs and checkpoints rely on. A change here is a change for them.

Names may come; none of these may go without a word in the change log.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import pytest
import torch

from raydet3d import registry
from raydet3d.hooks import STAGES, Hook
from raydet3d.hooks.base import PRIORITIES
from raydet3d.hooks.context import RunContext
from raydet3d.runtime import Runner, assemble
from tests.kit.toy import toy_cfg

RUNNER = [
    "model",
    "cfg",
    "work_dir",
    "log_dir",
    "timestamp",
    "experiment_name",
    "epoch",
    "iter",
    "max_epochs",
    "max_iters",
    "train_loop",
    "val_loop",
    "test_loop",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "val_interval",
    "val_begin",
    "optim_wrapper",
    "param_schedulers",
    "hooks",
    "visualizer",
    "message_hub",
    "log_processor",
    "logger",
    "rank",
    "world_size",
    "distributed",
    "seed",
    "train",
    "val",
    "test",
    "call_hook",
    "register_hook",
    "load_checkpoint",
    "save_checkpoint",
    "resume",
    "scale_lr",
    "from_cfg",
    "is_training",
    "is_resuming",
]

TWENTY_TWO = [
    "before_run",
    "after_load_checkpoint",
    "before_train",
    "before_train_epoch",
    "before_train_iter",
    "after_train_iter",
    "after_train_epoch",
    "before_val",
    "before_val_epoch",
    "before_val_iter",
    "after_val_iter",
    "after_val_epoch",
    "after_val",
    "before_save_checkpoint",
    "after_train",
    "before_test",
    "before_test_epoch",
    "before_test_iter",
    "after_test_iter",
    "after_test_epoch",
    "after_test",
    "after_run",
]

HELPERS = [
    "every_n_epochs",
    "every_n_inner_iters",
    "every_n_train_iters",
    "end_of_epoch",
    "is_last_train_epoch",
    "is_last_train_iter",
    "_before_epoch",
    "_after_epoch",
    "_before_iter",
    "_after_iter",
    "state_dict",
    "load_state_dict",
    "priority",
]

PUBLIC_HUB = [
    "update_scalar",
    "update_scalars",
    "get_scalar",
    "update_info",
    "update_info_dict",
    "get_info",
    "pop_info",
    "log_scalars",
]

CURVES = [
    "Constant",
    "Linear",
    "Step",
    "MultiStep",
    "Exponential",
    "CosineAnnealing",
    "Poly",
    "OneCycle",
    "CosineRestart",
    "ReduceOnPlateau",
]
SUFFIXES = ("LR", "Momentum", "ParamScheduler")

NAMES = {
    "LOOPS": ["EpochBasedTrainLoop", "IterBasedTrainLoop", "ValLoop", "TestLoop"],
    "HOOKS": [
        *("RuntimeInfoHook", "IterTimerHook", "DistSamplerSeedHook", "LoggerHook", "ParamSchedulerHook"),
        *("CheckpointHook", "DisableObjectSampleHook", "Det3DVisualizationHook"),
    ],
    "OPTIM_WRAPPERS": ["OptimWrapper", "AmpOptimWrapper"],
    "OPTIM_WRAPPER_CONSTRUCTORS": ["DefaultOptimWrapperConstructor"],
    "OPTIMIZERS": ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "LBFGS"],
    "PARAM_SCHEDULERS": [curve + suffix for curve in CURVES for suffix in SUFFIXES],
    "LOG_PROCESSORS": ["LogProcessor"],
    "MODEL_WRAPPERS": ["MMDistributedDataParallel"],
    "EVALUATOR": ["Evaluator"],
    "DATASETS": ["KittiDataset", "RepeatDataset", "ConcatDataset"],
    "DATA_SAMPLERS": ["DefaultSampler", "InfiniteSampler"],
    "METRICS": ["KittiMetric"],
    "VISUALIZERS": ["Visualizer", "Det3DLocalVisualizer"],
    "VISBACKENDS": ["LocalVisBackend", "TensorboardVisBackend", "WandbVisBackend"],
}

MMENGINES = {"meta", "state_dict", "optimizer", "param_schedulers", "message_hub"}
OURS = {"progress", "history", "hooks", "rng", "sampler"}
META = {"epoch", "iter", "seed", "experiment_name", "time", "cfg", "dataset_meta"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = tmp_path_factory.mktemp("run")
    runner = assemble(toy_cfg(folder, train_cfg={"max_epochs": 1}), timestamp="t")
    runner.train()
    return runner


@pytest.mark.parametrize("name", RUNNER)
def test_runner_has_mmengines_attributes(trained: Runner, name: str) -> None:
    assert hasattr(trained, name)


def members_of(protocol: type) -> set[str]:
    """Names that a Protocol declares."""
    return {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}


def context_of(runner: Runner) -> RunContext:
    """The type checker holds Runner against the Protocol here."""
    return runner


def test_runner_satisfies_run_context(trained: Runner) -> None:
    context = context_of(trained)
    missing = [name for name in members_of(RunContext) if not hasattr(context, name)]
    assert missing == []


def test_stages_are_methods_with_the_arguments_of_mmengine() -> None:
    extra = {
        "before_save_checkpoint": ["checkpoint"],
        "after_load_checkpoint": ["checkpoint"],
        **{f"before_{mode}_iter": ["batch_idx", "data_batch"] for mode in ("train", "val", "test")},
        **{f"after_{mode}_iter": ["batch_idx", "data_batch", "outputs"] for mode in ("train", "val", "test")},
        **{f"after_{mode}_epoch": ["metrics"] for mode in ("val", "test")},
    }
    for stage in STAGES:
        assert stage in vars(Hook)
        assert list(signature(getattr(Hook, stage)).parameters) == ["self", "runner", *extra.get(stage, [])]


def test_stages_helpers_and_priorities() -> None:
    assert list(STAGES) == TWENTY_TWO
    assert all(hasattr(Hook, name) for name in [*TWENTY_TWO, *HELPERS])
    assert PRIORITIES == {
        **{"HIGHEST": 0, "VERY_HIGH": 10, "HIGH": 30, "ABOVE_NORMAL": 40, "NORMAL": 50},
        **{"BELOW_NORMAL": 60, "LOW": 70, "VERY_LOW": 90, "LOWEST": 100},
    }


def test_message_hub_interface(trained: Runner) -> None:
    assert all(hasattr(trained.message_hub, name) for name in PUBLIC_HUB)


@pytest.mark.parametrize("table", NAMES)
def test_registered_names(table: str) -> None:
    known = getattr(registry, table)
    assert [name for name in NAMES[table] if name not in known] == []


def test_files_and_checkpoint_keys_of_a_run(trained: Runner) -> None:
    state = torch.load(trained.work_dir / "epoch_1.pth", weights_only=True)
    assert set(state) >= MMENGINES | OURS
    assert set(state["meta"]) >= META
    assert set(state["message_hub"]) == {"log_scalars", "runtime_info", "resumed_keys"}
    files = {str(path.relative_to(trained.work_dir)) for path in Path(trained.work_dir).rglob("*") if path.is_file()}
    assert files >= {"config.py", "epoch_1.pth", "epoch_1.pth.json", "last_checkpoint", "scalars.json", "t/t.log"}
