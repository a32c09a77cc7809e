"""Point cloud files: every format is read, and one whose size does not fit is refused, also by a single byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raydet3d.data.pcd_file import decompress_lzf
from raydet3d.data.point_cloud_file import read_cloud, read_fields, select_columns
from raydet3d.errors import InputError
from tests.kit.input_errors import message
from tests.kit.strange_recorder import FORMATS, write_cloud


def test_a_truncated_cloud_is_named_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "000003.bin"
    np.arange(40, dtype=np.float32).tofile(path)
    assert read_cloud(path).shape == (10, 4)
    for cut, whole in ((6, 144), (2, 144)):
        path.write_bytes(path.read_bytes()[:-cut] if path.stat().st_size == 160 else path.read_bytes()[:150])
        with pytest.raises(InputError, match=f"{path.stat().st_size} bytes, not a multiple of the 16 .* {whole} bytes"):
            read_cloud(path)
    whole = np.arange(40, dtype=np.float32).tobytes()
    for extra in range(1, 16):
        path.write_bytes(whole + bytes(extra))
        with pytest.raises(InputError, match=f"{160 + extra} bytes, not a multiple"):
            read_cloud(path)
    path.write_bytes(b"abc")
    with pytest.raises(InputError, match="3 bytes"):
        read_cloud(path)
    path.write_bytes(b"")
    assert read_cloud(path).shape == (0, 4)
    with pytest.raises(InputError, match="No such file"):
        read_cloud(tmp_path / "9.bin")


POINTS = np.random.default_rng(0).normal(0, 30, (300, 4)).astype(np.float32)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_points(tmp_path: Path, form: str) -> None:
    path = write_cloud(tmp_path / "a.b", POINTS, form)
    assert np.array_equal(read_cloud(path), POINTS)
    fields = read_fields(path)
    assert np.array_equal(select_columns(fields, ("x", "y", "z", "intensity"), path), POINTS)
    assert np.array_equal(read_cloud(write_cloud(tmp_path / "none", POINTS[:0], form)), POINTS[:0])


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "bin"])
def test_a_truncated_or_foreign_file_of_any_format_is_named(tmp_path: Path, form: str) -> None:
    path = write_cloud(tmp_path / "a", POINTS, form)
    content = path.read_bytes()
    for bad in (content[: len(content) * 2 // 3], content[:20], b"", bytes(500)):
        path.write_bytes(bad)
        assert message(lambda: read_fields(path)).startswith(f"{path}: ")


def test_pcd_with_padding_other_types_and_vectors(tmp_path: Path) -> None:
    layout = np.dtype(
        [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("_", "u1", (3,)), ("ring", "<u2"), ("n", "<f4", (2,))]
    )
    table = np.zeros(5, layout)
    table["x"], table["ring"], table["n"] = np.arange(5) / 3, [9, 8, 7, 6, 5], 4.5
    head = (
        "VERSION .7\nFIELDS x y z _ ring n\nSIZE 8 8 8 1 2 4\nTYPE F F F U U F\nCOUNT 1 1 1 3 1 2\n"
        "WIDTH 5\nHEIGHT 1\nPOINTS 5\nDATA binary\n"
    )
    path = tmp_path / "a.pcd"
    path.write_bytes(head.encode() + table.tobytes())
    fields = read_fields(path)
    assert list(fields) == ["x", "y", "z", "ring", "n_0", "n_1"]
    assert np.array_equal(fields["x"], table["x"])
    assert fields["ring"].tolist() == [9, 8, 7, 6, 5]
    # read_cloud: x, y, z, then the others in their order.
    assert read_cloud(path, channels=5)[0].tolist() == [0, 0, 0, 9, 4.5]
    assert "7 numbers a point" in message(lambda: read_cloud(path, channels=7))
    assert "'intensity'" in message(lambda: select_columns(fields, ("x", "intensity"), path))


def test_lzf_repetitions_are_unpacked() -> None:
    # "ab", then six bytes from two back (they overlap), then ten from eight back (a length of its own byte).
    packed = bytes([1, *b"ab", (4 << 5), 1, (7 << 5), 1, 7])
    assert decompress_lzf(packed, 18) == b"ab" * 9
    with pytest.raises(ValueError, match="18 bytes, not 17"):
        decompress_lzf(packed, 17)
    with pytest.raises(ValueError, match="before the data"):
        decompress_lzf(bytes([1, *b"ab", (4 << 5), 2]), 8)


def test_ply_of_either_byte_order_skips_what_follows_the_vertices(tmp_path: Path) -> None:
    layout = np.dtype([("x", ">f4"), ("y", ">f4"), ("z", ">f4"), ("scalar_Intensity", ">f4"), ("red", "u1")])
    table = np.zeros(3, layout)
    table["x"], table["scalar_Intensity"], table["red"] = [1, 2, 3], [0.5, 0.25, 0.125], [1, 2, 255]
    rows = "".join(
        f"property {kind} {name}\n" for name, kind in zip(layout.names, ["float"] * 4 + ["uchar"], strict=True)
    )
    head = f"ply\nformat binary_big_endian 1.0\nelement vertex 3\n{rows}element face 1\n"
    path = tmp_path / "a.ply"
    faces = "property list uchar int vertex_indices\nend_header\n"
    path.write_bytes((head + faces).encode() + table.tobytes() + bytes([3, *range(12)]))
    fields = read_fields(path)
    assert fields["x"].tolist() == [1, 2, 3]
    assert fields["red"].tolist() == [1, 2, 255]
    assert read_cloud(path)[:, 3].tolist() == [0.5, 0.25, 0.125]


def test_columns_of_arrays_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, POINTS)
    assert list(read_fields(path)) == ["x", "y", "z", "intensity"]
    assert "300x4" in message(lambda: read_fields(path, columns=["x", "y", "z"]))
    np.save(path, POINTS.astype(np.float64)[:, :3])
    assert "300x3" in message(lambda: read_fields(path))
    np.save(path, np.array(["a"]))
    assert "not of numbers" in message(lambda: read_fields(path))
    binary = tmp_path / "a.bin"
    POINTS.astype("<f8").tofile(binary)
    assert np.array_equal(read_fields(binary, dtype="float64")["y"], POINTS[:, 1])
    assert "not a multiple" in message(lambda: read_fields(binary, columns=list("xyzabcd"), dtype="float64"))
    other = tmp_path / "a.laz"
    other.write_bytes(b"")
    assert ".pcd" in message(lambda: read_fields(other))
