"""Functions on paths, under MMEngine's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet3d.compat import mmengine_path


def test_folders_are_made_once(tmp_path: Path) -> None:
    for _ in range(2):
        mmengine_path.mkdir_or_exist(str(tmp_path / "a" / "b"))
    mmengine_path.mkdir_or_exist("")
    assert (tmp_path / "a" / "b").is_dir()


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("a.json", "b.PNG", ".hidden", "in/c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(mmengine_path.scandir(tmp_path)) == ["a.json", "b.PNG"]
    assert list(mmengine_path.scandir(str(tmp_path), recursive=True)) == ["a.json", "b.PNG", "in/c.json"]
    assert list(mmengine_path.scandir(tmp_path, suffix=".json", recursive=True)) == ["a.json", "in/c.json"]
    assert list(mmengine_path.scandir(tmp_path, suffix=(".png",), case_sensitive=False)) == ["b.PNG"]
    with pytest.raises(TypeError):
        mmengine_path.scandir(3)  # type: ignore[arg-type]


def test_files_and_links(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError):
        mmengine_path.check_file_exist(file)
    with mmengine_path.fopen(str(file), "w") as stream:
        stream.write("text")
    mmengine_path.check_file_exist(file)
    for _ in range(2):
        mmengine_path.symlink(file, tmp_path / "link")
    assert (tmp_path / "link").read_text() == "text"
    with pytest.raises(ValueError, match="filepath"):
        mmengine_path.fopen(3)  # type: ignore[arg-type]
    assert mmengine_path.is_filepath(file)
    assert not mmengine_path.is_filepath(3)
    assert mmengine_path.is_abs("s3://bucket/a")
    assert not mmengine_path.is_abs("a/b")
