"""KITTI's raw files, read strictly: calibration, labels, planes, image sizes, clouds; and its two frames of reference.

Camera boxes are (x, y, z of the bottom centre, l, h, w, ry): x right, y down, z front, ry clockwise seen from above.
LiDAR boxes are (x, y, z of the bottom centre, dx, dy, dz, yaw): x front, y left, z up, yaw counter-clockwise.
Legend: N points · C channels · K boxes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet3d.errors import InputError
from raydet3d.info_file import kitti_difficulty
from raydet3d.ops.points import limit_period

Floats = NDArray[np.float64]

# The order of a label line; "score" may follow.
FIELDS = (
    *("type", "truncated", "occluded", "alpha", "bbox left", "bbox top", "bbox right", "bbox bottom"),
    *("height", "width", "length", "x", "y", "z", "rotation_y"),
)
_CALIB_SHAPES = {
    **dict.fromkeys(("P0", "P1", "P2", "P3"), (3, 4)),
    "R0_rect": (3, 3),
    "Tr_velo_to_cam": (3, 4),
    "Tr_imu_to_velo": (3, 4),
}
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Calib:
    """A frame's calibration, each matrix padded to 4x4.

    Args:
        p: Projections P0 to P3 of the rectified camera frame to the four images.
        r0_rect: Rotation of the camera frame to the rectified one.
        velo_to_cam: LiDAR to camera frame.
        imu_to_velo: Inertial unit to LiDAR frame, where the file has it.
    """

    p: tuple[Floats, Floats, Floats, Floats]
    r0_rect: Floats
    velo_to_cam: Floats
    imu_to_velo: Floats | None = None

    @property
    def lidar2cam(self) -> Floats:
        """LiDAR to rectified camera frame, (4, 4)."""
        out: Floats = self.r0_rect @ self.velo_to_cam
        return out


@dataclass(frozen=True)
class Labels:
    """A frame's label lines, DontCare included.

    Args:
        names: Type of each object.
        truncated: (K,) share outside the image, 0 to 1; -1 for DontCare.
        occluded: (K,) 0 visible, 1 partly, 2 largely, 3 unknown; -1 for DontCare.
        alpha: (K,) observation angle in radians.
        bbox: (K, 4) left, top, right, bottom in pixels.
        boxes: (K, 7) camera boxes.
        score: (K,) confidences; 0 where the file has none.
    """

    names: tuple[str, ...]
    truncated: Floats
    occluded: NDArray[np.int64]
    alpha: Floats
    bbox: Floats
    boxes: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.names)

    @property
    def difficulty(self) -> NDArray[np.int64]:
        """(K,) 0 easy, 1 moderate, 2 hard, -1 none of them; by the box's height in the image, occlusion, truncation."""
        out = kitti_difficulty(self.bbox, self.truncated, self.occluded)
        out[np.array([name == "DontCare" for name in self.names], bool)] = -1
        return out


def read_calib(path: Path) -> Calib:
    """Read a calibration file.

    Raises:
        InputError: The file is not there, lacks a matrix, or has one of the wrong size.
    """
    found: dict[str, Floats] = {}
    for number, line in enumerate(_lines(path), 1):
        name, colon, values = line.partition(":")
        shape = _CALIB_SHAPES.get(name.strip())
        if not colon or shape is None:
            continue
        try:
            numbers = np.array(values.split(), dtype=np.float64)
        except ValueError:
            raise InputError(f"{path} line {number}: {name} holds something that is not a number") from None
        if numbers.size != shape[0] * shape[1]:
            raise InputError(f"{path} line {number}: {name} has {numbers.size} numbers, not {shape[0] * shape[1]}")
        found[name.strip()] = np.eye(4)
        found[name.strip()][: shape[0], : shape[1]] = numbers.reshape(shape)
    for name in _CALIB_SHAPES:
        # Some copies of the data lack the inertial unit; nothing here needs it.
        if name not in found and name != "Tr_imu_to_velo":
            raise InputError(f"{path}: has no {name}; a KITTI calib file has {', '.join(_CALIB_SHAPES)}")
    p0, p1, p2, p3 = (found[f"P{i}"] for i in range(4))
    return Calib((p0, p1, p2, p3), found["R0_rect"], found["Tr_velo_to_cam"], found.get("Tr_imu_to_velo"))


