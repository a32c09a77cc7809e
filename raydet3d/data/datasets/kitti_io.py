"""Read KITTI's raw files: calibration, labels, road planes, image sizes, point clouds; convert between its frames.

Camera boxes are (x, y, z of the bottom centre, l, h, w, ry): x right, y down, z front, ry clockwise seen from above.
LiDAR boxes are (x, y, z of the bottom centre, dx, dy, dz, yaw): x front, y left, z up, yaw counter-clockwise.
Legend: N points · C channels · K boxes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError

from raydet3d.errors import InputError
from raydet3d.ops.points import limit_period

Floats = NDArray[np.float64]

KITTI_CATEGORIES = ("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc")
"""Names in the order of their numbers in a KITTI info file; DontCare is -1."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

# The fields of a label line; a score may follow.
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
# The last bytes of a whole image.
_IMAGE_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
# Image sizes (height, width) of KITTI's cameras by focal length in pixels: it differs between the recording days.
_KITTI_CAMERAS = {721.5377: (375, 1242), 707.0493: (370, 1224), 718.3351: (374, 1238), 718.8560: (376, 1241)}

# A label beyond these is taken for a mistake: metres, metres, radians (angles in degrees exceed 10 almost always).
MAX_COORDINATE_M, MAX_SIZE_M, MAX_ANGLE = 1000.0, 100.0, 10.0
# What a DontCare line holds in place of a 3D box, and the observation angle.
_NO_BOX, _NO_ALPHA = (-1000.0, -1000.0, -1000.0, -1.0, -1.0, -1.0, -10.0), -10.0


@dataclass(frozen=True)
class Calib:
    """A frame's calibration, each matrix padded to 4x4.

    Args:
        p: Projections of the rectified camera frame to the images, by number of the camera; 2 is the left colour
            camera, which the labels refer to.
        r0_rect: Rotation of the camera frame to the rectified one.
        velo_to_cam: LiDAR to camera frame.
        imu_to_velo: Inertial unit to LiDAR frame, where the file has it.
    """

    p: Mapping[int, Floats]
    r0_rect: Floats
    velo_to_cam: Floats
    imu_to_velo: Floats | None = None

    @property
    def lidar2cam(self) -> Floats:
        """Return the LiDAR to rectified camera transform, (4, 4)."""
        out: Floats = self.r0_rect @ self.velo_to_cam
        return out

    def guess_image_size(self) -> tuple[int, int]:
        """Return (height, width) of camera 2's image without it: KITTI's own size, or twice the principal point."""
        projection = self.p[2]
        for focal_length, size in _KITTI_CAMERAS.items():
            if abs(projection[0, 0] - focal_length) < 0.01:
                return size
        return round(2 * float(projection[1, 2])), round(2 * float(projection[0, 2]))


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
        """Return (K,) 0 easy, 1 moderate, 2 hard, -1 none of them."""
        out = kitti_difficulty(self.bbox, self.truncated, self.occluded)
        out[~self.is_object] = -1
        return out

    @property
    def is_object(self) -> NDArray[np.bool_]:
        """Return (K,) false for DontCare regions."""
        return np.array([name != "DontCare" for name in self.names], dtype=np.bool_)

    def without_bad_boxes(self) -> tuple[Labels, dict[int, str]]:
        """Turn objects whose 3D box cannot be right into DontCare regions.

        Returns:
            The labels, and the reason for each row that was changed.
        """
        reasons: dict[int, str] = {}
        numbers = np.column_stack((self.boxes, self.bbox, self.truncated, self.alpha, self.score))
        for row in np.flatnonzero(self.is_object).tolist():
            box = self.boxes[row]
            if not np.isfinite(numbers[row]).all():
                reasons[row] = "a number that is not finite"
            elif (box[3:6] <= 0).any():
                reasons[row] = "a size of zero or less"
            elif (np.abs(box[:3]) > MAX_COORDINATE_M).any():
                reasons[row] = f"a coordinate beyond {MAX_COORDINATE_M:.0f} m"
            elif (box[3:6] > MAX_SIZE_M).any():
                reasons[row] = f"a size above {MAX_SIZE_M:.0f} m"
            elif abs(box[6]) > MAX_ANGLE:
                reasons[row] = f"a rotation_y above {MAX_ANGLE:.0f} (degrees instead of radians?)"
        if not reasons:
            return self, {}
        rows = list(reasons)
        names = tuple("DontCare" if row in reasons else name for row, name in enumerate(self.names))
        columns = {name: getattr(self, name).copy() for name in ("truncated", "occluded", "alpha", "boxes", "score")}
        for name, value in (
            ("truncated", -1),
            ("occluded", -1),
            ("alpha", _NO_ALPHA),
            ("boxes", _NO_BOX),
            ("score", 0),
        ):
            columns[name][rows] = value
        return replace(self, names=names, bbox=np.nan_to_num(self.bbox, posinf=0.0, neginf=0.0), **columns), reasons


