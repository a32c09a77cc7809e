"""Small files by MMEngine's function names: round trips, formats, lists; and that loading runs nothing."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.compat import fileio
from raydet3d.errors import InputError

DATA = {"a": [1, 2.5, None], "b": {"c": "x"}}


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml", "pkl", "pickle"])
def test_dump_and_load(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "deep" / f"data.{suffix}"
    fileio.dump(DATA, file)
    assert fileio.load(file) == DATA
    assert fileio.load(str(file), backend_args={"backend": "local"}) == DATA
    file.rename(tmp_path / "data.txt")
    assert fileio.load(tmp_path / "data.txt", file_format=suffix) == DATA


def test_text_and_open_files(tmp_path: Path) -> None:
    assert fileio.dump(DATA, file_format="json") == '{"a": [1, 2.5, null], "b": {"c": "x"}}'
    assert fileio.load(io.StringIO("{a: [1]}"), file_format="yaml") == {"a": [1]}
    with (tmp_path / "x.json").open("w") as file:
        fileio.dump({"x": np.arange(3), "y": {1}}, file)
    assert fileio.load(tmp_path / "x.json") == {"x": [0, 1, 2], "y": [1]}


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


def test_pickle_with_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InputError, match="system"):
        fileio.load(tmp_path / "bad.pkl")
    (tmp_path / "bad.yaml").write_text("!!python/object/apply:os.system ['false']")
    with pytest.raises(InputError, match=r"bad\.yaml"):
        fileio.load(tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", ["none.json", "none.pkl", "none.npy"])
def test_errors_are_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=name) as caught:
        fileio.load(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="petrel"):
        fileio.get(tmp_path / name, backend_args={"backend": "petrel"})


def test_lists_and_folders(tmp_path: Path) -> None:
    fileio.put_text("a 1\nb 2 3\nc 4", tmp_path / "list.txt")
    fileio.put(b"\x00", tmp_path / "sub" / "data.bin")
    (tmp_path / ".hidden").write_text("")
    assert fileio.list_from_file(tmp_path / "list.txt", prefix="x/", offset=1, max_num=1) == ["x/b 2 3"]
    assert fileio.dict_from_file(tmp_path / "list.txt") == {"a": "1", "b": ["2", "3"], "c": "4"}
    assert list(fileio.list_dir_or_file(tmp_path)) == ["list.txt", "sub"]
    assert list(fileio.list_dir_or_file(tmp_path, list_dir=False, suffix=".bin", recursive=True)) == ["sub/data.bin"]
    assert fileio.get(tmp_path / "sub/data.bin") == b"\x00"
    assert fileio.join_path("a", "b", "c") == os.path.join("a", "b", "c")
    assert (fileio.exists(tmp_path), fileio.isdir(tmp_path), fileio.isfile(tmp_path)) == (True, True, False)
    with fileio.get_local_path(tmp_path / "list.txt") as path:
        assert Path(path).is_file()
    fileio.remove(tmp_path / "sub")
    assert not (tmp_path / "sub").exists()


def test_backend_has_the_functions_of_the_module(tmp_path: Path) -> None:
    backend = fileio.get_file_backend(tmp_path, backend_args={"backend": "local"})
    backend.put_text("x", tmp_path / "a.txt")
    assert backend.get(backend.join_path(tmp_path, "a.txt")) == b"x"
    with pytest.raises(InputError, match="petrel"):
        fileio.get_file_backend(backend_args={"backend": "petrel"})


def test_urls(tmp_path: Path) -> None:
    root = f"memory://{tmp_path.name}"
    fileio.dump(DATA, f"{root}/deep/data.pkl")
    fileio.put_text("a 1", f"{root}/list.txt")
    assert fileio.load(f"{root}/deep/data.pkl") == DATA
    assert fileio.list_from_file(f"{root}/list.txt") == ["a 1"]
    assert list(fileio.list_dir_or_file(root, recursive=True)) == ["deep", "deep/data.pkl", "list.txt"]
    with fileio.get_local_path(f"{root}/list.txt") as path:
        assert Path(path).read_text() == "a 1"
    assert not Path(path).exists()
    fileio.remove(f"{root}/deep")
    assert not fileio.exists(f"{root}/deep/data.pkl")
