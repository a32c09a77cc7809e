"""Write frames into a folder in the layout of `raydet3d.data.prepare custom`.

A converter from another format looks like this:

```python
from raydet3d.data.convert import CustomLayoutWriter

with CustomLayoutWriter("data/mine") as out:
    for frame in my_frames():
        out.add(
            frame.name,                # "drive_7/000123"
            frame.points,              # (N, 4) x, y, z, intensity: x forward, y left, z up, metres
            objects=[
                {"class": box.label, "center": box.center, "size": box.length_width_height, "yaw": box.yaw}
                for box in frame.boxes
            ],
            split="train",
        )
```
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, Self, TypedDict

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from raydet3d.config import ConfigValue
from raydet3d.data.datasets.custom_conventions import FILE
from raydet3d.data.point_cloud_file import COLUMNS
from raydet3d.errors import InputError
from raydet3d.files import write_atomic
from raydet3d.registry import Registry

CONVERTERS = Registry("layout to convert", home="raydet3d.data.convert")
"""Functions `convert(source, root, *, val=(), ...)` by the name that the command takes."""

# `class` is a keyword of Python.
ObjectLabel = TypedDict(
    "ObjectLabel",
    {
        "class": str,
        "center": Sequence[float],
        "size": Sequence[float],
        "yaw": float,
        "velocity": NotRequired[Sequence[float] | None],
        "id": NotRequired[str],
    },
)
"""A labelled object, as a JSON label has it: centre of the box; length, width, height; yaw; vx, vy; track."""


class CameraLabel(TypedDict):
    """Calibration of a camera: (3, 3) `cam2img`, and (4, 4) `lidar2cam` to x right, y down, z front."""

    cam2img: npt.ArrayLike
    lidar2cam: npt.ArrayLike


class CustomLayoutWriter:
    """Writes clouds, labels, splits and `frames.jsonl` of a folder of own recordings; use it in a `with` block.

    Points, boxes and poses are in raydet3d's frame (x forward, y left, z up; metres, radians, seconds; boxes by their
    centre), unless `conventions` says otherwise.

    Args:
        root: Folder to make; it may exist, but must not hold clouds.
        columns: Names of the columns of the points.
        conventions: Content of `dataset.json`; by default the columns and the classes that were added.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        columns: Sequence[str] = COLUMNS,
        conventions: Mapping[str, ConfigValue] | None = None,
    ) -> None:
        self.root = Path(root)
        if (self.root / "points").exists():
            raise InputError(f"{self.root / 'points'}: exists already; convert into a new folder")
        self.columns = list(columns)
        self.conventions = conventions
        self.splits: dict[str, list[str]] = {}
        self.classes: set[str] = set()
        self._records: list[str] = []

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def add(
        self,
        name: str,
        points: NDArray[np.floating] | Path,
        *,
        objects: Sequence[ObjectLabel] | None = None,
        split: str | None = None,
        timestamp: float | None = None,
        pose: npt.ArrayLike | None = None,
        sequence: str = "",
        cameras: Mapping[str, CameraLabel] | None = None,
        images: Mapping[str, Path] | None = None,
    ) -> None:
        """Add a cloud: a frame where it has a split, else a sweep between frames.

        Args:
            name: Its name, which may have folders ("drive_7/000123").
            points: (N, C) points, or a file of them to link.
            objects: Its labels; an empty list if there is no object, None if nobody has labelled it.
            split: "train", "val" or "test".
            timestamp: Seconds.
            pose: (4, 4) of the LiDAR in a fixed frame.
            sequence: Clouds of one sequence follow each other in time.
            cameras: Calibration by camera.
            images: Image files by camera, to link.
        """
        if isinstance(points, Path):
            _link(points, self.root / "points" / f"{name}{points.suffix}")
        else:
            table = np.ascontiguousarray(points, dtype="<f4")
            if table.ndim != 2 or table.shape[1] != len(self.columns):
                shape = "x".join(map(str, table.shape))
                raise InputError(f"{name}: points of shape {shape}; their columns are {', '.join(self.columns)}")
            self._write(f"points/{name}.bin", table.tobytes())
        if objects is not None:
            self.classes |= {one["class"] for one in objects}
            self._write(f"labels/{name}.json", json.dumps({"objects": [*map(_plain, objects)]}, ensure_ascii=False))
        if split is not None:
            self.splits.setdefault(split, []).append(name)
        if timestamp is not None or pose is not None:
            record = {"name": name, "sequence": sequence, "timestamp": timestamp}
            rows = None if pose is None else np.asarray(pose, dtype=np.float64).tolist()
            self._records.append(json.dumps({**record, "pose": rows}))
        if cameras:
            given = {
                key: {part: np.asarray(matrix).tolist() for part, matrix in one.items()} for key, one in cameras.items()
            }
            self._write(f"calib/{name}.json", json.dumps(given))
        for camera, path in (images or {}).items():
            _link(path, self.root / "images" / camera / f"{name}{path.suffix}")

    def close(self) -> None:
        """Write the splits, `frames.jsonl` and `dataset.json`."""
        for split, names in self.splits.items():
            self._write(f"splits/{split}.txt", "".join(f"{name}\n" for name in names))
        if self._records:
            self._write("frames.jsonl", "".join(f"{line}\n" for line in self._records))
        known = {"columns": self.columns, "classes": {name: {"labels": []} for name in sorted(self.classes)}}
        content = known if self.conventions is None else dict(self.conventions)
        self._write(FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _write(self, name: str, content: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.encode() if isinstance(content, str) else content)


def _plain(label: ObjectLabel) -> dict[str, Any]:
    """Return a label as JSON has it; arrays become lists, what is not known is left out."""
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in label.items()}
    return {key: value for key, value in plain.items() if value is not None}


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the file system has no links to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise InputError(f"{source}: no such file") from None
    except OSError:
        shutil.copyfile(source, target)


def split_sequences(names: Sequence[str], val: Sequence[str] = ()) -> dict[str, str]:
    """Return "train" or "val" for each sequence: those that are named are for validation, else every fifth.

    Args:
        names: The sequences, in order; of a single one, nothing is kept for validation.
        val: Sequences to validate on.

    Raises:
        InputError: `val` names a sequence that is not there.
    """
    for name in val:
        if name not in names:
            raise InputError(f"--val: there is no sequence {name!r}; there are {', '.join(names[:20])}")
    chosen = set(val or names[1::5])
    return {name: "val" if name in chosen else "train" for name in names}
