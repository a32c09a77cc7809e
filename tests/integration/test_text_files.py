"""Text files as editors on Windows write them: a byte order mark in front, lines that end with CR LF."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raydet3d.data.check.expectations import Expectations
from raydet3d.data.check.sources import splits_of_root
from raydet3d.data.check.split_checks import check_splits
from raydet3d.data.convert import CONVERTERS
from raydet3d.data.prepare import prepare_custom, prepare_kitti, prepare_nuscenes
from raydet3d.info_file import read_infos
from tests.kit.strange_recorder import write_strange_folder
from tests.kit.tiny_kitti import write_kitti
from tests.kit.tiny_nuscenes import VERSION, write_nuscenes

LAYOUTS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "kitti": (write_kitti, prepare_kitti),
    "custom": (partial(write_strange_folder, sweeps=1, velocities=True), prepare_custom),
    "nuscenes": (write_nuscenes, partial(prepare_nuscenes, version=VERSION)),
}


def as_an_editor_saves(root: Path) -> int:
    """Rewrite all text files below a folder; return how many there are."""
    files = [path for path in root.rglob("*") if path.suffix in (".txt", ".json", ".jsonl")]
    for path in files:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    return len(files)


def infos(root: Path) -> dict[str, Any]:
    return {path.name: repr(read_infos(path)) for path in sorted(root.glob("*.pkl"))}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prepared_data_do_not_depend_on_the_editor(layout: str, tmp_path: Path) -> None:
    write, prepare = LAYOUTS[layout]
    plain, edited = write(tmp_path / "plain" / "data"), write(tmp_path / "edited" / "data")
    assert as_an_editor_saves(edited) > 3
    for root in (plain, edited):
        prepare(root)
    assert infos(edited) == infos(plain)
    assert len(infos(plain)) >= 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_check_of_raw_data_does_not_depend_on_the_editor(layout: str, tmp_path: Path) -> None:
    write, _ = LAYOUTS[layout]
    plain, edited = write(tmp_path / "plain" / "data"), write(tmp_path / "edited" / "data")
    as_an_editor_saves(edited)
    results = [check_splits(splits_of_root(root), Expectations(), root.parent / "out") for root in (plain, edited)]
    assert results[0].totals == results[1].totals
    assert [one.to_json() for one in results[0].splits.values()] == [
        one.to_json() for one in results[1].splits.values()
    ]


def test_converted_tables_do_not_depend_on_the_editor(tmp_path: Path) -> None:
    roots = []
    for name in ("plain", "edited"):
        source = write_nuscenes(tmp_path / name / "source")
        if name == "edited":
            as_an_editor_saves(source)
        CONVERTERS.get("scene_tables")(source, tmp_path / name / "own", version=VERSION)
        roots.append(tmp_path / name / "own")
    for path in roots[0].rglob("*.*"):
        assert (roots[1] / path.relative_to(roots[0])).read_bytes() == path.read_bytes(), path.name
