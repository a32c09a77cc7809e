"""The copies of logs behind a URI: what has changed, and nothing hidden; a failure is told once and made up for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from raydet3d.runtime.store.mirror import Mirror
from raydet3d.runtime.store.place import Bucket, place_at


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    (tmp_path / "here" / "logs").mkdir(parents=True)
    bucket = place_at(f"local://{tmp_path}/there")
    assert isinstance(bucket, Bucket)
    return Mirror(tmp_path / "here", bucket, logging.getLogger("raydet3d"))


def test_what_is_new_or_has_changed_is_copied(mirror: Mirror, tmp_path: Path) -> None:
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
    mirror.fetch("nothing.json")
    (there / "scalars.json").write_text("x")
    mirror.fetch("scalars.json")
    assert (mirror.local / "scalars.json").read_text() == "x"


def test_a_failure_is_told_once_and_made_up_for(
    mirror: Mirror, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
