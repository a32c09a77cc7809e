"""Known weaknesses of the runtime that users come from, each shown to be absent here. The ids are in the test names.

Those that have a home elsewhere: F1 F2 F3 F4 in test_resume.py, F5 F6 in unit/runtime/test_checkpoint.py, F9 I6 in
unit/runtime/test_start.py, F18 in unit/hooks/test_logger.py, D2 in test_ranks.py, D3 in unit/test_dist.py, I4 in
unit/hooks/test_hook.py, I1 I5 in parity/test_exchange.py and unit/runtime/test_reader.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet3d import dist
from raydet3d.hooks import Hook
from raydet3d.runtime import assemble
from raydet3d.runtime.loaders import build_dataloader
from tests.kit.spawn import run_ranks
from tests.kit.toy import ToyData, ToyModel, toy_cfg

NO_VAL = {f"val_{part}": None for part in ("dataloader", "cfg", "evaluator")}


class EndAt(Hook):
    """Ends a run as a crash does.

    Args:
        iteration: Iterations finished then.
    """

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.iteration:
            raise RuntimeError("crash")


def crashed(folder: Path, at: int, **changes: Any) -> None:
    runner = assemble(toy_cfg(folder, log_level="CRITICAL", **changes), extra_hooks=[EndAt(at)])
    with pytest.raises(RuntimeError, match="crash"):
        runner.train()
    runner.close()


def test_f7_a_work_dir_that_was_moved_resumes(tmp_path: Path) -> None:
    crashed(tmp_path / "here", 30)
    pointer = (tmp_path / "here" / "last_checkpoint").read_text()
    assert not Path(pointer).is_absolute()
    shutil.move(tmp_path / "here", tmp_path / "there")
    runner = assemble(toy_cfg(tmp_path / "there", log_level="ERROR"), resume=True)
    assert runner.train()["iter"] == 36


def test_f8_only_the_last_epoch_is_wanted_and_a_crash_costs_one_epoch(tmp_path: Path) -> None:
    hook = {"default_hooks__checkpoint": {"type": "CheckpointHook", "interval": -1}}
    crashed(tmp_path, 30, **hook)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_2.pth"]
    result = assemble(toy_cfg(tmp_path, log_level="ERROR", **hook), resume=True).train()
    assert result["iter"] == 36
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_3.pth"]


@pytest.mark.parametrize("persistent", [False, True])
def test_f16_epochs_do_not_repeat_each_others_augmentation(persistent: bool) -> None:
    loader = build_dataloader(
        {
            "dataset": {"type": ToyData, "size": 4},
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": 2,
            "num_workers": 1,
            "persistent_workers": persistent,
        },
        seed=0,
    )
    epochs = []
    for epoch in (0, 1, 0):
        loader.batch_sampler.set_position(epoch)
        epochs.append(torch.stack([x for batch in loader for x in batch["inputs"]]))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])  # and the same epoch is the same again


def test_f19_checkpoints_do_not_grow_with_the_history(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path, log_level="ERROR", train_cfg={"max_epochs": 1}))
    runner.train()
    sizes = []
    for rounds in (2_000, 20_000):
        for i in range(rounds):
            runner.message_hub.update_scalar("train/loss", i / 7)
        runner.save_checkpoint(tmp_path, f"after_{rounds}.pth")
        runner.close()
        sizes.append((tmp_path / f"after_{rounds}.pth").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 200
    assert runner.message_hub.get_scalar("train/loss").mean() > 0  # means over the whole run are still known


def in_its_own_folder(folder: str) -> list[str]:
    mine = Path(folder, f"cwd{dist.get_rank()}")
    mine.mkdir(parents=True)
    os.chdir(mine)
    changes = {"model": {"type": ToyModel, "dropout": 0.0}, "train_cfg": {"max_epochs": 1}, "log_level": "ERROR"}
    metrics = assemble(toy_cfg(Path(folder, "run"), **changes)).train()["metrics"]
    assert metrics["toy/count"] == 9
    return sorted(os.listdir(mine))


def test_d4_metrics_are_gathered_without_a_common_folder(tmp_path: Path) -> None:
    assert run_ranks(in_its_own_folder, 2, str(tmp_path)) == [[], []]


def first_values(folder: str) -> list[float]:
    runner = assemble(
        toy_cfg(Path(folder), log_level="ERROR", randomness={"seed": 1, "diff_rank_seed": True}, **NO_VAL)
    )
    runner._init_weights()
    return [float(value) for value in runner.model.module.first.weight.detach().flatten()]


def test_every_rank_begins_with_the_same_weights_though_each_has_its_own_seed(tmp_path: Path) -> None:
    one, other = run_ranks(first_values, 2, str(tmp_path))
    assert one == other


def start_now(folder: Path, number: int) -> None:
    os.environ["NUMBER"] = str(number)
    no_saves = {"type": "CheckpointHook", "interval": -1, "save_last": False}  # of one name, in one folder
    changes = {"experiment_name": f"job{number}", "default_hooks__checkpoint": no_saves, **NO_VAL}
    assemble(toy_cfg(folder, **changes)).train()


def test_s3_jobs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    jobs = [get_context("fork").Process(target=start_now, args=(tmp_path, i)) for i in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    logs = list(tmp_path.glob("*/*.log"))
    assert len(logs) == 3
    for log in logs:
        assert log.read_text().count("raydet3d 0.") <= 1


def test_s2_runs_in_one_process_share_nothing(tmp_path: Path) -> None:
    """Two runs, trained in turn epoch by epoch, end with the weights that each ends with alone."""

    def make(name: str, lr: float) -> Any:
        changes = {"model": {"type": ToyModel, "dropout": 0.0}, "optim_wrapper__optimizer": {"type": "SGD", "lr": lr}}
        runner = assemble(toy_cfg(tmp_path / name, log_level="ERROR", **NO_VAL, **changes))
        runner._prepare_training()
        runner._init_weights()
        runner.call_hook("before_run")
        runner.scalar_log.begin(0)
        runner.optim_wrapper.initialize_count_status(runner.model, 0, runner.max_iters)
        runner.call_hook("before_train")
        return runner

    def weights(runner: Any) -> torch.Tensor:
        weight: torch.Tensor = runner.model.first.weight.detach().clone()
        return weight

    alone = []
    for name, lr in (("alone-a", 0.01), ("alone-b", 0.03)):
        runner = make(name, lr)
        for _ in range(3):
            runner.train_loop.run_epoch()
        alone.append(weights(runner))
    first, second = make("a", 0.01), make("b", 0.03)
    for _ in range(3):
        first.train_loop.run_epoch()
        second.train_loop.run_epoch()
    assert torch.equal(weights(first), alone[0])
    assert torch.equal(weights(second), alone[1])
    assert not torch.equal(*alone)
    for name in ("visualizer", "message_hub", "logger", "scalar_log", "store", "hooks", "log_dir"):
        assert getattr(first, name) is not getattr(second, name)
    assert [run.message_hub.get_scalar("train/loss").count for run in (first, second)] == [36, 36]
    for folder in ("a", "b"):
        assert len((tmp_path / folder / "scalars.json").read_text().splitlines()) == 6
    first.close()
    second.close()


def test_s4_a_run_changes_nothing_of_its_process(tmp_path: Path) -> None:
    import multiprocessing
    import resource

    def state() -> dict[str, Any]:
        return {
            "environment": dict(os.environ),
            "start method": multiprocessing.get_start_method(allow_none=True),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "threads": torch.get_num_threads(),
            "type": torch.get_default_dtype(),
            "cwd": os.getcwd(),
            "grad": torch.is_grad_enabled(),
        }

    before = state()
    env = {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}, "dist_cfg": {"backend": "nccl"}}
    assemble(toy_cfg(tmp_path, log_level="ERROR", env_cfg=env)).train()
    assert state() == before


def test_i3_the_runtime_is_light_to_import() -> None:
    code = (
        "import sys, json, warnings; warnings.simplefilter('error'); import raydet3d.runtime, raydet3d.hooks; "
        "print(json.dumps([m for m in ('cv2', 'matplotlib', 'ray', 'tensorboardX', 'wandb', 'mmengine', 'open3d')"
        " if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    assert done.stderr == ""


def test_deterministic_runs_are_the_same_to_the_bit(tmp_path: Path) -> None:
    def weights(name: str) -> torch.Tensor:
        random.seed(name)
        np.random.seed(len(name))
        cfg = toy_cfg(tmp_path / name, log_level="ERROR", randomness={"seed": 5, "deterministic": True}, **NO_VAL)
        try:
            runner = assemble(cfg)
            runner.train()
        finally:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.deterministic = False
        weight: torch.Tensor = runner.model.first.weight.detach().clone()
        return weight

    assert torch.equal(weights("one"), weights("another"))
