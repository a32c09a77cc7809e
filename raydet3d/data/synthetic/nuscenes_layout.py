"""Write a town in nuScenes' layout: samples, sweeps, maps and the JSON tables of a v1.0-mini.

A scene is drawn from generators seeded by (seed, number of the scene) alone, so the files are the same whatever the
number of processes. Scenes have the names of the official mini split; each is a street of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raydet3d.data.datasets.nuscenes_categories import ATTRIBUTES, CAMERAS, split_scenes
from raydet3d.data.synthetic.forked_pool import run_forked
from raydet3d.data.synthetic.nuscenes_lidar import HEIGHT_M, MAX_RANGE_M, sweep
from raydet3d.data.synthetic.nuscenes_street import CATEGORY, Actor, StreetScene, make_street
from raydet3d.data.synthetic.nuscenes_town_settings import NuScenesTownSettings
from raydet3d.data.synthetic.ray_casting import Solids
from raydet3d.data.synthetic.shapes import Thing
from raydet3d.ops.points import box_corners
from raydet3d.ops.rigid_transforms import invert, multiply, quaternion_to_matrix

Floats = NDArray[np.float64]
Record = dict[str, Any]
Tables = dict[str, list[Record]]

VERSION = "v1.0-mini"
SCENES = (*split_scenes("mini_train"), *split_scenes("mini_val"))
SWEEPS_BETWEEN = 9
PERIOD_S = 0.5
IMAGE_SIZE = (1600, 900)

# Rotation (w, x, y, z) and place in the car's frame: x front, y left, z up.
LIDAR_POSE = ((float(np.sqrt(0.5)), 0.0, 0.0, -float(np.sqrt(0.5))), (0.94, 0.0, HEIGHT_M))
CAMERA_YAW_DEG = dict(zip(CAMERAS, (0.0, -55.0, 55.0, 180.0, 110.0, -110.0), strict=True))
CAMERA_PLACE = (1.5, 0.0, 1.5)
_LOOK = np.array([0.5, -0.5, 0.5, -0.5])  # z to the front, x to the right, y down
_SKY, _ROAD = (168, 192, 220), (104, 106, 104)


def write_nuscenes_town(root: Path, settings: NuScenesTownSettings, *, workers: int = 0) -> Iterator[int]:
    """Write all scenes below a folder; yield the number written so far.

    Args:
        root: An existing folder.
        settings: The town.
        workers: Processes to write with; 0 writes in this one.
    """
    for channel in ("LIDAR_TOP", *CAMERAS):
        (root / "samples" / channel).mkdir(parents=True, exist_ok=True)
    (root / "sweeps" / "LIDAR_TOP").mkdir(parents=True, exist_ok=True)
    tables = _common_tables()
    scenes = run_forked(partial(write_scene, root, settings), range(len(SCENES)), workers)
    for done, scene in enumerate(scenes, start=1):
        for name, records in scene.items():
            tables[name] += records
        yield done
    folder = root / VERSION
    folder.mkdir(exist_ok=True)
    for name, records in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(records), encoding="ascii")
    (root / "maps").mkdir(exist_ok=True)
    Image.new("L", (8, 8)).save(root / "maps" / "town.png")


def token(*words: object) -> str:
    """Return the token of something, 32 hexadecimal digits."""
    return hashlib.md5("/".join(map(str, words)).encode(), usedforsecurity=False).hexdigest()


def camera_rotation(channel: str) -> Floats:
    """Return the quaternion of a camera in the car's frame."""
    half = np.deg2rad(CAMERA_YAW_DEG[channel]) / 2
    return multiply(np.array([np.cos(half), 0.0, 0.0, np.sin(half)]), _LOOK)


def intrinsic(channel: str) -> list[list[float]]:
    """Return a camera's matrix; the rear camera has a wider view."""
    focal = 809.0 if channel == "CAM_BACK" else 1260.0
    return [[focal, 0.0, IMAGE_SIZE[0] / 2], [0.0, focal, IMAGE_SIZE[1] / 2], [0.0, 0.0, 1.0]]


def _common_tables() -> Tables:
    """Return the tables that do not depend on the scenes."""
    tables: Tables = defaultdict(list)
    for name in sorted(CATEGORY.values()):
        tables["category"].append({"token": token("category", name), "name": name, "description": ""})
    for name in ATTRIBUTES[:-1]:
        tables["attribute"].append({"token": token("attribute", name), "name": name, "description": ""})
    for number, level in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), start=1):
        tables["visibility"].append({"token": str(number), "level": level, "description": ""})
    for channel in ("LIDAR_TOP", *CAMERAS):
        is_lidar = channel == "LIDAR_TOP"
        modality = "lidar" if is_lidar else "camera"
        tables["sensor"].append({"token": token("sensor", channel), "channel": channel, "modality": modality})
        rotation, place = LIDAR_POSE if is_lidar else (camera_rotation(channel).tolist(), CAMERA_PLACE)
        tables["calibrated_sensor"].append(
            {
                "token": token("calibrated_sensor", channel),
                "sensor_token": token("sensor", channel),
                "translation": list(place),
                "rotation": list(rotation),
                "camera_intrinsic": [] if is_lidar else intrinsic(channel),
            }
        )
    logs = [token("log", name) for name in SCENES]
    tables["map"].append(
        {"token": token("map"), "log_tokens": logs, "category": "semantic_prior", "filename": "maps/town.png"}
    )
    return tables


