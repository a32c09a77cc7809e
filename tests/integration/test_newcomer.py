"""A newcomer's first session: commands of README and quick start in a row, on a small town without Ray.

What the quick start says about `show` is run by `test_docs.py`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.kit.docs import README, blocks
from tests.kit.groups import restore_interrupt
from tests.kit.runs import PATIENCE, ROOT

MODEL = "configs/demo/pointpillars_town.py"
OPTIONS = ("--cfg-options", "town_seed=3", "num_train=12", "num_val=2", "epoch_num=2")
SMALL = Path("work_dirs/small")
CHECKPOINT = SMALL / "epoch_2.pth"


class Session:
    """Commands of the package in one folder.

    Args:
        cwd: The folder, which holds the shipped configs.
    """

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{cwd}", "OMP_NUM_THREADS": "1"}

    def start(self, name: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"raydet3d.{name}", *map(str, args)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.cwd, env=self.env, stdout=pipe, stderr=pipe, text=True, preexec_fn=restore_interrupt
        )

    def finish(self, run: subprocess.Popen[str], code: int = 0) -> str:
        out, err = run.communicate(timeout=240 * PATIENCE)
        assert run.returncode == code, out[-3000:] + err[-3000:]
        assert "Traceback" not in out + err
        return out

    def __call__(self, name: str, *args: object) -> str:
        return self.finish(self.start(name, *args))


def interrupt_after_a_step(session: Session, run: subprocess.Popen[str]) -> str:
    """Press Ctrl-C after the first iteration, and return the output."""
    deadline = time.monotonic() + 120 * PATIENCE
    while not (session.cwd / SMALL / ".reached").is_file():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    return session.finish(run, 130)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A folder in which the small run was interrupted and continued."""
    cwd = tmp_path_factory.mktemp("newcomer")
    (cwd / "configs").symlink_to(ROOT / "configs")
    session = Session(cwd)
    train = ("train", MODEL, "--workers", 0, "--work-dir", SMALL, *OPTIONS)
    stopped = interrupt_after_a_step(session, session.start(*train))
    assert "the same command resumes" in stopped
    assert list((cwd / SMALL).glob("stop_iter_*.pth"))
    finished = session(*train)
    assert "resumed from" in finished
    assert not list((cwd / SMALL).glob("stop_iter_*.pth"))
    (last,) = re.findall(r"^Last checkpoint: (.*)$", finished, re.MULTILINE)
    assert Path(last).samefile(cwd / CHECKPOINT)
    return session


def test_saved_predictions_are_scored_as_the_checkpoint_was(session: Session) -> None:
    flags = ("--save-predictions", "found.npz", "--show-dir", "pictures", "--page", "page")
    scored = session("evaluate", MODEL, CHECKPOINT, *flags, *OPTIONS)
    again = session("evaluate", MODEL, "--predictions", "found.npz", *OPTIONS)
    assert scored.splitlines()[-3:] == again.splitlines()[-3:]
    assert (session.cwd / "pictures" / "000012.png").is_file()
    (page,) = re.findall(r"^Page: (.*)$", scored, re.MULTILINE)
    assert "000013" in (session.cwd / page).read_text(encoding="utf-8")


def test_clouds_are_predicted_on_and_shown(session: Session) -> None:
    clouds = "data/town/training/velodyne/00000[0-2].bin"
    out = session("infer", MODEL, CHECKPOINT, clouds, "--out", "out", "--show-dir", "shown", "--page", "page_infer")
    lines = [json.loads(line) for line in (session.cwd / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [Path(line["file"]).stem for line in lines] == ["000000", "000001", "000002"]
    assert all(len(line["bboxes_3d"]) == len(line["scores_3d"]) for line in lines)
    assert sorted(path.stem for path in (session.cwd / "shown").iterdir()) == ["000000", "000001", "000002"]
    (page,) = re.findall(r"^Page: (.*)$", out, re.MULTILINE)
    assert Path(page).is_file()


def test_two_runs_are_reported_compared_and_watched(session: Session) -> None:
    """The second run has the hook of the README."""
    files: Mapping[str, str] = {
        block.mark.rpartition(", ")[2]: block.text
        for block in blocks(README)
        if block.mark.startswith("example: hook, ")
    }
    (session.cwd / "my_hooks.py").write_text(files["my_hooks.py"], encoding="utf-8")
    (session.cwd / "MY_CONFIG.py").write_text(f"_base_ = [{MODEL!r}]\n{files['config']}", encoding="utf-8")
    short = (*OPTIONS[:-1], "epoch_num=1", "custom_hooks.0.interval=5")
    out = session("train", "MY_CONFIG.py", "--workers", 0, *short)
    assert re.search(r"^5 \d+\.\d+$", out, re.MULTILINE)

    session("report", SMALL)
    session("report", SMALL, "--compare", "work_dirs/MY_CONFIG")
    report = (session.cwd / SMALL / "report.html").read_text(encoding="utf-8")
    assert "1 restart (" in report
    comparison = (session.cwd / SMALL / "comparison.html").read_text(encoding="utf-8")
    assert "PrintLoss" in comparison
    state = json.loads(session("watch", SMALL, "--once", "--json"))
    assert (state["state"], state["epoch"], state["restarts"]) == ("finished", 2, 1)
