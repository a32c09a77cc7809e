"""The folder of own recordings: which frames and splits it has, and what the files of one frame say.

    ROOT/dataset.json                       axes, units, columns, classes (see `custom_conventions`)
    ROOT/points/NAME.{bin,npy,pcd,ply}      clouds; NAME may have folders
    ROOT/labels/NAME.{json,txt}             labels: JSON, KITTI's lines, or lines x y z l w h yaw class
    ROOT/splits/{train,val,test}.txt        names of the frames, one a line (or ROOT/ImageSets)
    ROOT/frames.jsonl                       timestamp, pose and sequence of clouds, one JSON object a line
    ROOT/calib/NAME.{json,txt}              calibration of a frame or folder, or of all: ROOT/calib.{json,txt}
    ROOT/images/[CAMERA/]NAME.{png,jpg}     images

What is read is converted to raydet3d's frame (see `custom_conventions`). Legend: K boxes.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from raydet3d.data.datasets.custom_conventions import Conventions, Floats, read_conventions, read_json
from raydet3d.data.datasets.kitti_io import (
    IMAGE_SUFFIXES,
    camera_to_lidar,
    pad_to_4x4,
    read_calib,
    read_labels,
    read_lines,
)
from raydet3d.data.point_cloud_file import SUFFIXES
from raydet3d.data.split_lists import unique_frames, warn_of_shared_frames
from raydet3d.errors import InputError, nearest_or_all
from raydet3d.ops.rigid_transforms import quaternion_to_matrix

LAYOUT = (
    "own data is laid out as ROOT/points/NAME.{bin,npy,pcd,ply}, ROOT/labels/NAME.{json,txt}, "
    "ROOT/splits/{train,val}.txt and, where axes, units or class names differ, ROOT/dataset.json"
)
UNLABELLED = ("test",)
"""Splits whose frames may lack labels."""

_KITTI_FIELDS, _LINE_FIELDS = (15, 16), 8


@dataclass(frozen=True, eq=False)
class Objects:
    """Labelled objects of a frame, in raydet3d's frame.

    Args:
        names: Class of each object.
        boxes: (K, 7) bottom centre, length, width, height in metres, yaw in radians.
        velocities: (K, 2) metres a second; NaN where it is not known.
        difficulty: (K,) as labelled; 0 where it is not.
    """

    names: tuple[str, ...]
    boxes: Floats
    velocities: Floats
    difficulty: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Camera:
    """Calibration of a camera.

    Args:
        cam2img: (4, 4) projection to pixels times depth.
        lidar2cam: (4, 4) from raydet3d's LiDAR frame to the camera's: x right, y down, z front, metres.
    """

    cam2img: Floats
    lidar2cam: Floats


@dataclass(frozen=True, eq=False)
class CloudRecord:
    """A line of `frames.jsonl`.

    Args:
        name: The cloud's name.
        timestamp: Seconds; None where it is not known.
        pose: (4, 4) of the LiDAR in a fixed frame, in raydet3d's axes and metres; None where it is not known.
        sequence: Clouds of one sequence follow each other in time.
    """

    name: str
    timestamp: float | None
    pose: Floats | None
    sequence: str


class CustomLayout:
    """A folder of own recordings.

    Args:
        root: The folder.

    Attributes:
        conventions: Content of `dataset.json`.
        clouds: File of each cloud by name.
        splits: Names of the frames of each split, each once.
        records: Lines of `frames.jsonl` by name.

    Raises:
        InputError: A file is missing or malformed, two clouds have one name, or a split names a missing frame.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not (self.root / "points").is_dir():
            raise InputError(f"{self.root / 'points'}: no such folder; {LAYOUT}")
        self.conventions: Conventions = read_conventions(self.root)
        self.clouds = self._index("points", SUFFIXES)
        if not self.clouds:
            raise InputError(f"{self.root / 'points'}: holds no cloud ({', '.join(SUFFIXES)}); {LAYOUT}")
        self._labels = self._index("labels", (".json", ".txt"))
        self._calibs = self._index("calib", (".json", ".txt"))
        self._images = self._index("images", IMAGE_SUFFIXES)
        self.splits = self._read_splits()
        self.records = self._read_records()

    def label_file(self, name: str) -> Path | None:
        """Return the file of a frame's labels; None where it has none."""
        return self._labels.get(name)

    def calib_file(self, name: str) -> Path | None:
        """Return the file of a frame's calibration: its own, that of its folder, or that of all; None without one."""
        shared = (self.root / f"calib{suffix}" for suffix in (".json", ".txt"))
        own = self._calibs.get(name) or self._calibs.get(name.rpartition("/")[0])
        return own or next((path for path in shared if path.is_file()), None)

    def image_files(self, name: str) -> dict[str, Path]:
        """Return the images of a frame by camera; an image outside of a camera's folder has the camera ''."""
        found = {"": self._images[name]} if name in self._images else {}
        keys = {camera: f"{camera}/{name}" for camera in self.cameras}
        return found | {camera: self._images[key] for camera, key in keys.items() if key in self._images}

    @property
    def cameras(self) -> list[str]:
        """Names of the folders below `images`."""
        folder = self.root / "images"
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def sweeps(self, name: str) -> list[CloudRecord]:
        """Return the clouds before a frame in its sequence, the newest first; none without timestamp and pose."""
        own = self.records.get(name)
        if own is None or own.timestamp is None or own.pose is None or not self.conventions.sweeps:
            return []
        ordered, end = self._ordered[own.sequence], self._position[name]
        return ordered[max(0, end - self.conventions.sweeps) : end][::-1]

    def _index(self, folder: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
        """Return the files below a folder, by their path in it without the suffix."""
        found: dict[str, Path] = {}
        top = self.root / folder
        for parent, folders, files in os.walk(top, followlinks=True):
            folders.sort()
            inner = Path(parent).relative_to(top).as_posix()
            for file in sorted(files):
                stem, suffix = os.path.splitext(file)
                if suffix.lower() not in suffixes or file.startswith("."):
                    continue
                name = stem if inner == "." else f"{inner}/{stem}"
                if name in found:
                    raise InputError(
                        f"{top}: {found[name].name} and {file} are two files of {name!r}; keep one of them"
                    )
                found[name] = Path(parent, file)
        return found

    def _read_splits(self) -> dict[str, list[str]]:
        folder = next((self.root / name for name in ("splits", "ImageSets") if (self.root / name).is_dir()), None)
        files = sorted(folder.glob("*.txt")) if folder is not None else []
        if not files:
            raise InputError(f"{self.root / 'splits'}: holds no list of frames (train.txt, val.txt); {LAYOUT}")
        splits: dict[str, list[str]] = {}
        for path in files:
            names = [line.strip() for line in read_lines(path) if line.strip()]
            for number, name in enumerate(names, 1):
                if name not in self.clouds:
                    raise InputError(
                        f"{path} line {number}: names frame {name!r}, but there is no cloud of it in "
                        f"{self.root / 'points'}{_near(name, self.clouds)}"
                    )
                if path.stem not in UNLABELLED and name not in self._labels:
                    raise InputError(
                        f"{path} line {number}: frame {name!r} has no {self.root / 'labels' / name}.json or .txt; a "
                        "frame without objects has an empty list, and only test.txt may name frames without labels"
                    )
            splits[path.stem] = unique_frames(names, path)
        warn_of_shared_frames(splits, files[0].parent)
        return splits

    def _read_records(self) -> dict[str, CloudRecord]:
        path = self.root / "frames.jsonl"
        self._ordered: dict[str, list[CloudRecord]] = defaultdict(list)
        records: dict[str, CloudRecord] = {}
        for number, line in enumerate(read_lines(path) if path.is_file() else (), 1):
            if not line.strip():
                continue
            try:
                record = self._parse_record(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"has no {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
                raise InputError(f"{path} line {number}: {what}") from None
            if record.name not in self.clouds:
                raise InputError(f"{path} line {number}: there is no cloud {record.name!r} in {self.root / 'points'}")
            records[record.name] = record
        for record in records.values():
            if record.timestamp is not None and record.pose is not None:
                self._ordered[record.sequence].append(record)
        for ordered in self._ordered.values():
            ordered.sort(key=lambda record: record.timestamp or 0.0)
        self._position = {one.name: i for ordered in self._ordered.values() for i, one in enumerate(ordered)}
        return records

    def _parse_record(self, line: str) -> CloudRecord:
        given = json.loads(line)
        pose = None
        if given.get("pose") is not None:
            pose = parse_pose(given["pose"])
            if self.conventions.lidar2ego is not None:
                pose = pose @ np.array(self.conventions.lidar2ego, dtype=np.float64)
            pose = self.conventions.convert_pose(pose)
        time = given.get("timestamp")
        seconds = None if time is None else float(time) * self.conventions.time_s
        return CloudRecord(str(given["name"]), seconds, pose, str(given.get("sequence", "")))


def _near(name: str, names: Mapping[str, Path]) -> str:
    return nearest_or_all(name, names) if len(names) < 2000 else ""


def parse_pose(given: npt.ArrayLike | Mapping[str, Sequence[float]]) -> Floats:
    """Return a pose, given as 4 rows of 4 numbers or as {"rotation": [w, x, y, z], "translation": [x, y, z]}.

    Raises:
        ValueError: It is neither, or holds a number that is not finite.
    """
    if isinstance(given, Mapping):
        pose = quaternion_to_matrix(given["rotation"], given["translation"])
    else:
        pose = np.array(given, dtype=np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise ValueError('a pose is 4 rows of 4 numbers, or {"rotation": [w, x, y, z], "translation": [x, y, z]}')
    if not np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-3):
        raise ValueError("the upper left 3 x 3 numbers of a pose must be a rotation")
    return pose


def read_cameras(path: Path, conventions: Conventions) -> dict[str, Camera]:
    """Read a calibration: JSON with `cam2img` (3 x 3 or larger) and `lidar2cam` (4 x 4) by camera, or KITTI's text.

    KITTI's is in metres whatever the unit of the folder is; its camera is CAM2.

    Raises:
        InputError: It cannot be read, or a matrix is missing or has another size.
    """
    if path.suffix == ".txt":
        calib = read_calib(path)
        return {"CAM2": Camera(calib.p[2], conventions.convert_lidar_to_camera(calib.lidar2cam, 1.0))}
    content = read_json(path)
    cameras: dict[str, Camera] = {}
    try:
        for name, given in content.items():
            lidar2cam = conventions.convert_lidar_to_camera(parse_pose(given["lidar2cam"]), conventions.length_m)
            cam2img = pad_to_4x4(given["cam2img"])
            if not np.isfinite(cam2img).all():
                raise ValueError("cam2img holds a number that is not finite")
            cameras[str(name)] = Camera(cam2img, lidar2cam)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        what = f"a camera has no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f'{path}: must be {{"CAMERA": {{"cam2img": ..., "lidar2cam": ...}}}} ({what})') from None
    return cameras


def read_objects(path: Path, conventions: Conventions, calib: Path | None = None) -> Objects:
    """Read the labels of a frame; those to ignore are left out.

    Args:
        path: The file: JSON, or text whose lines are KITTI's or `x y z l w h yaw class`.
        conventions: Content of `dataset.json`.
        calib: The frame's calibration, which KITTI's lines need.

    Raises:
        InputError: A label is malformed, of an unknown class, or has a size that is not above 0; file and object are
            named.
    """
    names, boxes, velocities, difficulty, places = parse_labels(path, conventions, calib)
    kept: list[int] = []
    classes: list[str] = []
    for i, name in enumerate(names):
        place = f"{path} {places[i]}"
        known = conventions.class_of
        if name not in known and conventions.entries is not None:
            raise InputError(
                f"{place}: its class {name!r} is unknown to dataset.json{_known_classes(name, conventions)}"
            )
        own = known.get(name, name)
        if own is None:
            continue
        if not np.isfinite(boxes[i]).all():
            raise InputError(f"{place}: position, size and yaw must be finite numbers, got {boxes[i].tolist()}")
        if not (boxes[i, 3:6] > 0).all():
            size = ", ".join(f"{side:g}" for side in boxes[i, 3:6])
            raise InputError(f"{place}: the size (length, width, height) is {size} m; all of it must be above 0")
        kept.append(i)
        classes.append(own)
    return Objects(tuple(classes), boxes[kept], velocities[kept], difficulty[kept])


def _known_classes(name: str, conventions: Conventions) -> str:
    known = [label for label in conventions.class_of if label != "DontCare"]
    return nearest_or_all(name, known).replace("it takes", "it has") + '; what is not to be trained goes to "ignore"'


ParsedLabels = tuple[list[str], Floats, Floats, NDArray[np.int64], list[str]]
"""Names, boxes, velocities, difficulties, and the place of each object in the file."""


def parse_labels(path: Path, conventions: Conventions, calib: Path | None = None) -> ParsedLabels:
    """Parse the labels of a frame as `read_objects` does, and return all of them, whatever their names and numbers are.

    Raises:
        InputError: A label is malformed; file and object are named.
    """
    parse = _parse_json if path.suffix.lower() == ".json" else _parse_text
    return parse(path, conventions, calib)


def _parse_json(path: Path, conventions: Conventions, _calib: Path | None) -> ParsedLabels:
    content = read_json(path)
    given = content.get("objects") if isinstance(content, Mapping) else content
    if not isinstance(given, list):
        raise InputError(f'{path}: must be {{"objects": [...]}}, or the list alone')
    names, rows, velocities, difficulty = list[str](), list[Floats](), list[Floats](), list[int]()
    for number, one in enumerate(given):
        try:
            names.append(str(one["class"]))
            row = np.array([*one["center"], *one["size"], one["yaw"]], dtype=np.float64)
            if row.shape != (7,):
                raise ValueError("center and size must be 3 numbers each, yaw one")
            rows.append(row)
            velocity = np.array(one.get("velocity") or (np.nan, np.nan), dtype=np.float64)
            if velocity.shape not in ((2,), (3,)):
                raise ValueError("velocity must be 2 or 3 numbers")
            velocities.append(np.append(velocity, 0.0)[:3])
            difficulty.append(int(one.get("difficulty", 0)))
        except (KeyError, TypeError, ValueError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
            raise InputError(f"{path} object {number}: {what}; a label has class, center, size and yaw") from None
    boxes = conventions.convert_boxes(np.array(rows).reshape(-1, 7), "center")
    speed = conventions.convert_vectors(np.array(velocities).reshape(-1, 3))
    return names, boxes, speed, np.array(difficulty, dtype=np.int64), [f"object {i}" for i in range(len(names))]


def _parse_text(path: Path, conventions: Conventions, calib: Path | None) -> ParsedLabels:
    lines = [(number, line.split()) for number, line in enumerate(read_lines(path), 1) if line.split()]
    places = [f"line {number}" for number, _ in lines]
    if any(len(words) in _KITTI_FIELDS for _, words in lines):
        if calib is None:
            raise InputError(
                f"{path}: KITTI's labels are in the camera's frame; add calib/{path.stem}.txt or calib.txt"
            )
        labels = read_labels(path)
        camera = next(iter(read_cameras(calib, conventions).values()))
        boxes = camera_to_lidar(labels.boxes, camera.lidar2cam)
        unknown = np.full((len(labels), 2), np.nan)
        return list(labels.names), boxes, unknown, np.maximum(labels.difficulty, 0), places
    rows = []
    for number, words in lines:
        if len(words) != _LINE_FIELDS:
            raise InputError(
                f"{path} line {number}: {len(words)} fields; a label has {_LINE_FIELDS} (x y z l w h yaw class), or "
                "KITTI's 15"
            )
        try:
            rows.append([float(word) for word in words[:7]])
        except ValueError as error:
            raise InputError(f"{path} line {number}: {error}") from None
    boxes = conventions.convert_boxes(np.array(rows, dtype=np.float64).reshape(-1, 7), "bottom")
    names = [words[7] for _, words in lines]
    return names, boxes, np.full((len(names), 2), np.nan), np.zeros(len(names), np.int64), places
