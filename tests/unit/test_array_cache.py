"""Cache files: mapped by all processes, written whole by one of them, renewed with their source, never needed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from raydet3d.array_cache import ArrayWriter, CachedArrays, open_cached
from raydet3d.errors import InputError


@pytest.fixture(autouse=True)
def _cache_small_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_text("3 1 2")
    return path


def fill_from(source: Path) -> Callable[[ArrayWriter], None]:
    def fill(writer: ArrayWriter) -> None:
        numbers = np.array(source.read_text().split(), np.int64)
        writer.add("numbers", [numbers[:1], numbers[1:]], like=numbers)
        writer.add("pairs", [np.ones((2, 2), np.float32)], like=np.zeros((0, 2), np.float32))
        writer.add("none", [], like=np.zeros(0, np.uint8))

    return fill


def open_numbers(source: Path, version: str = "1") -> CachedArrays:
    return open_cached(source, version, fill_from(source))


def test_second_start_maps_what_the_first_wrote(source: Path) -> None:
    first, second = open_numbers(source), open_numbers(source)
    assert (first.is_new, second.is_new) == (True, False)
    assert sorted(path.name for path in source.parent.iterdir()) == ["numbers.txt", "numbers.txt.cache"]
    for arrays in (first, second):
        assert {name: array.tolist() for name, array in arrays.items()} == {
            "numbers": [3, 1, 2],
            "pairs": [[1, 1], [1, 1]],
            "none": [],
        }
        assert arrays["pairs"].dtype == np.float32
        assert arrays["none"].shape == (0,)
        assert not arrays["numbers"].flags.writeable


@pytest.mark.parametrize("change", ["content", "time", "version"])
def test_cache_is_renewed_when_source_or_version_changes(source: Path, change: str) -> None:
    open_numbers(source)
    if change == "content":
        source.write_text("5 6 7 8")
    elif change == "time":
        source.write_text("4 5 6")
        os.utime(source, ns=(0, 10**18))
    arrays = open_numbers(source, version="2" if change == "version" else "1")
    assert arrays.is_new
    assert arrays["numbers"].tolist() == {"content": [5, 6, 7, 8], "time": [4, 5, 6], "version": [3, 1, 2]}[change]
    assert not open_numbers(source, version="2" if change == "version" else "1").is_new


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_damaged_cache_is_made_again(source: Path, keep: int) -> None:
    open_numbers(source)
    cache = source.with_name("numbers.txt.cache")
    cache.write_bytes(cache.read_bytes()[:keep])
    assert open_numbers(source).is_new
    assert open_numbers(source)["numbers"].tolist() == [3, 1, 2]


@pytest.mark.parametrize("name", [".numbers.txt.cache.lock", ".numbers.txt.cache.tmp"])
def test_folder_that_cannot_be_written_does_no_harm(source: Path, name: str) -> None:
    (source.parent / name / "x").mkdir(parents=True)  # also refuses root, whom permissions do not stop
    arrays = open_numbers(source)
    assert arrays.is_new
    assert arrays["numbers"].tolist() == [3, 1, 2]
    assert not source.with_name("numbers.txt.cache").exists()


def test_error_of_the_source_is_raised_and_leaves_nothing(source: Path) -> None:
    def fail(writer: ArrayWriter) -> None:
        writer.add("numbers", [np.ones(3)], like=np.ones(0))
        raise InputError("damaged")

    with pytest.raises(InputError, match="damaged"):
        open_cached(source, "1", fail)
    assert [path.name for path in source.parent.iterdir()] == ["numbers.txt"]


def killed_while_writing(source: Path) -> None:
    def fill(writer: ArrayWriter) -> None:
        writer.add("numbers", [np.ones(100_000)], like=np.ones(0))
        os._exit(9)

    open_cached(source, "1", fill)


def test_writer_killed_in_the_middle_is_replaced(source: Path) -> None:
    process = get_context("fork").Process(target=killed_while_writing, args=(source,))
    process.start()
    process.join(60)
    assert not source.with_name("numbers.txt.cache").exists()
    assert open_numbers(source)["numbers"].tolist() == [3, 1, 2]
    assert not source.with_name(".numbers.txt.cache.tmp").exists()


def open_and_tell(source: Path, folder: Path, number: int) -> None:
    arrays = open_numbers(source)
    (folder / str(number)).write_text(f"{int(arrays.is_new)} {arrays['numbers'].sum()}")


def test_one_of_many_processes_writes(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "told"
    folder.mkdir()
    source.write_text(" ".join(["1"] * 200_000))
    processes = [get_context("fork").Process(target=open_and_tell, args=(source, folder, i)) for i in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    told = [path.read_text() for path in folder.iterdir()]
    assert sorted(told) == ["0 200000"] * 5 + ["1 200000"]


def test_arrays_cross_processes_as_the_name_of_their_file(source: Path) -> None:
    arrays = open_numbers(source)
    raw = pickle.dumps(arrays)
    assert len(raw) < 500
    assert pickle.loads(raw)["numbers"].tolist() == [3, 1, 2]
    source.write_text("1 2")
    open_numbers(source)
    with pytest.raises(InputError, match="start again"):
        pickle.loads(raw)
    assert arrays["numbers"].tolist() == [3, 1, 2]


def test_small_sources_have_no_cache(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 100)
    arrays = open_numbers(source)
    assert pickle.loads(pickle.dumps(arrays))["numbers"].tolist() == [3, 1, 2]
    assert [path.name for path in source.parent.iterdir()] == ["numbers.txt"]
