"""Parse point clouds in PCL's PCD format: ascii, binary, binary_compressed.

Source: the format's description, version 0.7, of the Point Cloud Library; LZF's compressed layout, of liblzf.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.ascii_points import parse_ascii_points
from raydet3d.errors import InputError

_KINDS = {"F": "f", "I": "i", "U": "u"}
_PADDING = "_"


def parse_pcd(content: bytes, path: str) -> dict[str, NDArray[np.generic]]:
    """Return the fields of a cloud by name, (N,) each; a field of several numbers becomes NAME_0, NAME_1, ...

    Args:
        content: The file's bytes.
        path: The file, for messages.

    Raises:
        InputError: It is no PCD file, or damaged.
    """
    header, body = _split_header(content, path)
    try:
        names, sizes, kinds = (header[key].split() for key in ("FIELDS", "SIZE", "TYPE"))
        counts = [int(number) for number in header.get("COUNT", "1 " * len(names)).split()]
        width, height = int(header["WIDTH"]), int(header.get("HEIGHT", "1"))
        num_points = int(header.get("POINTS", width * height))
        layout = np.dtype(
            [
                (str(i), f"<{_KINDS[kind]}{size}", (count,))
                for i, (kind, size, count) in enumerate(zip(kinds, sizes, counts, strict=True))
            ]
        )
        if len(names) != len(layout.names or ()) or num_points < 0:
            raise ValueError("FIELDS, SIZE, TYPE and COUNT differ in number")
    except (KeyError, ValueError, TypeError) as error:
        what = f"has no {error.args[0]}" if isinstance(error, KeyError) else f"is wrong ({error})"
        raise InputError(f"{path}: the header of the PCD file {what}") from None
    data = header["DATA"]
    if data == "ascii":
        arrays = _parse_ascii(body, layout, num_points, path)
    elif data == "binary":
        _check_size(len(body), num_points * layout.itemsize, path)
        table = np.frombuffer(body, layout, num_points)
        arrays = [table[name] for name in layout.names or ()]
    elif data == "binary_compressed":
        arrays = _parse_compressed(body, layout, num_points, path)
    else:
        raise InputError(f"{path}: DATA is {data!r}; known: ascii, binary, binary_compressed")
    fields: dict[str, NDArray[np.generic]] = {}
    for name, array in zip(names, arrays, strict=True):
        if name == _PADDING:
            continue
        for i in range(array.shape[1]):
            fields[name if array.shape[1] == 1 else f"{name}_{i}"] = array[:, i]
    return fields


def _split_header(content: bytes, path: str) -> tuple[dict[str, str], bytes]:
    header: dict[str, str] = {}
    begin = 0
    while "DATA" not in header:
        end = content.find(b"\n", begin)
        if end < 0 or end - begin > 10_000:
            raise InputError(f"{path}: no PCD file (its header has no line DATA), or cut off in the header")
        key, _, value = content[begin:end].decode("ascii", "replace").strip().partition(" ")
        if key and not key.startswith("#"):
            header[key.upper()] = value.strip()
        begin = end + 1
    header["DATA"] = header["DATA"].lower()
    return header, content[begin:]


def _check_size(given: int, needed: int, path: str) -> None:
    if given < needed:
        raise InputError(f"{path}: {given} bytes of points, but its header tells of {needed}; the file is truncated")


def _parse_ascii(body: bytes, layout: np.dtype[np.void], num_points: int, path: str) -> list[NDArray[np.generic]]:
    counts = [layout[name].shape[0] for name in layout.names or ()]
    table = parse_ascii_points(body, num_points, sum(counts), path)
    return list(np.split(table, np.cumsum(counts)[:-1], axis=1))


def _parse_compressed(body: bytes, layout: np.dtype[np.void], num_points: int, path: str) -> list[NDArray[np.generic]]:
    """Return the fields, which are stored one after the other."""
    _check_size(len(body), 8, path)
    packed_size, size = np.frombuffer(body, "<u4", 2).tolist()
    _check_size(len(body) - 8, packed_size, path)
    if size != num_points * layout.itemsize:
        raise InputError(
            f"{path}: {size} bytes of points when unpacked, but its header tells of {num_points * layout.itemsize}"
        )
    try:
        content = decompress_lzf(body[8 : 8 + packed_size], size)
    except (IndexError, ValueError):
        raise InputError(f"{path}: the compressed points are damaged") from None
    arrays: list[NDArray[np.generic]] = []
    begin = 0
    for name in layout.names or ():
        kind = layout[name]
        arrays.append(
            np.frombuffer(content, kind.base, num_points * kind.shape[0], begin).reshape(num_points, kind.shape[0])
        )
        begin += num_points * kind.itemsize
    return arrays


def decompress_lzf(packed: bytes, size: int) -> bytes:
    """Unpack LZF-compressed bytes.

    A control byte below 32 is followed by that many literal bytes plus one. Above, its upper three bits are the length
    of a repetition minus two (7: the next byte is added), its lower five and the next byte the distance minus one.

    Args:
        packed: Compressed bytes.
        size: Number of bytes that they hold.

    Raises:
        ValueError: They hold another number.
        IndexError: They end too early.
    """
    out = bytearray()
    i = 0
    while i < len(packed):
        control = packed[i]
        i += 1
        if control < 32:
            out += packed[i : i + control + 1]
            i += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += packed[i]
            i += 1
        length += 2
        begin = len(out) - ((control & 31) << 8) - packed[i] - 1
        i += 1
        if begin < 0:
            raise ValueError("a repetition begins before the data")
        piece = out[begin : begin + length]
        out += piece if len(piece) == length else (piece * (length // len(piece) + 1))[:length]
    if len(out) != size:
        raise ValueError(f"{len(out)} bytes, not {size}")
    return bytes(out)