def kitti_difficulty(bbox: ArrayLike, truncated: ArrayLike, occluded: ArrayLike) -> NDArray[np.int64]:
    """Return KITTI's difficulty of labelled objects, by height in the image, occlusion and truncation.

    Args:
        bbox: (K, 4) boxes in the image, pixels.
        truncated: (K,) share that is cut off by the image's border.
        occluded: (K,) 0 visible, 1 partly, 2 largely hidden, 3 unknown.

    Returns:
        (K,) 0 easy, 1 moderate, 2 hard, -1 none of them.
    """
    bbox = np.asarray(bbox, float).reshape(-1, 4)
    truncated, occluded = np.asarray(truncated, float), np.asarray(occluded, float)
    height = bbox[:, 3] - bbox[:, 1]
    out = np.full(len(bbox), -1, np.int64)
    # From hard to easy, so that the easiest level that fits remains.
    for level, min_height, max_occluded, max_truncated in ((2, 25, 2, 0.5), (1, 25, 1, 0.3), (0, 40, 0, 0.15)):
        out[(height > min_height) & (occluded <= max_occluded) & (truncated <= max_truncated)] = level
    return out


def read_calib(path: Path) -> Calib:
    """Read a calibration file.

    Raises:
        InputError: The file does not exist, lacks a matrix that the LiDAR needs (P2, R0_rect, Tr_velo_to_cam), or has
            one of the wrong size.
    """
    found: dict[str, Floats] = {}
    for number, line in enumerate(read_lines(path), 1):
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
        if not np.isfinite(numbers).all():
            raise InputError(f"{path} line {number}: {name} holds a number that is not finite")
        found[name.strip()] = pad_to_4x4(numbers.reshape(shape))
    for name in ("P2", "R0_rect", "Tr_velo_to_cam"):
        if name not in found:
            raise InputError(f"{path}: has no {name}; a KITTI calib file has {', '.join(_CALIB_SHAPES)}")
    projections = {number: found[f"P{number}"] for number in range(4) if f"P{number}" in found}
    return Calib(projections, found["R0_rect"], found["Tr_velo_to_cam"], found.get("Tr_imu_to_velo"))


def read_labels(path: Path) -> Labels:
    """Read a label file; numbers that are not finite are kept (see `Labels.without_bad_boxes`).

    Raises:
        InputError: A line lacks a field, or has a word where a number belongs; file and line are named.
    """
    names, rows = [], []
    for number, line in enumerate(read_lines(path), 1):
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
        names.append(words[0])
        rows.append(row if len(row) == len(FIELDS) else [*row, 0.0])
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(FIELDS))
    height, width, length = table[:, 7], table[:, 8], table[:, 9]
    return Labels(
        names=tuple(names),
        truncated=table[:, 0],
        occluded=np.nan_to_num(table[:, 1], nan=3, posinf=3, neginf=3).astype(np.int64),
        alpha=table[:, 2],
        bbox=table[:, 3:7],
        boxes=np.column_stack((table[:, 10:13], length, height, width, table[:, 13])),
        score=table[:, 14],
    )


def read_plane(path: Path) -> Floats:
    """Read a road plane: (4,) a, b, c, d of a x + b y + c z + d = 0 in the camera frame, its unit normal up."""
    lines = read_lines(path)
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


def read_image_size(path: Path) -> tuple[tuple[int, int], bool]:
    """Read an image's size from its header.

    Returns:
        (height, width), and whether the file holds the whole image (it ends as a PNG or JPEG file ends).

    Raises:
        InputError: The file does not exist or has no image header.
    """
    try:
        with path.open("rb") as file:
            with Image.open(file) as image:
                size, kind = (image.height, image.width), str(image.format)
            file.seek(-min(64, path.stat().st_size), os.SEEK_END)
            tail = file.read()
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a PNG or JPEG image, or cut off ({path.stat().st_size} bytes)") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    return size, kind not in _IMAGE_ENDS or _IMAGE_ENDS[kind] in tail


def camera_to_lidar(boxes: Floats, lidar2cam: Floats) -> Floats:
    """Convert camera boxes to the LiDAR frame.

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
    """Convert (K, 7) LiDAR boxes to the camera frame: the inverse of `camera_to_lidar`."""
    centre = boxes[:, :3] @ lidar2cam[:3, :3].T + lidar2cam[:3, 3]
    turn = limit_period(-boxes[:, 6] - np.pi / 2)
    return np.column_stack((centre, boxes[:, [3, 5, 4]], turn))


def in_view(points: NDArray[np.floating], lidar2img: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which points the camera sees: strictly inside its frustum, from 1 mm to 100 m.

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


def pad_to_4x4(matrix: ArrayLike) -> Floats:
    """Return a 3x3 or 3x4 matrix as the upper left part of a 4x4 identity."""
    matrix = np.asarray(matrix, dtype=np.float64)
    out = np.eye(4)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
