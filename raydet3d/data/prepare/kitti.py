"""Prepare KITTI: info files (v2), point clouds reduced to the camera's view, ground-truth database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from typing_extensions import override

from raydet3d.config import ConfigDict
from raydet3d.data.datasets.kitti_infos import CATEGORIES, make_metainfo
from raydet3d.data.datasets.kitti_io import read_lines
from raydet3d.data.prepare.database import write_database
from raydet3d.data.prepare.job_pool import JobRunner, run_jobs
from raydet3d.data.prepare.journal import Journal
from raydet3d.data.prepare.kitti_frames import (
    DATABASE,
    FrameJob,
    FrameRecord,
    KittiRawFrame,
    describe_problems,
    prepare_frame,
)
from raydet3d.data.prepare.preparers import LAYOUTS, PREPARERS, DataLayout, Split, check_writable, report_unwritable
from raydet3d.data.split_lists import unique_frames, warn_of_shared_frames
from raydet3d.errors import InputError, nearest
from raydet3d.files import locked, write_pickle
from raydet3d.log import get_logger
from raydet3d.progress_bar import ProgressBar

SPLITS = {"train": "training", "val": "training", "trainval": "training", "test": "testing"}
_PARTS = sorted(set(SPLITS.values()))
_JOURNAL_VERSION = "kitti 3"
_LAYOUT = (
    "KITTI's object data is laid out as ROOT/ImageSets/{train,val}.txt and "
    "ROOT/training/{velodyne,label_2,calib,image_2}/000000.*"
)


@PREPARERS.register_module("kitti")
def prepare_kitti(root: Path | str, *, workers: int = 0, runner: JobRunner = run_jobs) -> None:
    """KITTI 3D object detection, or anything in its layout, for each split that has a list in ImageSets.

    It reads

      ROOT/ImageSets/{train,val,trainval,test}.txt   those that exist
      ROOT/training/{velodyne,label_2,calib}         image_2 and planes where they exist
      ROOT/testing/{velodyne,calib}                  for test.txt

    and writes

      ROOT/kitti_infos_*.pkl                         info files
      ROOT/{training,testing}/velodyne_reduced/      point clouds reduced to the camera's view
      ROOT/kitti_dbinfos_train.pkl                   list of the objects of the training split
      ROOT/kitti_gt_database/, kitti_gt_database.bin their points, one file each and all in one

    Finished frames whose files have not changed are not prepared again; no file is ever half-written.

    Args:
        root: The data set's folder.
        workers: Processes to share the frames between; 0 prepares them in this one.
        runner: Runs the frames; on this node by default.

    Raises:
        InputError: Raw data that the LiDAR needs is missing or damaged, or files cannot be written; the message names
            the file.
    """
    root = Path(root)
    splits = _read_splits(root)
    jobs = _plan(root, splits)
    parts = sorted({job.part for job in jobs.values()})
    with report_unwritable(root):
        for folder in (root, root / DATABASE, *(root / part / "velodyne_reduced" for part in parts)):
            check_writable(folder)
        busy = f"{root}: another process is preparing this folder; wait for it or stop it"
        # Without locks (some network file systems), two runs would do the same work twice and do no harm.
        lock = locked(root / ".prepare.lock", timeout_s=0, busy=busy, required=False)
        records: Journal[FrameRecord] = Journal(root / ".prepare.journal", _JOURNAL_VERSION)
        with lock, records as journal:
            todo = [job for job in jobs.values() if not job.is_done(journal.records.get(job.key))]
            with ProgressBar(len(jobs), "kitti frames") as bar:
                bar.skip(len(jobs) - len(todo))
                for job, record in zip(todo, runner(prepare_frame, todo, workers), strict=True):
                    journal.add(job.key, record)
                    bar.step()
            _report(root, [journal.records[key] for key in jobs])
            _write_all(root, splits, journal.records)


@LAYOUTS.register_module("kitti")
class KittiLayout(DataLayout):
    """KITTI's folder. `trainval` is left out where there are train and val, whose frames it repeats."""

    @override
    @classmethod
    def raw_splits(cls, root: Path) -> list[Split]:
        if not (root / "ImageSets").is_dir() or not any((root / part / "velodyne").is_dir() for part in _PARTS):
            return []
        splits = _read_splits(root)
        found = []
        for name, names in splits.items():
            if not _is_repeated(name, splits):
                frames = [KittiRawFrame(root, SPLITS[name], one) for one in names]
                found.append(Split(name, _dataset_cfg(root, name, "velodyne"), frames, CATEGORIES))
        return found

    @override
    @classmethod
    def prepared_splits(cls, root: Path) -> list[Split]:
        found = [name for name in SPLITS if (root / f"kitti_infos_{name}.pkl").is_file()]
        return [
            Split(name, _dataset_cfg(root, name, "velodyne_reduced", ann_file=f"kitti_infos_{name}.pkl"))
            for name in found
            if not _is_repeated(name, found)
        ]


