"""Own recordings as somebody else's recorder would write them, made from the generated town.

The axes are x right, y forward, z up; lengths are centimetres, yaws are degrees clockwise from straight ahead, sizes
are width, length, height, times are microseconds, and the classes have German names.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.synthetic.kitti_layout import Frame
from raydet3d.data.synthetic.town_settings import TownSettings

Floats = NDArray[np.float64]

FORMATS = ("pcd", "pcd-ascii", "pcd-compressed", "ply", "ply-ascii", "npy", "bin")
CLASSES = ["car", "pedestrian", "cyclist"]
"""Classes to train, in order."""
RANGE = [0.0, -20.48, -3.0, 40.96, 20.48, 1.0]

NAMES = {"Car": "PKW", "Van": "Transporter", "Truck": "LKW", "Pedestrian": "Fußgänger", "Cyclist": "Radfahrer"}
"""The stranger's names of the town's classes."""
CONVENTIONS: dict[str, Any] = {
    "axes": ["right", "forward", "up"],
    "units": {"length": "cm", "angle": "deg", "time": "us"},
    "yaw": {"zero": "forward", "direction": "clockwise"},
    "size": ["width", "length", "height"],
    "box_origin": "center",
    "columns": ["x", "y", "z", "intensity"],
    "classes": {
        "car": {"labels": ["PKW", "Transporter"], "color": [0, 0, 230], "size": [4.0, 1.7, 1.6]},
        "pedestrian": {"labels": ["Fußgänger"], "color": [220, 20, 60]},
        "cyclist": {"labels": ["Radfahrer"], "color": [255, 127, 80]},
    },
    "ignore": ["LKW"],
}
"""Content of the folder's dataset.json."""

CONFIGS = {
    "pointpillars": "configs/custom/pointpillars_secfpn_custom-3d.py",
    "centerpoint": "configs/custom/centerpoint_pillar_secfpn_custom-3d.py",
}
"""Shipped configs for own recordings."""
SMALL: dict[str, Any] = {
    "point_cloud_range": [0, -10.24, -3, 20.48, 10.24, 1],
    "voxel_size": [0.64, 0.64, 4],
    "channels": 8,
    "batch_size": 2,
    "num_workers": 0,
    "epoch_num": 2,
}
"""Variables of those configs: a small space and few channels, for tests."""

# Rows: the stranger's axes in the town's.
TO_STRANGER = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
CM = 100.0


def write_strange_folder(
    root: Path,
    *,
    train: int = 4,
    val: int = 2,
    sweeps: int = 0,
    formats: tuple[str, ...] = ("pcd",),
    velocities: bool = False,
    seed: int = 0,
    azimuth_step_deg: float = 0.8,
) -> Path:
    """Write clouds, labels, splits and dataset.json; the frames are those of `town_frame`, in order.

    Args:
        root: Folder to make.
        train: Frames of train.txt.
        val: Frames of val.txt, which follow.
        sweeps: Clouds before each frame, with timestamps and poses of a car that drives and turns.
        formats: Formats of the clouds, in turn; some of `FORMATS`.
        velocities: Label a velocity of each object, along its heading.
        seed: The town's seed.
        azimuth_step_deg: Resolution of the LiDAR.
    """
    names = [f"drive{number // 4}/{number:04d}" for number in range(train + val)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(CONVENTIONS, indent=2, ensure_ascii=False), encoding="utf-8")
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / "train.txt").write_text("\n".join(names[:train]) + "\n")
    (root / "splits" / "val.txt").write_text("\n".join(names[train:]) + "\n")
    lines = []
    for number, name in enumerate(names):
        points, objects = town_frame(number, seed, azimuth_step_deg)
        own = formats[number % len(formats)]
        write_cloud(root / "points" / name, to_stranger(points), own)
        labels = root / "labels" / f"{name}.json"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(json.dumps({"objects": [_label(one, velocities) for one in objects]}, ensure_ascii=False))
        for back in range(sweeps, -1, -1):
            pose = town_pose(number, back)
            cloud = f"{name}-{back}" if back else name
            if back:
                moved = points.copy()
                moved[:, :3] = (points[:, :3] @ _turn(-back).T) + [0.5 * back, 0, 0]
                write_cloud(root / "points" / cloud, to_stranger(moved), own)
            time_us = 1_700_000_000_000_000 + number * 10_000_000 - back * 100_000
            lines.append(json.dumps({"name": cloud, "timestamp": time_us, "sequence": f"{number}", "pose": pose}))
    if sweeps:
        (root / "frames.jsonl").write_text("\n".join(lines) + "\n")
    return root


