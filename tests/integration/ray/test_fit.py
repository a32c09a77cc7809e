"""Runs on real Ray workers, against the same run in this process: samples, augmentation, weights, and after kill -9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.worker import run_worker
from tests.kit.toy import toy_cfg
from tests.kit.trace import KillOnce, WriteSamples, read_steps

pytestmark = pytest.mark.ray


def plan_of(work_dir: Path, *hooks: dict[str, Any], **changes: Any) -> RunSpec:
    trace = {"type": WriteSamples, "folder": str(work_dir / "samples")}
    cfg = toy_cfg(work_dir, custom_hooks=[trace, *hooks], **changes)
    return RunSpec(cfg=cfg.to_dict(), filename=None, run_id="start", threads=1, cwd=str(Path.cwd()))


def on_ray(plan: RunSpec, workers: int) -> dict[str, Any]:
    from raydet3d.launch.retry_loop import fit

    options = RayOptions(num_workers=workers, gpus_per_worker=0, cpus_per_worker=2 / workers)
    return fit(plan, options, work_dir=Path(plan.cfg["work_dir"]))


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / "epoch_3.pth", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def undisturbed(two_cpus: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    work_dir = tmp_path_factory.mktemp("undisturbed")
    return work_dir, on_ray(plan_of(work_dir, train_dataloader__num_workers=1), workers=2)


def test_fit_returns_the_result_of_rank_0(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    work_dir, result = undisturbed
    assert (result["epoch"], result["iter"], result["workers"], result["restarts"]) == (3, 18, 2, 0)
    assert result["metrics"]["toy/count"] == 9
    assert Path(result["last_checkpoint"]) == work_dir / "epoch_3.pth"


def test_workers_and_their_loaders_use_the_samples_of_one_process(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    # The same global batch of 4: the same samples in the same order with the same augmentation. On Ray, a loader
    # process of each worker reads them.
    work_dir, _ = undisturbed
    run_worker(plan_of(tmp_path, train_dataloader__batch_size=4))
    alone, together = read_steps(tmp_path / "samples"), read_steps(work_dir / "samples")
    assert len(alone) == 18
    assert alone == together


def test_killed_worker_ends_in_the_undisturbed_weights(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    # Saved after every 4th iteration; rank 1 dies before the 11th. The newest checkpoint that was whole by then (the
    # one of 8, or of 4 where its writer was still at work) is where the second start goes on.
    kill = {"type": KillOnce, "rank": 1, "at": 10, "marker": str(tmp_path / "killed")}
    every = {"type": "CheckpointHook", "interval": 4, "by_epoch": False}
    result = on_ray(plan_of(tmp_path, kill, default_hooks__checkpoint=every), workers=2)
    assert (result["restarts"], result["iter"]) == (1, 18)
    done = [json.loads(line)[0] for line in (tmp_path / "samples" / "rank1.jsonl").read_text().splitlines()]
    again = done.index(10) + 1  # the hook that writes comes before the one that kills
    assert done[:again] == list(range(11))
    assert done[again] in (0, 4, 8)
    assert done[again:] == list(range(done[again], 18))
    last = torch.load(tmp_path / "iter_18.pth", weights_only=True)["state_dict"]
    work_dir, _ = undisturbed
    for name, value in weights(work_dir).items():
        assert torch.equal(value, last[name]), name


def test_input_error_of_a_worker_is_raised_by_fit(two_cpus: None, tmp_path: Path) -> None:
    from raydet3d.errors import InputError

    plan = plan_of(tmp_path, optim_wrapper__optimizer={"type": "AdamWW", "lr": 0.1})
    with pytest.raises(InputError, match=r"unknown optimizer type 'AdamWW'; did you mean 'AdamW'"):
        on_ray(plan, workers=1)


def test_error_in_code_is_not_tried_again(two_cpus: None, tmp_path: Path) -> None:
    import ray.train

    plan = plan_of(tmp_path, {"type": Broken})
    with pytest.raises(ray.train.TrainingFailedError, match="of no use"):
        on_ray(plan, workers=2)
    assert (tmp_path / "tries").read_text() == "x"


class Broken(WriteSamples):
    """A hook that fails on rank 0."""

    def __init__(self) -> None:
        pass

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.rank == 0:
            with (runner.work_dir / "tries").open("a") as file:
                file.write("x")
            raise ZeroDivisionError("of no use")
