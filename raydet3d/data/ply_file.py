"""Parse point clouds in the PLY format: ascii, binary_little_endian, binary_big_endian.

Source: Greg Turk, "The PLY polygon file format", Stanford, 1994. Of a mesh, only the vertices are read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.ascii_points import parse_ascii_points
from raydet3d.errors import InputError

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
_ORDER = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}


def parse_ply(content: bytes, path: str) -> dict[str, NDArray[np.generic]]:
    """Return the properties of the vertices by name, (N,) each.

    Args:
        content: The file's bytes.
        path: The file, for messages.

    Raises:
        InputError: It is no PLY file, damaged, or its vertices are not the first element.
    """
    end = content.find(b"end_header")
    body_begin = content.find(b"\n", end) + 1
    if not content.startswith(b"ply") or end < 0 or body_begin == 0:
        raise InputError(f"{path}: no PLY file (it has no lines ply ... end_header)")
    kind, num_points, properties = _read_header(content[:end].decode("ascii", "replace"), path)
    body = content[body_begin:]
    layout = np.dtype([(name, _ORDER[kind] + code) for name, code in properties])
    if kind != "ascii":
        needed = num_points * layout.itemsize
        if len(body) < needed:
            raise InputError(f"{path}: {len(body)} bytes of points, but its header tells of {needed}; it is truncated")
        table = np.frombuffer(body, layout, num_points)
        return {name: table[name].astype(layout[name].newbyteorder("=")) for name, _ in properties}
    rows = parse_ascii_points(body, num_points, len(properties), path)
    return {name: rows[:, i] for i, (name, _) in enumerate(properties)}


def _read_header(text: str, path: str) -> tuple[str, int, list[tuple[str, str]]]:
    """Return the format, the number of vertices, and their properties with numpy's codes of the types."""
    kind, num_points, properties = "", -1, list[tuple[str, str]]()
    elements = 0
    for line in text.splitlines():
        words = line.split()
        match words:
            case ["format", name, *_]:
                kind = name
            case ["element", name, number]:
                elements += 1
                if elements == 1:
                    if name != "vertex" or not number.isdigit():
                        raise InputError(f"{path}: the first element of the PLY file is {name!r}, not 'vertex'")
                    num_points = int(number)
            case ["property", name, key] if elements == 1:
                if name not in _TYPES:
                    raise InputError(f"{path}: the property {key!r} has the unknown type {name!r}")
                properties.append((key, _TYPES[name]))
            case ["property", "list", *_] if elements == 1:
                raise InputError(f"{path}: a vertex has a list property, which no point cloud has")
    if kind not in _ORDER or num_points < 0 or not properties:
        raise InputError(
            f"{path}: the PLY file's header lacks its format ({', '.join(_ORDER)}), vertices or properties"
        )
    return kind, num_points, properties