def write_scene(root: Path, settings: NuScenesTownSettings, number: int) -> Tables:
    """Write a scene's clouds and pictures; return its records."""
    return _SceneWriter(root, settings, number).write()


class _SceneWriter:
    """Drives along a street and records what the sensors see."""

    def __init__(self, root: Path, settings: NuScenesTownSettings, number: int) -> None:
        self.root, self.settings, self.number = root, settings, number
        self.name = SCENES[number]
        self.rng = np.random.default_rng([settings.seed, number])
        self.duration_s = PERIOD_S * (settings.num_keyframes - 1)
        self.street: StreetScene = make_street(self.rng, self.duration_s)
        self.start_us = 1_532_402_927_000_000 + number * 60_000_000
        self.origin = np.array([600.0 + 400.0 * (number % 4), 900.0 + 400.0 * (number // 4), 0.0])
        self.tables: Tables = defaultdict(list)
        self.last: dict[int, Record] = {}  # last annotation of each actor

    def write(self) -> Tables:
        """Write the files; return the records."""
        count = self.settings.num_keyframes
        steps = (count - 1) * (SWEEPS_BETWEEN + 1)
        previous: Record | None = None
        for step in range(steps + 1):
            keyframe, rest = divmod(step, SWEEPS_BETWEEN + 1)
            time_s = PERIOD_S * step / (SWEEPS_BETWEEN + 1)
            # A sweep belongs to the keyframe after it.
            record = self._scan(time_s, keyframe + (rest > 0), is_key=not rest)
            if previous is not None:
                record["prev"], previous["next"] = previous["token"], record["token"]
            previous = record
        self._add_scene(count)
        return dict(self.tables)

    def _add_scene(self, count: int) -> None:
        samples = [self._sample(i) for i in range(count)]
        self.tables["log"].append(
            {
                "token": token("log", self.name),
                "logfile": self.name,
                "vehicle": "town",
                "date_captured": "2018-07-24",
                "location": "town",
            }
        )
        self.tables["scene"].append(
            {
                "token": token("scene", self.name),
                "log_token": token("log", self.name),
                "nbr_samples": count,
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
                "name": self.name,
                "description": "generated",
            }
        )
        for i, own in enumerate(samples):
            self.tables["sample"].append(
                {
                    "token": own,
                    "timestamp": self._timestamp(PERIOD_S * i),
                    "prev": samples[i - 1] if i else "",
                    "next": samples[i + 1] if i + 1 < count else "",
                    "scene_token": token("scene", self.name),
                }
            )

    def _sample(self, keyframe: int) -> str:
        return token("sample", self.name, keyframe)

    def _timestamp(self, time_s: float) -> int:
        return self.start_us + round(time_s * 1e6)

    def _ego_pose(self, time_s: float) -> tuple[list[float], list[float]]:
        x, y, yaw = self.street.course.at(self.street.ego_speed * time_s, 0.0)
        return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))], (self.origin + np.array([x, y, 0])).tolist()

    def _things(self, time_s: float, to_sensor: Floats) -> list[tuple[int, Thing]]:
        """Return the actors near the car, in a sensor's frame."""
        near = []
        for index, actor in enumerate(self.street.actors):
            thing = actor.at(self.street.course, time_s)
            center = to_sensor[:3, :3] @ (np.array(thing.center) + self.origin) + to_sensor[:3, 3]
            if np.hypot(center[0], center[1]) < MAX_RANGE_M + 10:
                yaw = thing.yaw + float(np.arctan2(to_sensor[1, 0], to_sensor[0, 0]))
                moved = Thing(thing.kind, thing.label, tuple(center.tolist()), thing.size, yaw, thing.parts)
                near.append((index, moved))
        return near

    def _scan(self, time_s: float, keyframe: int, *, is_key: bool) -> Record:
        """Write a sweep; with it, of a keyframe, the pictures and annotations."""
        ego = quaternion_to_matrix(*self._ego_pose(time_s))
        to_lidar = invert(ego @ quaternion_to_matrix(*LIDAR_POSE))
        near = self._things(time_s, to_lidar)
        solids = Solids.of([thing for _, thing in near])
        seen = sweep(solids, len(near), self.settings.azimuth_step_deg, self.settings.range_noise_m, self.rng)
        folder = "samples" if is_key else "sweeps"
        file = f"{folder}/LIDAR_TOP/{self.name}__LIDAR_TOP__{self._timestamp(time_s)}.pcd.bin"
        (self.root / file).write_bytes(seen.points.astype("<f4").tobytes())
        if is_key:
            for (index, _), hits, visible in zip(near, seen.hits.tolist(), seen.visible.tolist(), strict=True):
                actor = self.street.actors[index]
                if actor.category and hits:
                    self._annotate(index, actor, time_s, keyframe, hits, visible)
            for channel in CAMERAS:
                self._take_picture(channel, time_s, keyframe)
        return self._add_data("LIDAR_TOP", time_s, keyframe, file, is_key=is_key)

    def _annotate(self, index: int, actor: Actor, time_s: float, keyframe: int, hits: int, visible: float) -> None:
        thing = actor.at(self.street.course, time_s)
        own = token("annotation", self.name, keyframe, index)
        instance = token("instance", self.name, index)
        before = self.last.get(index)
        length, width, height = thing.size
        center = self.origin + thing.center + [0.0, 0.0, height / 2]
        record = {
            "token": own,
            "sample_token": self._sample(keyframe),
            "instance_token": instance,
            "visibility_token": str(1 + int(np.searchsorted([0.4, 0.6, 0.8], visible))),
            "attribute_tokens": [token("attribute", actor.attribute)] if actor.attribute else [],
            "translation": center.tolist(),
            "size": [width, length, height],
            "rotation": [float(np.cos(thing.yaw / 2)), 0.0, 0.0, float(np.sin(thing.yaw / 2))],
            "prev": before["token"] if before is not None else "",
            "next": "",
            "num_lidar_pts": hits,
            "num_radar_pts": 0,
        }
        if before is None:
            self.tables["instance"].append(
                {
                    "token": instance,
                    "category_token": token("category", actor.category),
                    "nbr_annotations": 0,
                    "first_annotation_token": own,
                    "last_annotation_token": own,
                }
            )
        else:
            before["next"] = own
        entry = next(one for one in reversed(self.tables["instance"]) if one["token"] == instance)
        entry["nbr_annotations"] += 1
        entry["last_annotation_token"] = own
        self.last[index] = record
        self.tables["sample_annotation"].append(record)

    def _add_data(self, channel: str, time_s: float, keyframe: int, file: str, *, is_key: bool) -> Record:
        stamp = self._timestamp(time_s)
        own = token("data", self.name, channel, stamp)
        rotation, translation = self._ego_pose(time_s)
        self.tables["ego_pose"].append(
            {"token": own, "timestamp": stamp, "rotation": rotation, "translation": translation}
        )
        is_lidar = channel == "LIDAR_TOP"
        record = {
            "token": own,
            "sample_token": self._sample(keyframe),
            "ego_pose_token": own,
            "calibrated_sensor_token": token("calibrated_sensor", channel),
            "timestamp": stamp,
            "fileformat": "pcd" if is_lidar else "jpg",
            "is_key_frame": is_key,
            "height": 0 if is_lidar else IMAGE_SIZE[1],
            "width": 0 if is_lidar else IMAGE_SIZE[0],
            "filename": file,
            "prev": "",
            "next": "",
        }
        self.tables["sample_data"].append(record)
        return record

    def _take_picture(self, channel: str, time_s: float, keyframe: int) -> None:
        """Write a plain picture: sky, road, and each thing's box, the far ones first."""
        file = f"samples/{channel}/{self.name}__{channel}__{self._timestamp(time_s)}.jpg"
        record = self._add_data(channel, time_s, keyframe, file, is_key=True)
        if keyframe:
            before = token("data", self.name, channel, self._timestamp(time_s - PERIOD_S))
            record["prev"] = before
            next(one for one in reversed(self.tables["sample_data"]) if one["token"] == before)["next"] = record[
                "token"
            ]
        if not self.settings.images:
            return
        picture = Image.new("RGB", IMAGE_SIZE, _SKY)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, IMAGE_SIZE[1] // 2, *IMAGE_SIZE), fill=_ROAD)
        ego = quaternion_to_matrix(*self._ego_pose(time_s))
        camera = ego @ quaternion_to_matrix(camera_rotation(channel).tolist(), CAMERA_PLACE)
        to_camera, matrix = invert(camera), np.array(intrinsic(channel))
        things = [actor.at(self.street.course, time_s) for actor in self.street.actors]
        boxes = np.array([[*(self.origin + t.center), *t.size, t.yaw] for t in things])
        corners = box_corners(boxes) @ to_camera[:3, :3].T + to_camera[:3, 3]  # (K, 8, 3)
        depth = corners[..., 2].mean(1)
        for k in np.argsort(-depth):
            if corners[k, :, 2].min() > 0.5 and depth[k] < MAX_RANGE_M:
                pixels = corners[k] @ matrix.T
                outline = _hull(pixels[:, :2] / pixels[:, 2:])
                draw.polygon(outline, fill=things[k].parts[0].look.color, outline=(40, 40, 44))
        picture.save(self.root / file, quality=60)


def _hull(points: Floats) -> list[tuple[float, float]]:
    """Return the convex hull of points (Andrew's monotone chain), counter-clockwise."""
    ordered = sorted(map(tuple, points.tolist()))

    def chain(run: list[tuple[float, float]]) -> list[tuple[float, float]]:
        out: list[tuple[float, float]] = []
        for point in run:
            while len(out) > 1 and _turn(out[-2], out[-1], point) <= 0:
                out.pop()
            out.append(point)
        return out[:-1]

    return chain(ordered) + chain(ordered[::-1])


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
