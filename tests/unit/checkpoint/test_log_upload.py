"""The copies of logs behind a URI: what has changed, and nothing hidden; a failure is told once and made up for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from raydet3d.checkpoint.log_upload import LogUploader
from raydet3d.checkpoint.storage import ObjectStorage, open_storage


@pytest.fixture
def mirror(tmp_path: Path) -> LogUploader:
    (tmp_path / "here" / "logs").mkdir(parents=True)
    bucket = open_storage(f"local://{tmp_path}/there")
    assert isinstance(bucket, ObjectStorage)
    return LogUploader(tmp_path / "here", bucket, logging.getLogger("raydet3d"))


def test_new_and_changed_files_are_uploaded(mirror: LogUploader, tmp_path: Path) -> None:
    there = tmp_path / "there"
    for name in ("a.json", "logs/b.log", ".hidden", "logs/.part"):
        (mirror.local / name).write_text("1")
    mirror.push()
    assert sorted(path.relative_to(there).as_posix() for path in there.rglob("*.*")) == ["a.json", "logs/b.log"]
    (there / "a.json").unlink()
    (mirror.local / "logs" / "b.log").write_text("22")
    mirror.push()
    assert (there / "logs" / "b.log").read_text() == "22"
    assert not (there / "a.json").exists()  # it has not changed since


def test_logs_of_the_machine_with_more_starts_are_used(mirror: LogUploader, tmp_path: Path) -> None:
    mirror.pull("mine.py")  # nothing is there
    assert not list(mirror.local.glob("*.*"))
    (mirror.local / "starts.jsonl").write_text("first\n")
    (mirror.local / ".reached").write_text("7")
    mirror.push()
    other = LogUploader(tmp_path / "elsewhere", mirror.bucket, logging.getLogger("raydet3d"))
    (tmp_path / "there" / "mine.py").write_text("lr = 1")
    other.pull("mine.py")
    assert {path.name for path in other.local.iterdir()} == {"starts.jsonl", ".reached", "mine.py"}

    (mirror.local / ".reached").write_text("9")  # and was killed before it could copy that
    mirror.pull()
    assert (mirror.local / ".reached").read_text() == "9"
    (other.local / "starts.jsonl").write_text("first\nsecond\n")
    (other.local / ".reached").unlink()
    other.push()
    (tmp_path / "there" / ".reached").unlink()
    mirror.pull()
    assert (mirror.local / "starts.jsonl").read_text() == "first\nsecond\n"
    assert not (mirror.local / ".reached").exists()


def test_failed_upload_is_logged_once_and_repeated(
    mirror: LogUploader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (mirror.local / "a.json").write_text("1")
    (tmp_path / "there").touch()  # where the folder is to be
    mirror.push()
    mirror.push()
    assert len(caplog.records) == 1
    assert "logs could not be copied" in caplog.text
    os.unlink(tmp_path / "there")
    mirror.push()
    assert (tmp_path / "there" / "a.json").read_text() == "1"
