"""Signals to a whole process group, with loader workers or pools alive: the command saves, exits and can be resumed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.groups import CommandGroup
from tests.kit.runs import ROOT, assert_same_weights, finish, read_reached, write_config
from tests.kit.strange_recorder import write_strange_folder
from tests.kit.tiny_kitti import write_kitti
from tests.kit.tiny_nuscenes import VERSION, write_nuscenes

SLOW = {"type": "Slow", "seconds": 0.1}
CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
DEMO = "configs/demo/pointpillars_town.py"


def slow(number: signal.Signals) -> Any:
    return pytest.param(number, marks=pytest.mark.slow)


@contextmanager
def running(command: Sequence[object], folder: Path, env: Mapping[str, str] | None = None) -> Iterator[CommandGroup]:
    group = CommandGroup(command, folder, env)
    try:
        yield group
    finally:
        group.close()


def all_end(run: CommandGroup, seconds: float = 5) -> bool:
    """Whether the other processes of a group end within a time."""
    deadline = time.monotonic() + seconds
    while run.members() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not run.members()


def train(config: Path, *flags: object) -> list[object]:
    return ["-m", "raydet3d.train", config, "--work-dir", config.parent / "work", *flags]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(write_config(tmp_path_factory.mktemp("whole")), "--workers", 0).work_dir


@pytest.mark.parametrize("number", [signal.SIGTERM, *map(slow, (signal.SIGUSR1, signal.SIGINT))], ids=lambda n: n.name)
def test_a_run_with_loader_workers_saves_and_goes_on(number: signal.Signals, undisturbed: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW, loaders=2)
    with running(train(config, "--workers", 0), tmp_path) as run:
        run.until(lambda: (read_reached(tmp_path / "work") or 0) >= 5)
        assert len(run.members()) == 2
        run.signal_group(number)
        assert run.wait() == CODES[number], run.text()
        assert f"Stopped ({number.name})" in run.text()
        assert "killed" not in run.text()
        assert not run.members()
    assert list((tmp_path / "work").glob("stop_iter_*.pth"))
    finish(config, "--workers", 0)
    assert_same_weights(tmp_path / "work", undisturbed, 72)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_every_start_method_survive_from_their_first_moment(method: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW, loaders=2)
    with config.open("a") as file:
        file.write(f"env_cfg = dict(mp_cfg=dict(mp_start_method={method!r}))\n")
    with running(train(config, "--workers", 0), tmp_path) as run:
        run.until(run.members)
        time.sleep(0.3)  # they are importing torch
        run.signal_group(signal.SIGTERM)
        assert run.wait() == 75, run.text()
        assert "killed" not in run.text()


def test_timeout_sends_its_signal_twice(tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW, loaders=2, epochs=40)
    words = ["timeout", "--preserve-status", "-s", "INT", "600", "python", *train(config, "--workers", 0)]
    with running(words, tmp_path) as run:
        run.until(lambda: (read_reached(tmp_path / "work") or 0) >= 3)
        run.process.send_signal(signal.SIGINT)  # to the process and to the group, as when the time is over
        assert run.wait() == 130, run.text()
        assert "Stopped (SIGINT)" in run.text()


def test_torchrun_passes_sigterm_on(undisturbed: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW, loaders=1)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *train(config)]
    with running(words, tmp_path) as run:
        run.until(lambda: (read_reached(tmp_path / "work") or 0) >= 4)
        run.signal_group(signal.SIGTERM)
        run.wait()
        assert "Stopped (SIGTERM)" in run.text()
        assert "is killed by signal" not in run.text()
    (saved,) = (tmp_path / "work").glob("stop_iter_*.pth")
    with running(words, tmp_path) as run:
        assert run.wait(120) == 0, run.text()
    assert not saved.exists()


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW, loaders=2, epochs=40)
    with running(train(config, "--workers", 0), tmp_path) as run:
        run.until(lambda: (read_reached(tmp_path / "work") or 0) >= 2)
        workers = run.members()
        assert len(workers) == 2
        run.process.kill()
        run.process.wait()
        assert all_end(run)


def test_evaluate_with_loader_workers_is_resumable(undisturbed: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, SLOW)
    with config.open("a") as file:
        file.write(
            "test_dataloader = dict(batch_size=1, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=False),\n"
            "    dataset=dict(type='ToyData', size=60, noise=0.0))\n"
            "test_cfg = dict()\ntest_evaluator = dict(type='ToyMetric')\n"
        )
    words = ["-m", "raydet3d.evaluate", config, undisturbed / "iter_72.pth", "--work-dir", tmp_path / "scores"]
    with running(words, tmp_path) as run:
        run.until(lambda: len(run.members()) == 2)
        time.sleep(0.5)
        run.signal_group(signal.SIGTERM)
        assert run.wait() == 75, run.text()
        assert run.text().splitlines()[-1].startswith("raydet3d: stopped (SIGTERM)")
    with running(words, tmp_path) as run:
        assert run.wait() == 0, run.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)], ids=lambda n: n.name)
def test_prepare_with_a_pool_goes_on_where_it_was(number: signal.Signals, tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti", train=300, val=2)
    journal = root / ".prepare.journal"
    words = ["-m", "raydet3d.data.prepare", "kitti", root, "--workers", 2]
    with running(words, tmp_path) as run:
        run.until(lambda: journal.exists() and journal.stat().st_size > 2000)
        run.signal_group(number)
        assert run.wait() == CODES[number], run.text()
        assert "Traceback" not in run.text()
    done = journal.read_bytes()
    with running(words, tmp_path) as run:
        assert run.wait() == 0, run.text()
        assert "300 frames in kitti_infos_train.pkl" in run.text()
    assert journal.read_bytes().startswith(done[: done.rindex(b"\n") + 1])  # what was done is not done again


def test_town_generation_with_a_pool_begins_anew(tmp_path: Path) -> None:
    options = ["train_dataloader.dataset.data_root=town", "val_dataloader.dataset.data_root=town"]
    options += [f"{mode}_dataloader.dataset.num_{part}=120" for mode in ("train", "val") for part in ("train", "val")]
    words = ["-m", "raydet3d.train", DEMO, "--workers", 0, "--cfg-options", *options]
    with running(words, tmp_path) as run:
        run.until(lambda: len(list(tmp_path.glob(".town.partial/training/velodyne/*"))) > 4)
        assert run.members()
        run.signal_group(signal.SIGTERM)
        assert run.wait() == 75, run.text()
        assert run.text().splitlines()[-1].startswith("raydet3d: stopped (SIGTERM)")
        assert not (tmp_path / ".town.partial").exists()
        assert not run.members()


@pytest.mark.parametrize("delay", [0.0, 0.4, 1.5])
def test_a_stop_while_the_users_modules_are_imported_is_no_mistake(delay: float, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import pathlib, time\npathlib.Path('importing').touch()\n"
        "for _ in range(40):\n    try:\n        time.sleep(0.1)\n    except Exception:\n        pass\n"
    )
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace('imports=["tests.kit', 'imports=["mine", "tests.kit'))
    with running(train(config, "--workers", 0), tmp_path) as run:
        run.until((tmp_path / "importing").exists)
        time.sleep(delay)
        run.signal_group(signal.SIGTERM)
        assert run.wait() == 75, run.text()


READY_LOADER = """
import os
import signal

