"""Prepare own recordings: info files (v2), clouds in raydet3d's frame, ground-truth database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from raydet3d.config import ConfigDict
from raydet3d.data.datasets.custom_conventions import CLOUDS, Conventions
from raydet3d.data.datasets.custom_layout import CustomLayout, parse_labels
from raydet3d.data.prepare.custom_frames import DATABASE, CloudJob, CloudResult, CustomRawFrame, prepare_cloud
from raydet3d.data.prepare.database import write_database
from raydet3d.data.prepare.job_pool import JobRunner, run_jobs
from raydet3d.data.prepare.journal import Journal
from raydet3d.data.prepare.preparers import LAYOUTS, PREPARERS, DataLayout, Split, check_writable, report_unwritable
from raydet3d.errors import InputError
from raydet3d.files import locked, write_pickle
from raydet3d.log import get_logger
from raydet3d.progress_bar import ProgressBar

_JOURNAL_VERSION = "custom 1"


@PREPARERS.register_module("custom")
def prepare_custom(root: Path | str, *, workers: int = 0, runner: JobRunner = run_jobs) -> None:
    """Own recordings, for each list of frames in ROOT/splits; the documentation's page on own data has the details.

    It reads

      ROOT/points/NAME.{bin,npy,pcd,ply}     point clouds
      ROOT/labels/NAME.{json,txt}            labels, as JSON or as KITTI's lines
      ROOT/splits/{train,val,test}.txt       names of the frames
      ROOT/dataset.json                      axes, units, columns and class names, where they differ
      ROOT/frames.jsonl, calib, images       timestamps, poses, calibration, images, where there are some

    and writes

      ROOT/custom_infos_*.pkl                info files
      ROOT/points_prepared/                  clouds with x forward, y left, z up, in metres; not of clouds that are so
      ROOT/custom_dbinfos_train.pkl          list of the objects of the training split
      ROOT/custom_gt_database/, custom_gt_database.bin   their points, one file each and all in one

    Finished frames whose files have not changed are not prepared again; no file is ever half-written.

    Args:
        root: The data set's folder.
        workers: Processes to share the frames between; 0 prepares them in this one.
        runner: Runs the frames; on this node by default.

    Raises:
        InputError: A file is missing or damaged, a label is wrong, or files cannot be written; the message names the
            file.
    """
    layout = CustomLayout(root)
    root = layout.root
    jobs = _plan(layout)
    with report_unwritable(root):
        check_writable(root)
        busy = f"{root}: another process is preparing this folder; wait for it or stop it"
        lock = locked(root / ".prepare.lock", timeout_s=0, busy=busy, required=False)
        results: Journal[CloudResult] = Journal(root / ".prepare.journal", _JOURNAL_VERSION)
        with lock, results as journal:
            todo = [job for job in jobs.values() if not job.is_done(journal.records.get(job.name))]
            with ProgressBar(len(jobs), "custom clouds") as bar:
                bar.skip(len(jobs) - len(todo))
                for job, result in zip(todo, runner(prepare_cloud, todo, workers), strict=True):
                    journal.add(job.name, result)
                    bar.step()
            _write_all(layout, jobs, journal.records)


@LAYOUTS.register_module("custom")
class CustomFolder(DataLayout):
    """A folder of own recordings. Its lists of frames must be right, as for `prepare_custom`."""

    @override
    @classmethod
    def raw_splits(cls, root: Path) -> list[Split]:
        if not (root / "points").is_dir():
            return []
        layout = CustomLayout(root)
        conventions = layout.conventions
        names = list(conventions.entries) if conventions.entries is not None else _labelled_names(layout)
        categories = {name: number for number, name in enumerate(names)}
        count = len(conventions.kept_columns(with_time=False))
        load = {"type": "LoadCustomPointsFromFile", "data_root": str(root), "load_dim": count, "use_dim": count}
        dataset = ConfigDict(type="CustomDataset", data_root=str(root), pipeline=[load])
        return [
            Split(
                split,
                dataset,
                [
                    CustomRawFrame(
                        layout.root,
                        name,
                        layout.clouds[name],
                        layout.label_file(name),
                        layout.calib_file(name),
                        conventions,
                        categories,
                    )
                    for name in frames
                ],
                categories,
            )
            for split, frames in layout.splits.items()
        ]

    @override
    @classmethod
    def prepared_splits(cls, root: Path) -> list[Split]:
        files = {path.stem.removeprefix("custom_infos_"): path for path in sorted(root.glob("custom_infos_*.pkl"))}
        return [
            Split(name, ConfigDict(type="CustomDataset", data_root=str(root), ann_file=path.name))
            for name, path in files.items()
        ]


def _labelled_names(layout: CustomLayout) -> list[str]:
    """Return the classes of all label files that can be read, sorted."""
    found: set[str | None] = set()
    for name in dict.fromkeys(name for frames in layout.splits.values() for name in frames):
        label = layout.label_file(name)
        if label is not None:
            with suppress(InputError):
                names, *_ = parse_labels(label, layout.conventions, layout.calib_file(name))
                found.update(layout.conventions.class_of.get(one, one) for one in names)
    return sorted(name for name in found if name is not None)


def _plan(layout: CustomLayout) -> dict[str, CloudJob]:
    """Return the clouds to prepare, each once: the frames of the splits, and the sweeps before them."""
    frames = dict.fromkeys(name for names in layout.splits.values() for name in names)
    train = set(layout.splits.get("train", ()))
    sweeps = {name: layout.sweeps(name) for name in frames}
    features = layout.conventions.kept_columns(with_time=any(sweeps.values()))
    names = dict.fromkeys([*frames, *(sweep.name for found in sweeps.values() for sweep in found)])
    return {
        name: CloudJob(
            root=layout.root,
            name=name,
            path=layout.clouds[name],
            conventions=layout.conventions,
            features=features,
            is_frame=name in frames,
            cut_out=name in train,
            record=layout.records.get(name),
            sweeps=tuple((sweep, layout.clouds[sweep.name]) for sweep in sweeps.get(name, ())),
            label=layout.label_file(name) if name in frames else None,
            calib=layout.calib_file(name) if name in frames else None,
            images=layout.image_files(name) if name in frames else {},
        )
        for name in names
    }


def _write_all(layout: CustomLayout, jobs: Mapping[str, CloudJob], results: Mapping[str, CloudResult]) -> None:
    """Write the database, then the info files."""
    root = layout.root
    classes = layout.conventions.entries
    names = list(classes) if classes is not None else sorted({name for key in jobs for name in results[key]["names"]})
    if not names:
        raise InputError(f"{root / 'labels'}: no object is labelled, so there is nothing to train")
    features = next(iter(jobs.values())).features
    if "train" in layout.splits:
        entries = (entry for name in layout.splits["train"] for entry in results[name]["objects"])
        counts = write_database(root, DATABASE, root / "custom_dbinfos_train.pkl", entries, channels=len(features))
        listed = ", ".join(f"{counts.get(name, 0)} {name}" for name in names)
        get_logger().info("%s: database of %s", root, listed)
    metainfo = _make_metainfo(layout.conventions, names, features, (results[key] for key in jobs))
    for split, frames in layout.splits.items():
        infos = [_finish_info(results[name], names, results) for name in frames]
        write_pickle(root / f"custom_infos_{split}.pkl", {"metainfo": metainfo, "data_list": infos})
        counts = Counter(name for frame in frames for name in results[frame]["names"])
        listed = ", ".join(f"{counts[name]} {name}" for name in names)
        get_logger().info("%s: %d frames in custom_infos_%s.pkl, with %s", root, len(infos), split, listed)
    _report(root, layout, jobs, results)


def _finish_info(result: CloudResult, names: list[str], results: Mapping[str, CloudResult]) -> dict[str, Any]:
    """Return a frame's entry with the numbers of its classes and the paths of its sweeps."""
    info = dict(result["info"] or {})
    if "instances" in info:
        labels = [names.index(name) for name in result["names"]]
        info["instances"] = [
            {**one, "bbox_label": label, "bbox_label_3d": label}
            for one, label in zip(info["instances"], labels, strict=True)
        ]
    if "lidar_sweeps" in info:
        info["lidar_sweeps"] = [
            {**sweep, "lidar_points": {**points, "lidar_path": results[points["lidar_path"]]["cloud"]}}
            for sweep in info["lidar_sweeps"]
            for points in [sweep["lidar_points"]]
        ]
    return info


