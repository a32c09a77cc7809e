"""Prepare nuScenes: info files (v2) and the ground-truth database, straight from its JSON tables."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from raydet3d.config import ConfigDict
from raydet3d.data.datasets.nuscenes_categories import CAMERAS, NUSCENES_CATEGORIES, SPLITS, split_scenes
from raydet3d.data.datasets.nuscenes_infos import make_metainfo
from raydet3d.data.datasets.nuscenes_tables import AnnotationTables, Record, Table
from raydet3d.data.prepare.database import write_database
from raydet3d.data.prepare.job_pool import JobRunner, run_jobs
from raydet3d.data.prepare.nuscenes_frames import (
    CHANNELS,
    DATABASE,
    MAX_SWEEPS,
    Annotation,
    FrameJob,
    NuScenesRawFrame,
    SceneJob,
    SceneRecord,
    SensorRecord,
    check_annotation,
    prepare_scene,
)
from raydet3d.data.prepare.preparers import LAYOUTS, PREPARERS, DataLayout, Split, check_writable, report_unwritable
from raydet3d.errors import InputError, nearest
from raydet3d.files import locked, write_atomic, write_pickle
from raydet3d.info_file import read_plain_pickle
from raydet3d.log import get_logger
from raydet3d.progress_bar import ProgressBar

_RESULTS = "nuscenes 1"  # increased whenever the same tables give other results
_INFO_FILES = {"train": "train", "val": "val", "mini_train": "train", "mini_val": "val", "test": "test"}


@PREPARERS.register_module("nuscenes")
def prepare_nuscenes(
    root: Path | str,
    *,
    workers: int = 0,
    version: str = "v1.0-trainval",
    runner: JobRunner = run_jobs,
) -> None:
    """nuScenes, or anything in its layout, for the version that --version names (v1.0-trainval by default).

    It reads

      ROOT/VERSION/*.json                      the tables
      ROOT/VERSION/splits.json                 scenes of `train` and `val`, for data with scenes of its own
      ROOT/{samples,sweeps}/LIDAR_TOP/         point clouds; images are not read

    and writes

      ROOT/nuscenes_infos_{train,val}.pkl      info files; nuscenes_infos_test.pkl of v1.0-test
      ROOT/nuscenes_dbinfos_train.pkl          list of the objects of the training split
      ROOT/nuscenes_gt_database/, nuscenes_gt_database.bin   their points, one file each and all in one

    Scenes whose first point cloud is missing (another part of the download) are left out. Finished scenes whose tables
    have not changed are not prepared again; no file is ever half-written.

    Args:
        root: The data set's folder.
        workers: Processes to share the scenes between; 0 prepares them in this one.
        version: Version of the data.
        runner: Runs the scenes; on this node by default.

    Raises:
        InputError: Tables are missing or do not belong together, a point cloud is missing or damaged, or files cannot
            be written; the message names the file.
    """
    root = Path(root)
    if version not in SPLITS:
        raise InputError(f"--version is {version!r}{nearest(version, SPLITS)}; nuScenes has {', '.join(SPLITS)}")
    if not (root / version).is_dir():
        there = [name for name in SPLITS if (root / name).is_dir()]
        hint = f"there is {', '.join(there)}" if there else "nuScenes is laid out as ROOT/{samples,sweeps,v1.0-...}"
        raise InputError(f"{root / version}: no such folder of tables; {hint}")
    with report_unwritable(root):
        check_writable(root)
        busy = f"{root}: another process is preparing this folder; wait for it or stop it"
        with locked(root / ".prepare.lock", timeout_s=0, busy=busy, required=False):
            _prepare(root, version, workers, runner)


@LAYOUTS.register_module("nuscenes")
class NuScenesLayout(DataLayout):
    """nuScenes' folder; of several versions in it, the first that has tables.

    Tables that lack a record, a file or a number are refused as a whole, as `prepare_nuscenes` refuses them.
    """

    @override
    @classmethod
    def raw_splits(cls, root: Path) -> list[Split]:
        version = next((name for name in SPLITS if (root / name / "sample_data.json").is_file()), None)
        if version is None:
            return []
        tables = _SceneTables(root, version)
        frames: dict[str, list[NuScenesRawFrame]] = {split: [] for split in SPLITS[version]}
        for scene in tables.plan():
            found = [NuScenesRawFrame(root / version, frame) for frame in scene.frames]
            frames[tables.split_of[scene.name]] += found
        categories = {name: number for number, name in enumerate(NUSCENES_CATEGORIES)}
        return [Split(_INFO_FILES[name], _dataset_cfg(root), own, categories) for name, own in frames.items() if own]

    @override
    @classmethod
    def prepared_splits(cls, root: Path) -> list[Split]:
        files = {name: f"nuscenes_infos_{name}.pkl" for name in dict.fromkeys(_INFO_FILES.values())}
        return [
            Split(name, _dataset_cfg(root, ann_file=file)) for name, file in files.items() if (root / file).is_file()
        ]


def _dataset_cfg(root: Path, **more: str) -> ConfigDict:
    prefix = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP"}
    return ConfigDict(type="NuScenesDataset", data_root=str(root), data_prefix=prefix, **more)


def _prepare(root: Path, version: str, workers: int, runner: JobRunner) -> None:
    tables = _SceneTables(root, version)
    jobs = tables.plan()
    done_file = root / f".prepare.{version}.json"
    digest = hashlib.sha256("".join(job.result.name for job in jobs).encode()).hexdigest()
    outputs = {split: root / f"nuscenes_infos_{_INFO_FILES[split]}.pkl" for split in SPLITS[version]}
    database = root / "nuscenes_dbinfos_train.pkl"
    wanted = [*outputs.values(), *([database] if any(job.cut_out for job in jobs) else [])]
    if _is_done(done_file, digest, wanted):
        get_logger().info("%s: %s is prepared already", root, version)
        return
    # What another version left is replaced: it has the same names.
    for other in SPLITS:
        with suppress(FileNotFoundError, IsADirectoryError):
            (root / f".prepare.{other}.json").unlink()
    for folder in {job.result.parent for job in jobs} | {root / DATABASE for job in jobs if job.cut_out}:
        check_writable(folder)
    todo = [job for job in jobs if _read_record(job.result) is None]
    with ProgressBar(len(jobs), "nuscenes scenes") as bar:
        bar.skip(len(jobs) - len(todo))
        for _ in runner(prepare_scene, todo, workers):
            bar.step()
    records: dict[str, SceneRecord] = {}
    for job in jobs:
        found = _read_record(job.result)
        if found is None:
            raise InputError(f"{job.result}: cannot be read although it was written just now; the same command goes on")
        records[job.name] = found
    if any(job.cut_out for job in jobs):
        _write_database(root, database, [records[job.name] for job in jobs if job.cut_out])
    for split, path in outputs.items():
        own = [records[job.name] for job in jobs if tables.split_of[job.name] == split]
        infos = sorted((info for record in own for info in record["infos"]), key=lambda info: int(info["sample_idx"]))
        others = sorted({name for record in own for name in record["others"]})
        write_pickle(path, {"metainfo": make_metainfo(version, others), "data_list": infos})
        get_logger().info("%s: %d frames of %d scenes in %s", root, len(infos), len(own), path.name)
    files = {path.name: path.stat().st_size for path in wanted}
    write_atomic(done_file, json.dumps({"digest": digest, "files": files}).encode())
    for folder in {job.result.parent for job in jobs}:
        shutil.rmtree(folder, ignore_errors=True)


def _is_done(path: Path, digest: str, outputs: Sequence[Path]) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sizes = {output.name: output.stat().st_size for output in outputs}
    except (OSError, ValueError):
        return False
    return bool(found == {"digest": digest, "files": sizes})


def _read_record(path: Path) -> SceneRecord | None:
    """Return the result of a scene; None where there is none, or a damaged one."""
    try:
        record: SceneRecord = read_plain_pickle(zlib.decompress(path.read_bytes()))
    except (OSError, zlib.error, InputError):
        return None
    return record


def _write_database(root: Path, path: Path, records: Sequence[SceneRecord]) -> None:
    entries = [entry for record in records for entry in record["objects"]]
    entries.sort(key=lambda entry: (entry["image_idx"], entry["gt_idx"]))
    counts = write_database(root, DATABASE, path, entries, channels=CHANNELS)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    get_logger().info("%s: database of %s", root, listed or "no objects")


@dataclass(frozen=True)
class _Clouds:
    """LiDAR sweeps of a scene by token, and the keyframes' sensor files by sample and channel."""

    lidar: dict[str, Record]
    keyframe: dict[str, dict[str, Record]]


class _SceneTables:
    """The tables of a version, as far as the preparation needs them.

    Args:
        root: The data set's folder.
        version: Version of the data.
    """

    def __init__(self, root: Path, version: str) -> None:
        folder = root / version
        self.root = root
        self.version = version
        self.scene = Table(folder, "scene")
        self.annotations = AnnotationTables(folder)
        self.sensor = Table(folder, "sensor")
        self.calibration = Table(folder, "calibrated_sensor")
        self.channel: dict[str, str] = {}
        for record in self.calibration:
            found = self.sensor.follow(self.calibration, record, "sensor_token")
            self.channel[record["token"]] = self.sensor.value(found, "channel")
        # A whole release has 2.6 million files, of which a sixth is needed.
        self.data = Table(folder, "sample_data", self._is_needed)
        poses = {record["ego_pose_token"] for record in self.data}
        self.pose = Table(folder, "ego_pose", lambda record: record["token"] in poses)
        self.masks: dict[str, str] = {}
        if (folder / "lidarseg.json").is_file():
            masks = Table(folder, "lidarseg")
            self.masks = {record["sample_data_token"]: record["filename"] for record in masks}
        self.split_of = self._read_splits(folder)

    def _is_needed(self, record: Record) -> bool:
        channel = self.channel.get(record["calibrated_sensor_token"])
        # One whose calibration is missing is kept, so that `follow` names it.
        return channel is None or channel == "LIDAR_TOP" or (channel in CAMERAS and bool(record["is_key_frame"]))

    def _read_splits(self, folder: Path) -> dict[str, str]:
        """Return the split of each scene: by `splits.json` where there is one, else the official one."""
        official = {name: split for split in SPLITS[self.version] for name in split_scenes(split)}
        path = folder / "splits.json"
        if path.is_file():
            try:
                given = json.loads(path.read_text(encoding="utf-8-sig"))
                by_file = {_INFO_FILES[split]: split for split in SPLITS[self.version]}
                official |= {str(name): by_file[key] for key in by_file for name in given.get(key, ())}
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise InputError(
                    f'{path}: must be {{"train": [scene names], "val": [scene names]}} ({error})'
                ) from None
        names = [self.scene.value(record, "name") for record in self.scene]
        unknown = [name for name in names if name not in official]
        if unknown:
            raise InputError(
                f"{self.scene.path}: {len(unknown)} scenes are in no split of {self.version} (first: {unknown[0]!r}); "
                f'list scenes of your own in {path}: {{"train": [...], "val": [...]}}'
            )
        return {name: official[name] for name in names}

    def plan(self) -> list[SceneJob]:
        """Return the scenes to prepare; refuse missing files before any work begins."""
        samples: dict[str, list[Record]] = defaultdict(list)
        for sample in self.annotations.sample:
            samples[self.scene.follow(self.annotations.sample, sample, "scene_token")["token"]].append(sample)
        clouds = self._clouds_by_scene()
        present: list[Record] = []
        absent: list[Record] = []
        for scene in self.scene:
            (present if self._has_clouds(samples[scene["token"]], clouds) else absent).append(scene)
        if absent:
            first = f"{len(absent)} of {len(self.scene)} scenes have no point clouds (first: {absent[0]['name']})"
            if not present:
                raise InputError(f"{self.root / 'samples' / 'LIDAR_TOP'}: {first}; download the LiDAR blobs")
            get_logger().warning("%s: %s and are left out", self.root, first)
        number = self._number_samples({scene["token"]: self.split_of[scene["name"]] for scene in present})
        return [self._plan_scene(scene, samples[scene["token"]], clouds, number) for scene in present]

    def _number_samples(self, split_of_scene: dict[str, str]) -> dict[str, int]:
        """Return each sample's number in its split, in the order of the table."""
        number: dict[str, int] = {}
        count: dict[str, int] = defaultdict(int)
        for sample in self.annotations.sample:
            split = split_of_scene.get(sample["scene_token"])
            if split is not None:
                number[sample["token"]] = count[split]
                count[split] += 1
        return number

    def _clouds_by_scene(self) -> _Clouds:
        lidar: dict[str, Record] = {}
        keyframe: dict[str, dict[str, Record]] = defaultdict(dict)
        for record in self.data:
            calibration = self.calibration.follow(self.data, record, "calibrated_sensor_token")
            channel = self.channel[calibration["token"]]
            if channel == "LIDAR_TOP":
                lidar[record["token"]] = record
            if record["is_key_frame"]:
                self.annotations.sample.follow(self.data, record, "sample_token")
                keyframe[record["sample_token"]][channel] = record
        return _Clouds(lidar, keyframe)

    def _has_clouds(self, samples: Sequence[Record], clouds: _Clouds) -> bool:
        first = clouds.keyframe.get(samples[0]["token"], {}).get("LIDAR_TOP") if samples else None
        return first is not None and (self.root / first["filename"]).is_file()

    def _plan_scene(
        self, scene: Record, samples: Sequence[Record], clouds: _Clouds, number: dict[str, int]
    ) -> SceneJob:
        frames = tuple(self._plan_frame(sample, clouds, number[sample["token"]]) for sample in samples)
        cut_out = _INFO_FILES[self.split_of[scene["name"]]] == "train"
        digest = hashlib.sha256(pickle.dumps((_RESULTS, frames, cut_out))).hexdigest()[:16]
        result = self.root / f".prepare.{self.version}" / f"{scene['name']}-{digest}.pkl"
        return SceneJob(self.root, scene["name"], frames, cut_out, result)

    def _plan_frame(self, sample: Record, clouds: _Clouds, number: int) -> FrameJob:
        sensors = clouds.keyframe.get(sample["token"], {})
        if "LIDAR_TOP" not in sensors:
            raise InputError(f"{self.data.path}: sample {sample['token']} has no keyframe of LIDAR_TOP")
        key = sensors["LIDAR_TOP"]
        sweeps: list[Record] = []
        sweep = key
        while len(sweeps) < MAX_SWEEPS and sweep["prev"] != "":
            sweep = self.data.follow(self.data, sweep, "prev")
            sweeps.append(sweep)
        for record in (key, *sweeps):
            if not (self.root / record["filename"]).is_file():
                raise InputError(
                    f"{self.root / record['filename']}: no such point cloud, but frame {sample['token']} needs it "
                    f"({self.data.path.name}: record {record['token']})"
                )
        annotations = None if _INFO_FILES[SPLITS[self.version][0]] == "test" else tuple(self._annotations(sample))
        return FrameJob(
            sample_idx=number,
            token=sample["token"],
            timestamp=sample["timestamp"],
            lidar=self._sensor(key),
            sweeps=tuple(self._sensor(record) for record in sweeps),
            cameras={name: self._sensor(sensors[name]) for name in CAMERAS if name in sensors},
            annotations=annotations,
            mask_file=self.masks.get(key["token"], ""),
        )

    def _sensor(self, record: Record) -> SensorRecord:
        pose = self.pose.follow(self.data, record, "ego_pose_token")
        calibration = self.calibration.follow(self.data, record, "calibrated_sensor_token")
        return SensorRecord(
            token=record["token"],
            timestamp=record["timestamp"],
            file=record["filename"],
            ego_rotation=self.pose.value(pose, "rotation"),
            ego_translation=self.pose.value(pose, "translation"),
            sensor_rotation=self.calibration.value(calibration, "rotation"),
            sensor_translation=self.calibration.value(calibration, "translation"),
            intrinsic=calibration.get("camera_intrinsic") or [],
        )

    def _annotations(self, sample: Record) -> Iterator[Annotation]:
        tables = self.annotations

        def field(record: Record, key: str) -> Any:
            return tables.annotation.value(record, key)

        for record in tables.of_sample.get(sample["token"], ()):
            one = Annotation(
                category=tables.category_name(record),
                attribute=tables.attribute_name(record),
                translation=field(record, "translation"),
                size=field(record, "size"),
                rotation=field(record, "rotation"),
                velocity=tables.velocity(record),
                num_lidar_pts=field(record, "num_lidar_pts"),
                num_radar_pts=field(record, "num_radar_pts"),
            )
            check_annotation(one, f"{tables.annotation.path}: record {record['token']}")
            yield one
