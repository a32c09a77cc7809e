"""A lock file: one holder at a time, in whatever process, and none once that has ended."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from raydet3d.errors import InputError
from raydet3d.files import locked, parse_bytes, write_output


def test_lock_is_exclusive_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "work" / ".lock"
    with locked(path, timeout_s=0, busy="taken", keep_file=False):
        with pytest.raises(InputError, match="taken"), locked(path, timeout_s=0.1, busy="taken"):
            pass
        assert path.exists()
    assert not path.parent.exists()
    with locked(path, timeout_s=0, busy="taken", keep_file=False):
        (path.parent / "log").touch()
    assert [file.name for file in path.parent.iterdir()] == ["log"]


def test_forked_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    ours, theirs = os.pipe()
    with locked(path, timeout_s=0, busy="taken"):
        child = os.fork()
        if child == 0:
            os.read(ours, 1)
            os._exit(0)
    with locked(path, timeout_s=0, busy="taken"):
        pass
    os.write(theirs, b"x")
    os.waitpid(child, 0)


def test_waiting_process_locks_the_current_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder takes the file away when it ends: whoever has opened it before must not hold a file that is gone."""
    path = tmp_path / ".lock"
    flock, gone = fcntl.flock, []

    def late(file: Any, how: int) -> None:
        flock(file, how)
        if not gone and how & fcntl.LOCK_EX:
            gone.append(path.unlink())

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(path, timeout_s=1, busy="taken"):
        assert path.exists()
        with pytest.raises(InputError, match="taken"), locked(path, timeout_s=0.1, busy="taken"):
            pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(InputError, match="has no file locks"), locked(tmp_path / "a", timeout_s=9, busy=""):
        pass
    with locked(tmp_path / "a", timeout_s=9, busy="", required=False, keep_file=False):
        pass


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (7, 7),
        ("500MB", 5 * 10**8),
        ("1.5 TB", 15 * 10**11),
        ("2k", 2000),
        ("1GiB", 2**30),
        ("3gib", 3 * 2**30),
        ("1Ki", 1024),
        ("12 B", 12),
    ],
)
def test_sizes_are_parsed_with_decimal_and_binary_units(text: int | str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "GB", "-1", "1 PB", "1iB", "", True])
def test_malformed_sizes_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="a size is a number of bytes or text like"):
        parse_bytes(text)


def test_an_output_file_is_written_with_its_folder(tmp_path: Path) -> None:
    write_output(tmp_path / "new" / "page.html", b"page")
    assert (tmp_path / "new" / "page.html").read_bytes() == b"page"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_an_output_file_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "page.html"
    with pytest.raises(InputError, match=f"cannot write {path}"):
        write_output(path, b"page")


def test_a_folder_in_place_of_an_output_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "page.html" / "mine").mkdir(parents=True)
    write_output(tmp_path / "page.html", b"page")
    assert (tmp_path / "page.html").read_bytes() == b"page"
    assert (tmp_path / "page.html.damaged" / "mine").is_dir()
