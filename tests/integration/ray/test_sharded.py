"""FSDP2 on Ray workers: stopped and gone on with, it ends where DDP ends; other numbers of workers take it over."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from raydet3d.checkpoint.load import load_metadata, load_shards
from tests.kit.runs import Run, finish, starts, weights, write_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]
# Not Adam, which makes steps of the rounding noise that a bias before BatchNorm has for a gradient.
OPTIONS = ["--cfg-options", "optim_wrapper.optimizer.type=SGD"]
SHARDED = [*OPTIONS, "model_wrapper_cfg={'type': 'MMFullyShardedDataParallel', 'min_params': 50}"]


@pytest.mark.timeout(900)
def test_sharded_run_equals_ddp_and_resumes_on_other_numbers_of_workers(tmp_path: Path) -> None:
    more = {"batch": 3, "dropout": 0.0}
    plain = finish(write_config(tmp_path / "plain", **more), "--workers", 2, *OPTIONS)
    end = 24
    config = write_config(tmp_path / "sharded", {"type": "Slow", "seconds": 0.2}, **more)
    run = Run(config, "--workers", 2, *SHARDED)
    run.until(run.reached(9))
    run.signal(signal.SIGTERM)
    assert run.wait() == 75, run.text()
    finish(config, "--workers", 2, *SHARDED)
    assert [line["redone"] for line in starts(run.work_dir)] == [0, 0]
    last = run.work_dir / f"iter_{end}.pth"
    assert last.is_dir()
    stored = load_shards(load_metadata(last), last, {})["state_dict"]
    expected = weights(plain.work_dir, end)
    assert stored.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(stored[name], value, rtol=1e-4, atol=1e-5)
    for workers in (1, 3):
        again = write_config(tmp_path / f"with{workers}", epochs=4, **more)
        other = finish(again, "--workers", workers, "--resume", last, *SHARDED)
        assert starts(other.work_dir)[0]["from"] == end
        assert (other.work_dir / "iter_32.pth.json").exists()