def _dataset_cfg(root: Path, split: str, clouds: str, **more: str) -> ConfigDict:
    prefix = {"pts": f"{SPLITS[split]}/{clouds}"}
    return ConfigDict(type="KittiDataset", data_root=str(root), data_prefix=prefix, **more)


def _is_repeated(split: str, splits: Collection[str]) -> bool:
    return split == "trainval" and {"train", "val"} <= set(splits)


def _read_splits(root: Path) -> dict[str, list[str]]:
    """Return the names of each split's frames, every frame once."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_LAYOUT}")
    lists = {split: root / "ImageSets" / f"{split}.txt" for split in SPLITS}
    existing = {split: path for split, path in lists.items() if path.is_file()}
    if not existing:
        raise InputError(f"{root / 'ImageSets'}: has none of {', '.join(p.name for p in lists.values())}; {_LAYOUT}")
    splits: dict[str, list[str]] = {}
    for split, path in existing.items():
        names = []
        for number, line in enumerate(read_lines(path), 1):
            name = line.strip()
            if not name:
                continue
            if not (name.isascii() and name.isdigit()):
                raise InputError(f"{path} line {number}: {name!r} is not the number of a frame, such as 000134")
            names.append(name)
        splits[split] = unique_frames(names, path)
    warn_of_shared_frames(splits, root / "ImageSets")
    return splits


def _plan(root: Path, splits: dict[str, list[str]]) -> dict[str, FrameJob]:
    """Return the frames to prepare, each once; refuse missing files before any work begins."""
    train = set(splits.get("train", ()))
    jobs: dict[str, FrameJob] = {}
    for split, names in splits.items():
        part = SPLITS[split]
        for name in names:
            job = FrameJob(root, part, name, cut_out=part == "training" and name in train)
            if job.key in jobs:
                continue
            for path in job.inputs().values():
                if not path.parent.is_dir():
                    raise InputError(f"{path.parent}: no such folder, but ImageSets/{split}.txt needs it; {_LAYOUT}")
                if not path.is_file():
                    raise InputError(f"{root / 'ImageSets' / split}.txt names frame {name}, but there is no {path}")
            jobs[job.key] = job
    return jobs


def _report(root: Path, records: list[FrameRecord]) -> None:
    """Log what is wrong with the raw data, one line for each kind."""
    for sentence in describe_problems(records):
        get_logger().warning("%s: %s", root, sentence)
    counts = Counter(name for record in records for name in record["unknown"])
    if counts:
        get_logger().warning(
            "%s: label files hold objects of unknown types, which are left out like DontCare: %s; KITTI's types are %s",
            root / "training" / "label_2",
            ", ".join(f"{count} {name!r}" + _did_you_mean(name) for name, count in counts.most_common()),
            ", ".join(CATEGORIES),
        )


def _did_you_mean(name: str) -> str:
    hint = nearest(name, CATEGORIES)
    return f" ({hint.removeprefix('; ')})" if hint else ""


def _write_all(root: Path, splits: dict[str, list[str]], records: dict[str, FrameRecord]) -> None:
    """Write the database, then the info files."""
    if "train" in splits:
        entries = (entry for name in splits["train"] for entry in records[f"training/{name}"]["objects"])
        counts = write_database(root, DATABASE, root / "kitti_dbinfos_train.pkl", entries)
        listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        get_logger().info("%s: database of %s", root, listed or "no objects")
    metainfo = make_metainfo()
    for split, names in splits.items():
        frames = [records[f"{SPLITS[split]}/{name}"]["info"] for name in names]
        write_pickle(root / f"kitti_infos_{split}.pkl", {"metainfo": metainfo, "data_list": frames})
        get_logger().info("%s: %d frames in kitti_infos_%s.pkl", root, len(frames), split)