@lru_cache(maxsize=64)
def town_frame(number: int, seed: int = 0, azimuth_step_deg: float = 0.8) -> tuple[NDArray[np.float32], list[Any]]:
    """Return points (N, 4) and labelled things of a frame in raydet3d's frame, those with five points or more."""
    settings = TownSettings(seed=seed, images=False, azimuth_step_deg=azimuth_step_deg)
    frame = Frame(settings, "train", number)
    on = np.bincount(frame.scan.thing[frame.scan.thing >= 0], minlength=len(frame.scene.things))
    x0, y0, x1, y1 = settings.range_m
    things = [
        thing
        for thing, count in zip(frame.scene.things, on, strict=True)
        if thing.label in NAMES and count >= 5 and x0 < thing.center[0] < x1 and y0 < thing.center[1] < y1
    ]
    return frame.scan.points.astype(np.float32), things


def to_stranger(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return points in the stranger's axes and centimetres."""
    out = points.copy()
    out[:, :3] = points[:, :3] @ (TO_STRANGER.T * CM)
    return out


def _turn(steps: float) -> Floats:
    cos, sin = np.cos(0.02 * steps), np.sin(0.02 * steps)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def town_pose(number: int, back: int) -> list[list[float]]:
    """Pose of the recorder at a frame, or so many sweeps before it, in its axes and centimetres.

    A point p of the frame is seen at turn(-back) p + (0.5 back, 0, 0) from the sweep.
    """
    start, sweep = np.eye(4), np.eye(4)
    start[:3, :3], start[:3, 3] = _turn(10 * number), [30.0 * number, 4.0, 1.7]
    # The frame's points from the sweep's: the inverse of the motion above.
    sweep[:3, :3] = _turn(-back).T
    sweep[:3, 3] = -_turn(-back).T @ [0.5 * back, 0, 0]
    pose = start @ sweep
    axes = np.eye(4)
    axes[:3, :3] = TO_STRANGER
    out = axes @ pose @ axes.T
    out[:3, 3] *= CM
    return [[float(value) for value in row] for row in out]


def _label(thing: Any, velocities: bool) -> dict[str, Any]:
    length, width, height = thing.size
    center = TO_STRANGER @ np.add(thing.center, (0, 0, height / 2)) * CM
    label: dict[str, Any] = {
        "class": NAMES[thing.label],
        "center": [round(float(value), 3) for value in center],
        "size": [width * CM, length * CM, height * CM],
        "yaw": round(float(-np.rad2deg(thing.yaw)), 4),
    }
    if velocities:
        speed = TO_STRANGER @ [2 * np.cos(thing.yaw), 2 * np.sin(thing.yaw), 0] * CM
        label["velocity"] = [float(value) for value in speed[:2]]
    return label


def write_cloud(path: Path, points: NDArray[np.float32], form: str) -> Path:
    """Write a cloud of x, y, z, intensity in one of `FORMATS`; the suffix is added to the path."""
    path = path.with_name(f"{path.name}.{form.partition('-')[0]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    points = np.ascontiguousarray(points, dtype="<f4")
    if form == "npy":
        np.save(path, points)
    elif form == "bin":
        points.tofile(path)
    elif form.startswith("ply"):
        kind = "ascii" if form == "ply-ascii" else "binary_little_endian"
        rows = "".join(f"property float {name}\n" for name in ("x", "y", "z", "reflectance"))
        head = f"ply\nformat {kind} 1.0\ncomment a stranger\nelement vertex {len(points)}\n{rows}end_header\n"
        path.write_bytes(head.encode() + (_text(points) if form == "ply-ascii" else points.tobytes()))
    else:
        data = {"pcd": "binary", "pcd-ascii": "ascii", "pcd-compressed": "binary_compressed"}[form]
        head = (
            "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\n"
            f"TYPE F F F F\nCOUNT 1 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
            f"POINTS {len(points)}\nDATA {data}\n"
        )
        body = {"binary": points.tobytes, "ascii": lambda: _text(points), "binary_compressed": lambda: _packed(points)}
        path.write_bytes(head.encode() + body[data]())
    return path


def _text(points: NDArray[np.float32]) -> bytes:
    return "".join(" ".join(repr(float(value)) for value in row) + "\n" for row in points).encode()


def _packed(points: NDArray[np.float32]) -> bytes:
    """Columns one after the other, as LZF literals of at most 32 bytes."""
    raw = np.ascontiguousarray(points.T).tobytes()
    packed = b"".join(bytes([len(raw[i : i + 32]) - 1]) + raw[i : i + 32] for i in range(0, len(raw), 32))
    return np.array([len(packed), len(raw)], "<u4").tobytes() + packed