def _make_metainfo(
    conventions: Conventions, names: list[str], features: tuple[str, ...], results: Iterable[CloudResult]
) -> dict[str, Any]:
    """Return the `metainfo` of the info files: classes, their colours, and typical sizes."""
    entries = conventions.entries or {}
    categories = {name: number for number, name in enumerate(names)}
    boxes: dict[str, list[list[float]]] = {name: [] for name in names}
    for result in results:
        instances = (result["info"] or {}).get("instances", ())
        for name, one in zip(result["names"], instances, strict=True):
            boxes[name].append(one["bbox_3d"][3:6])
    sizes = {name: np.round(np.median(found, axis=0), 2).tolist() for name, found in boxes.items() if found}
    sizes |= {name: list(entry.size) for name, entry in entries.items() if entry.size is not None}
    colors = {name: list(entry.color) for name, entry in entries.items() if entry.color is not None}
    metainfo: dict[str, Any] = {
        "categories": categories,
        "dataset": "custom",
        "info_version": "1.1",
        "features": list(features),
        "sizes": sizes,
    }
    if len(colors) == len(names):
        metainfo["palette"] = [colors[name] for name in names]
    return metainfo


def _report(root: Path, layout: CustomLayout, jobs: Mapping[str, CloudJob], results: Mapping[str, CloudResult]) -> None:
    """Log what may be wrong with the data, one line for each kind."""
    total = sum(len(results[name]["names"]) for name in jobs)
    empty = sum(
        one["num_lidar_pts"] == 0 for name in jobs for one in (results[name]["info"] or {}).get("instances", ())
    )
    if empty:
        where = " (most of them: check axes, units and yaw in dataset.json)" if empty > total / 2 else ""
        get_logger().warning("%s: %d of %d labelled boxes hold no point%s", root, empty, total, where)
    if layout.records and not any(job.sweeps for job in jobs.values()) and layout.conventions.sweeps:
        get_logger().warning("%s: no frame has sweeps: they need timestamp and pose in frames.jsonl", root)
    copies = sum(results[name]["cloud"].startswith(f"{CLOUDS}/") for name in jobs)
    if copies:
        get_logger().info("%s: %d clouds were copied to %s with %s", root, copies, CLOUDS, _columns(jobs))


def _columns(jobs: Mapping[str, CloudJob]) -> str:
    return ", ".join(next(iter(jobs.values())).features)