from torch.utils.data import DataLoader

from raydet3d.data import pseudo_collate
from raydet3d.registry import RUNNERS
from raydet3d.runtime.runner import Runner
from tests.kit.toy import ToyData


class OwnLoader(DataLoader):
    pass


def start_worker(worker_id):
    open(f"started_{worker_id}", "w").close()


def make_loader(kind, method):
    return kind(
        ToyData(size=48), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True,
        collate_fn=pseudo_collate, worker_init_fn=start_worker, multiprocessing_context=method,
    )
"""

TRAINED_BY_COMMAND = """
from raydet3d.runtime import EpochBasedTrainLoop


@RUNNERS.register_module()
class RunnerWithALoader(Runner):
    def build_train_loop(self, loop):
        return EpochBasedTrainLoop(self, make_loader(OwnLoader, "fork"), max_epochs=3)
"""

TRAINED_BY_SCRIPT = """
import sys

from raydet3d.hooks import Hook
from tests.kit.faults import Slow
from tests.kit.toy import toy_cfg


class SaveOnSignal(Hook):
    received = None

    def receive(self, number, frame):
        self.received = number

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        open(f"reached_{runner.iter}", "w").close()
        if self.received:
            runner.save_checkpoint(runner.work_dir, "on_signal.pth")
            sys.exit(40)


if __name__ == "__main__":
    hook = SaveOnSignal()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, hook.receive)
    cfg = toy_cfg("work", train_cfg__max_epochs=40).to_dict()
    cfg["train_dataloader"] = make_loader(DataLoader, sys.argv[1])
    cfg["custom_hooks"] = [hook, Slow(0.05)]
    Runner(**cfg).train()
