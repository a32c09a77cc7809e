"""Which run of a work dir a command goes on with: progress is never lost, other runs' checkpoints are never touched."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydet3d.checkpoint.log_upload import STARTS
from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.launch.restart_file import read_starts
from tests.integration.test_resume import same_run
from tests.kit.command import INTERRUPTED, interrupt, run_train, toy_config


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_train(toy_config(folder))[0] == 0
    return folder / "work"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose run was interrupted after iteration 14: there are checkpoints of 4, 8 and 12."""
    path = toy_config(tmp_path)
    assert run_train(path, at={14: interrupt})[0] == INTERRUPTED
    return path


def digests(work_dir: Path, pattern: str = "*.pth") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(work_dir.glob(pattern))}


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "torn": tear,
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{}\n"),
    "without its keys": lambda path: path.write_bytes(b'{"finished": true}\n{"run": 3}\n'),
    "a folder": put_a_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_of_starts_costs_no_progress(config: Path, whole: Path, damage: str) -> None:
    work_dir = config.parent / "work"
    DAMAGES[damage](work_dir / STARTS)
    code, out = run_train(config)
    assert (code, "at iteration 14: resuming it" in out or "at iteration 12: resuming it" in out) == (0, True)
    assert "iter_12.pth: epoch 0, iteration 12" in out
    same_run(work_dir / "iter_24.pth", whole / "iter_24.pth")
    assert read_starts(work_dir)[-1]["finished"] is True


def test_another_config_over_an_unfinished_run_is_refused(config: Path) -> None:
    work_dir = config.parent / "work"
    before = digests(work_dir)
    changed = toy_config(config.parent, dropout=0.1)
    code, out = run_train(changed)
    assert code == 2
    assert "model.dropout: 0.3 -> 0.1" in out
    for way in ("--fresh", "--resume", "--work-dir"):
        assert way in out
    assert digests(work_dir) == before == digests(work_dir, "iter_*.pth")


def test_resume_goes_on_with_another_config(config: Path) -> None:
    path = toy_config(config.parent, dropout=0.1)
    path.write_text(path.read_text().replace('type="AdamW"', 'type="SGD"').replace("interval=5", "interval=6"))
    code, out = run_train(path, "--resume")
    assert code == 0
    assert "iter_12.pth: epoch 0, iteration 12" in out
    said = [line.rpartition("checkpoint: ")[2] for line in out.splitlines() if "changed since the checkpoint" in line]
    assert said[:2] == ["model.dropout: 0.3 -> 0.1", "optim_wrapper.optimizer.type: 'AdamW' -> 'SGD'"]
    assert "default_hooks.logger.interval: 5 -> 6" in said


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_two_configs_in_one_work_dir_go_on_with_their_own_runs(
    tmp_path: Path, config: Path, whole: Path, flags: tuple[str, ...]
) -> None:
    work_dir = config.parent / "work"
    before = digests(work_dir)
    changed = toy_config(tmp_path / "changed", dropout=0.1)
    code, out = run_train(changed, "--fresh", at={7: interrupt}, work_dir=work_dir)
    assert (code, list(digests(work_dir))) == (INTERRUPTED, ["iter_4.pth"])
    (aside,) = (work_dir / "earlier_runs").iterdir()
    assert digests(aside) == before

    code, out = run_train(config, *flags)
    assert code == 0
    assert "iter_12.pth: epoch 0, iteration 12" in out
    same_run(work_dir / "iter_24.pth", whole / "iter_24.pth")

    code, out = run_train(changed, *flags, work_dir=work_dir)
    assert code == 0
    assert "iter_4.pth: epoch 0, iteration 4" in out
    expected = tmp_path / "expected"
    run_train(changed, work_dir=expected)
    same_run(work_dir / "iter_24.pth", expected / "iter_24.pth")

    code, out = run_train(config)
    assert (code, "nothing to do" in out) == (0, True)


def test_a_finished_run_of_another_config_is_refused_too(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "work")
    before = digests(tmp_path / "work")
    code, out = run_train(toy_config(tmp_path, epochs=2))
    assert (code, "--fresh" in out) == (2, True)
    assert digests(tmp_path / "work") == before
    code, out = run_train(toy_config(tmp_path, epochs=2), "--resume")
    assert (code, "iteration 24" in out) == (0, True)
    assert (tmp_path / "work" / "iter_48.pth").exists()


def test_a_run_killed_before_its_first_checkpoint_leaves_the_other_one_as_it_was(config: Path) -> None:
    work_dir = config.parent / "work"
    before = digests(work_dir)
    assert run_train(toy_config(config.parent, dropout=0.1), "--fresh", at={2: interrupt})[0] == INTERRUPTED
    assert digests(work_dir) == before
    code, out = run_train(toy_config(config.parent))
    assert (code, "iter_12.pth: epoch 0, iteration 12" in out) == (0, True)


def test_a_run_whose_last_checkpoint_could_not_be_written_is_not_finished(tmp_path: Path, whole: Path) -> None:
    config, work_dir = toy_config(tmp_path), tmp_path / "work"

    def block(_: Any) -> None:
        (work_dir / ".iter_24.pth.tmp").mkdir()

    code, out = run_train(config, at={22: block})
    assert code == 1
    assert "Not kept: iter_24.pth" in out
    assert "Not finished" in out
    code, out = run_train(config)
    assert code == 0
    assert "iter_20.pth: epoch 0, iteration 20" in out
    same_run(work_dir / "iter_24.pth", whole / "iter_24.pth")
    assert "nothing to do" in run_train(config)[1]


def test_a_finished_run_whose_last_checkpoint_was_deleted_is_not_finished(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "work")
    for path in (tmp_path / "work").glob("iter_24.pth*"):
        path.unlink()
    code, out = run_train(toy_config(tmp_path))
    assert (code, "iter_20.pth: epoch 0, iteration 20" in out) == (0, True)
    read_checkpoint(tmp_path / "work" / "iter_24.pth")


def test_the_config_is_known_by_the_checkpoint_where_its_copies_are_gone(config: Path) -> None:
    work_dir = config.parent / "work"
    for path in [*work_dir.glob("*.py"), *work_dir.glob("*/vis_data/config.py")]:
        path.unlink()
    code, out = run_train(config)
    assert (code, "iter_12.pth: epoch 0, iteration 12" in out) == (0, True)
