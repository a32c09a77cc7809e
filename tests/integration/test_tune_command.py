"""`raydet3d.tune` with bad input: one line and exit code 2 before Ray starts and before a file is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.sweeps import write_config

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, Any] = {"metric": "AP", "mode": "max", "trials": 3, "space": {"lr": {"loguniform": [1e-4, 1e-2]}}}
NO_RAY = "import sys; sys.modules['ray'] = None; "  # importing it would fail


def command(folder: Path, source: dict[str, Any] | str, *flags: str) -> subprocess.CompletedProcess[str]:
    write_config(folder)
    text = source if isinstance(source, str) else yaml.safe_dump(source)
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    code = f"{NO_RAY}sys.argv[1:] = {['toy.py', 's.yaml', *flags]!r}; import runpy; "
    code += "runpy.run_module('raydet3d.tune', run_name='__main__')"
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({**GOOD, "space": {"optim_wrapper.optimizer.lrr": [1, 2]}}, "did you mean 'optim_wrapper.optimizer.lr'"),
        ({**GOOD, "space": {"lr": {"uniform": [2, 1]}}}, "is an empty range; low must be less than high"),
        ({**GOOD, "metric": "mAP"}, "validation never gives 'mAP'; did you mean 'AP'?; it gives mAE_loss, AP, count"),
        (
            {**GOOD, "scheduler": {"type": "asha", "grace_period": 9}},
            "scheduler.grace_period is 9 epochs, longer than the run, which has 4",
        ),
        (
            {**GOOD, "scheduler": {"type": "pbt", "mutate": ["lr"]}, "search": "optuna"},
            "pbt finds its settings by itself",
        ),
        ({**GOOD, "resources": {"workers": 500}}, "needs 500 CPUs, this machine has"),
        ("metric: !!python/object/apply:os.system ['touch bad']\n", "unsafe YAML"),
        ({**GOOD, "cfg_options": {"optim_wrapper.optimizer.type": "AdamWW"}}, "did you mean 'AdamW'"),
    ],
    ids=["key", "range", "metric", "grace", "searcher", "resources", "yaml", "config"],
)
def test_bad_input_gives_one_line_and_exit_code_2(tmp_path: Path, source: Any, message: str) -> None:
    run = command(tmp_path, source)
    assert run.returncode == 2, run.stderr
    assert message in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__", ".config", ".cache"} == {"toy.py", "s.yaml"}


def test_report_of_a_folder_without_a_sweep_is_an_error(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "raydet3d.tune", "--report", str(tmp_path)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, "holds no sweep" in run.stderr) == (2, True)