def read_labels(path: Path) -> Labels:
    """Read a label file.

    Raises:
        InputError: A line lacks a field, or has a word where a number belongs; file and line are named.
    """
    names, rows = [], []
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < len(FIELDS):
            raise InputError(
                f"{path} line {number}: {len(words)} fields, the field {FIELDS[len(words)]!r} is missing; "
                f"a KITTI label has {len(FIELDS)}: {', '.join(FIELDS)}"
            )
        if len(words) > len(FIELDS) + 1:
            raise InputError(f"{path} line {number}: {len(words)} fields; a KITTI label has {len(FIELDS)}, or one more")
        row = []
        for field, word in zip((*FIELDS[1:], "score"), words[1:], strict=False):
            try:
                row.append(float(word))
            except ValueError:
                raise InputError(f"{path} line {number}: {field} is {word!r}, not a number") from None
        if not np.isfinite(row).all():
            raise InputError(f"{path} line {number}: holds a number that is not finite")
        names.append(words[0])
        rows.append(row if len(row) == len(FIELDS) else [*row, 0.0])
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(FIELDS))
    height, width, length = table[:, 7], table[:, 8], table[:, 9]
    return Labels(
        names=tuple(names),
        truncated=table[:, 0],
        occluded=table[:, 1].astype(np.int64),
        alpha=table[:, 2],
        bbox=table[:, 3:7],
        boxes=np.column_stack((table[:, 10:13], length, height, width, table[:, 13])),
        score=table[:, 14],
    )


def read_plane(path: Path) -> Floats:
    """Read a road plane: (4,) a, b, c, d of a x + b y + c z + d = 0 in the camera frame, its unit normal up."""
    lines = _lines(path)
    words = lines[3].split() if len(lines) > 3 else []
    try:
        plane = np.array([float(word) for word in words])
        if plane.shape != (4,) or not np.isfinite(plane).all() or not np.linalg.norm(plane[:3]):
            raise ValueError
    except ValueError:
        raise InputError(f"{path} line 4: a plane is 4 numbers a b c d, got {' '.join(words)!r}") from None
    # y points down, so the normal that points up has b < 0.
    out: Floats = plane * (-1 if plane[1] > 0 else 1) / np.linalg.norm(plane[:3])
    return out


def read_png_size(path: Path) -> tuple[int, int]:
    """Give (height, width) of a PNG from its header."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if len(head) < 24 or head[:8] != _PNG or head[12:16] != b"IHDR":
        raise InputError(f"{path}: not a PNG image, or cut off ({path.stat().st_size} bytes)")
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def read_cloud(path: Path | str, *, channels: int = 4) -> NDArray[np.float32]:
    """Read a cloud of float32 numbers: (N, C).

    Raises:
        InputError: The file is not there, or its size is no multiple of a point's; both sizes are named.
    """
    try:
        flat = np.fromfile(path, dtype=np.float32)
        size = Path(path).stat().st_size if flat.size % channels or not flat.size else flat.nbytes
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    one = 4 * channels
    if size % one:
        raise InputError(
            f"{path}: {size} bytes, not a multiple of the {one} bytes of a point ({channels} float32); the file is cut "
            f"off (the last whole point ends at {size - size % one} bytes) or has another number of channels"
        )
    return flat.reshape(-1, channels)


def camera_to_lidar(boxes: Floats, lidar2cam: Floats) -> Floats:
    """Carry camera boxes to the LiDAR frame.

    The yaw ignores the small tilt between the frames, as KITTI's labels and MMDetection3D do.

    Args:
        boxes: (K, 7) camera boxes.
        lidar2cam: (4, 4).

    Returns:
        (K, 7) LiDAR boxes, yaw in [-pi, pi).
    """
    back = np.linalg.inv(lidar2cam)
    centre = boxes[:, :3] @ back[:3, :3].T + back[:3, 3]
    yaw = limit_period(-boxes[:, 6] - np.pi / 2)
    return np.column_stack((centre, boxes[:, [3, 5, 4]], yaw))


def lidar_to_camera(boxes: Floats, lidar2cam: Floats) -> Floats:
    """Carry (K, 7) LiDAR boxes to the camera frame: the inverse of `camera_to_lidar`."""
    centre = boxes[:, :3] @ lidar2cam[:3, :3].T + lidar2cam[:3, 3]
    turn = limit_period(-boxes[:, 6] - np.pi / 2)
    return np.column_stack((centre, boxes[:, [3, 5, 4]], turn))


def in_view(points: NDArray[Any], lidar2img: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which points the camera sees: strictly inside its frustum, from 1 mm to 100 m.

    Args:
        points: (N, 3+) in the LiDAR frame.
        lidar2img: (4, 4) LiDAR frame to pixels times depth.
        size: Height and width of the image.

    Returns:
        (N,) booleans.
    """
    u, v, depth = lidar2img[:3, :3] @ points[:, :3].T.astype(np.float64) + lidar2img[:3, 3:4]
    height, width = size
    seen = (depth > 0.001) & (depth < 100) & (u > 0) & (u < width * depth) & (v > 0) & (v < height * depth)
    return np.asarray(seen, dtype=np.bool_)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file") from None