"""


def test_workers_of_a_ready_loader_survive_in_a_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(READY_LOADER + TRAINED_BY_COMMAND)
    config = write_config(tmp_path, SLOW, loaders=2)
    text = config.read_text().replace('imports=["tests.kit', 'imports=["mine", "tests.kit')
    config.write_text(f"{text}\nrunner_type = 'RunnerWithALoader'\n")
    with running(train(config, "--workers", 0), tmp_path) as run:
        run.until(lambda: (read_reached(tmp_path / "work") or 0) >= 5)
        assert {path.name for path in tmp_path.glob("started_*")} == {"started_0", "started_1"}
        run.signal_group(signal.SIGTERM)
        assert run.wait() == 75, run.text()
        assert "killed" not in run.text()
    assert list((tmp_path / "work").glob("stop_iter_*.pth"))
    finish(config, "--workers", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, *map(slow, (signal.SIGUSR1, signal.SIGINT))], ids=lambda n: n.name)
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_ready_loader_survive_in_a_script(method: str, number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(READY_LOADER + TRAINED_BY_SCRIPT)
    with running(["-m", "script", method], tmp_path, {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}) as run:
        run.until(lambda: len(list(tmp_path.glob("reached_*"))) >= 3)
        assert {path.name for path in tmp_path.glob("started_*")} == {"started_0", "started_1"}
        run.signal_group(number)
        assert run.wait() == 40, run.text()
        assert "killed" not in run.text()
        assert all_end(run)
    assert (tmp_path / "work" / "on_signal.pth").is_file()


IMPORTING = {
    "evaluate": ["-m", "raydet3d.evaluate", "toy.py", "weights.pth"],
    "tune": ["-m", "raydet3d.tune", "toy.py", "sweep.yaml"],
    "infer": ["-m", "raydet3d.infer", "toy.py", "weights.pth", "cloud.bin"],
    "export": ["-m", "raydet3d.export", "toy.py", "weights.pth", "--format", "torch-export", "--out", "graphs"],
    "check": ["-m", "raydet3d.data.check", "toy.py"],
    "benchmark": ["-m", "raydet3d.benchmark", "toy.py"],
    "show": ["-m", "raydet3d.show", "hooks", "toy.py"],
    "publish": ["-m", "raydet3d.publish", "weights.pth", "published", "--config", "toy.py"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("infer", "tune"))) for name in IMPORTING]
)
def test_a_stop_while_any_command_imports_the_users_modules_is_no_mistake(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import pathlib, time\npathlib.Path('importing').touch()\n"
        "for _ in range(100):\n    try:\n        time.sleep(0.1)\n    except Exception:\n        pass\n"
    )
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace('imports=["tests.kit', 'imports=["mine", "tests.kit'))
    (tmp_path / "weights.pth").write_bytes(b"not reached")
    (tmp_path / "cloud.bin").write_bytes(bytes(16))
    (tmp_path / "sweep.yaml").write_text(
        "metric: AP\nmode: max\ntrials: 2\nspace: {optim_wrapper.optimizer.lr: [0.1, 0.2]}\n"
    )
    with running(IMPORTING[name], tmp_path) as run:
        run.until((tmp_path / "importing").exists)
        run.signal_group(signal.SIGTERM)
        assert run.wait() == 75, run.text()
        assert "Traceback" not in run.text()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["kitti", "nuscenes", "custom", "check"])
def test_a_stop_in_the_first_seconds_of_a_preparation_or_check(layout: str, tmp_path: Path) -> None:
    write = {"nuscenes": write_nuscenes, "custom": write_strange_folder}.get(layout, write_kitti)
    for i in range(8):
        root = write(tmp_path / f"{layout}{i}")
        words = ["-m", "raydet3d.data.prepare", layout, root, *(["--version", VERSION] * (layout == "nuscenes"))]
        if layout == "check":
            words = ["-m", "raydet3d.data.check", root]
        with running(words, tmp_path) as run:
            time.sleep(0.5 + 0.25 * i)
            has_begun = bool(run.text()) or any(root.glob(".*.lock"))
            run.signal_group(signal.SIGTERM)
            code = run.wait()
            assert code in ((75, 0) if has_begun else (75, 0, -signal.SIGTERM)), (i, run.text())
            assert "Traceback" not in run.text()
        with running(words, tmp_path) as run:
            assert run.wait() == 0, run.text()


@pytest.mark.slow
def test_at_any_moment_a_stop_exits_with_75_or_after_the_end(tmp_path: Path) -> None:
    for i in range(12):
        folder = tmp_path / str(i)
        config = write_config(folder, {"type": "Slow", "seconds": 0.02}, loaders=1)
        with running(train(config, "--workers", 0), folder) as run:
            time.sleep(1.0 + 0.5 * i)
            if not run.text() and not (folder / "work").exists():
                continue  # the interpreter is starting
            run.signal_group(signal.SIGTERM)
            assert run.wait() in (75, 0), (i, run.text())
            assert "Traceback" not in run.text()
        shutil.rmtree(folder)
        assert not os.path.exists(folder)
