"""Command line of infer: the arguments and the clouds that they name."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from raydet3d.errors import InputError
from raydet3d.infer import find_clouds, parse


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_a_checkpoint_may_come_first() -> None:
    args = parse(["a.py", "b.pth", "c.bin", "d"])
    assert (args.config, args.checkpoint, args.clouds) == ("a.py", "b.pth", ["c.bin", "d"])
    args = parse(["b.pth", "c.bin", "d"])
    assert (args.config, args.checkpoint, args.clouds) == (None, "b.pth", ["c.bin", "d"])


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["a.py", "b.pth"], "at least one cloud"),
        (["a.py", "b.pth", "c.bin", "--batch-size", "0"], "--batch-size"),
        (["a.py", "b.pth", "c.bin", "--calib", "x"], "--kitti"),
    ],
)
def test_wrong_arguments_are_named(argv: list[str], part: str) -> None:
    with pytest.raises(InputError, match=part):
        parse(argv)


def test_folders_and_patterns_give_their_clouds_sorted_and_files_come_as_given(tmp_path: Path) -> None:
    touch(tmp_path, "a/2.bin", "a/10.bin", "a/notes.txt", "b/c/3.bin", "b/1.bin")
    root, found = find_clouds([str(tmp_path / "b/1.bin"), str(tmp_path / "a"), str(tmp_path / "b/**/*.bin")])
    assert root == str(tmp_path)
    assert [name for _, name in found] == ["b/1", "a/10", "a/2", "b/c/3"]
    assert all(Path(path).is_file() for path, _ in found)


def test_clouds_of_one_folder_are_named_as_their_files(tmp_path: Path) -> None:
    touch(tmp_path, "x/000001.bin", "x/lidar.pcd.bin")
    root, found = find_clouds([str(tmp_path / "x")])
    assert root == str(tmp_path / "x")
    assert [name for _, name in found] == ["000001", "lidar.pcd"]


def test_nothing_found_and_equal_names_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.bin", "x/a.npy", "empty/readme.md")
    for given in ("none.bin", "x/*.las", "empty"):
        with pytest.raises(InputError, match=given.replace("*", r"\*")):
            find_clouds([str(tmp_path / given)])
    with pytest.raises(InputError, match="one name"):
        find_clouds([str(tmp_path / "x")])


def test_folder_whose_subfolders_have_the_clouds_is_refused_with_the_pattern_that_finds_them(tmp_path: Path) -> None:
    touch(tmp_path, "points/drive_1/000001.pcd")
    with pytest.raises(InputError) as caught:
        find_clouds([str(tmp_path / "points")])
    pattern = str(caught.value).split("'")[1]
    assert [name for _, name in find_clouds([pattern])[1]] == ["000001"]


def test_uris_of_files_folders_and_patterns_give_their_clouds(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("2.bin", "10.bin", "notes.txt", "more/3.pcd"):
        memory.pipe_file(f"/infer/{name}", b"")
    _, folder = find_clouds(["memory://infer"])
    assert [name for _, name in folder] == ["10", "2"]
    assert all(path.startswith("memory://") and memory.exists(path) for path, _ in folder)
    assert [name for _, name in find_clouds(["memory://infer/2.bin", "memory://infer/**/*.pcd"])[1]] == ["2", "more/3"]
    touch(tmp_path, "a.bin")
    assert find_clouds([f"file://{tmp_path}/a.bin"])[1] == [(str(tmp_path / "a.bin"), "a")]
    for given, part in (
        (["memory://infer/none.bin"], "no such file"),
        (["nothing://a.bin"], "nothing://a.bin cannot be read"),
        (["memory://infer/2.bin", str(tmp_path / "a.bin")], "one file system"),
    ):
        with pytest.raises(InputError, match=part):
            find_clouds(given)
