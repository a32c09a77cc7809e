"""KITTI's raw layout -> info files (v2), clouds cut down to the camera's view, ground-truth database."""

from __future__ import annotations

import difflib
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from raydet3d.data.prepare.database import write_database
from raydet3d.data.prepare.journal import Journal
from raydet3d.data.prepare.kitti_frames import CATEGORIES, DATABASE, Job, prepare_frame
from raydet3d.data.prepare.progress_bar import Bar
from raydet3d.errors import InputError
from raydet3d.files import locked, write_pickle
from raydet3d.log import get_logger
from raydet3d.worker_process import init_worker_process, stop_signals_blocked

SPLITS = {"train": "training", "val": "training", "trainval": "training", "test": "testing"}
_JOURNAL_VERSION = "kitti 2"
_LAYOUT = (
    "KITTI's object data is laid out as ROOT/ImageSets/{train,val}.txt and "
    "ROOT/training/{velodyne,label_2,calib,image_2}/000000.*"
)


def prepare_kitti(root: Path | str, *, workers: int = 0) -> None:
    """Prepare a folder in KITTI's layout, for each split that has a list in ImageSets.

    Writes `kitti_infos_{split}.pkl`, `{training,testing}/velodyne_reduced/*.bin`, `kitti_dbinfos_train.pkl` and
    `kitti_gt_database/` with `kitti_gt_database.bin`, which holds the same in one file. Frames that are done and
    whose files have not changed are not done again; no file is ever seen half-written.

    Args:
        root: The data set's folder.
        workers: Processes to share the frames between; 0 does them in this one.

    Raises:
        InputError: Something of the raw data is missing or damaged; the message names the file.
    """
    root = Path(root)
    splits = _read_splits(root)
    jobs = _plan(root, splits)
    parts = sorted({job.part for job in jobs.values()})
    for folder in (root / DATABASE, *(root / part / "velodyne_reduced" for part in parts)):
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made ({error.strerror or error}); prepare writes beside the raw data"
            ) from None
    busy = f"{root}: another process is preparing this folder; wait for it or stop it"
    # Without locks (some network file systems), two runs would do the same work twice and do no harm.
    lock = locked(root / ".prepare.lock", timeout_s=0, busy=busy, required=False)
    with lock, Journal(root / ".prepare.journal", _JOURNAL_VERSION) as journal:
        todo = [job for job in jobs.values() if not job.is_done(journal.records.get(job.key))]
        with Bar(len(jobs), "kitti frames") as bar:
            bar.skip(len(jobs) - len(todo))
            for job, record in zip(todo, _work(todo, workers), strict=True):
                journal.add(job.key, record)
                if not record["num_points"]:
                    get_logger().warning("%s: no point in the camera's view", job.inputs()["velodyne"])
                bar.step()
        _warn_of_unknown(root, [journal.records[key] for key in jobs])
        _write_all(root, splits, journal.records)


def _read_splits(root: Path) -> dict[str, list[str]]:
    """Names of the frames of each split."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {_LAYOUT}")
    lists = {split: root / "ImageSets" / f"{split}.txt" for split in SPLITS}
    there = {split: path for split, path in lists.items() if path.is_file()}
    if not there:
        raise InputError(f"{root / 'ImageSets'}: has none of {', '.join(p.name for p in lists.values())}; {_LAYOUT}")
    splits: dict[str, list[str]] = {}
    for split, path in there.items():
        splits[split] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            name = line.strip()
            if not name:
                continue
            if not (name.isascii() and name.isdigit()):
                raise InputError(f"{path} line {number}: {name!r} is not the number of a frame, such as 000134")
            splits[split].append(name)
    return splits


def _plan(root: Path, splits: dict[str, list[str]]) -> dict[str, Job]:
    """The frames to do, each once; refuses what is not there before any work begins."""
    train = set(splits.get("train", ()))
    jobs: dict[str, Job] = {}
    for split, names in splits.items():
        part = SPLITS[split]
        for name in names:
            job = Job(root, part, name, cut_out=part == "training" and name in train)
            if job.key in jobs:
                continue
            for path in job.inputs().values():
                if not path.parent.is_dir():
                    raise InputError(f"{path.parent}: no such folder, but ImageSets/{split}.txt needs it; {_LAYOUT}")
                if not path.is_file():
                    raise InputError(f"{root / 'ImageSets' / split}.txt names frame {name}, but there is no {path}")
            jobs[job.key] = job
    return jobs


def _work(jobs: list[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Records of the jobs, in their order."""
    if workers <= 0 or len(jobs) < 2:
        yield from map(prepare_frame, jobs)
        return
    # Not forked from here: the caller may have threads of its own by now. The server imports torch once for all.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([prepare_frame.__module__])
    with stop_signals_blocked("forkserver"):
        forkserver.ensure_running()  # its forks, the workers, inherit what it blocks
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=init_worker_process)
    try:
        yield from pool.map(prepare_frame, jobs, chunksize=max(1, min(16, len(jobs) // (4 * workers))))
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker process of the preparation was killed (out of memory?); run it again, it goes on where it was"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _warn_of_unknown(root: Path, records: list[dict[str, Any]]) -> None:
    """Say once which types in the label files are none of KITTI's: a slip of the pen would go unnoticed."""
    counts = Counter(name for record in records for name in record["unknown"])
    if not counts:
        return
    parts = []
    for name, count in counts.most_common():
        near = difflib.get_close_matches(name, CATEGORIES, n=1)
        parts.append(f"{count} {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    get_logger().warning(
        "%s: label files hold objects of unknown types, which are left out like DontCare: %s; KITTI's types are %s",
        root / "training" / "label_2",
        ", ".join(parts),
        ", ".join(CATEGORIES),
    )


def _write_all(root: Path, splits: dict[str, list[str]], records: dict[str, dict[str, Any]]) -> None:
    """Write the database, then the info files."""
    if "train" in splits:
        entries = (entry for name in splits["train"] for entry in records[f"training/{name}"]["objects"])
        counts = write_database(root, DATABASE, root / "kitti_dbinfos_train.pkl", entries)
        listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        get_logger().info("%s: database of %s", root, listed or "no objects")
    metainfo = {"categories": CATEGORIES, "dataset": "kitti", "info_version": "1.1"}
    for split, names in splits.items():
        frames = [records[f"{SPLITS[split]}/{name}"]["info"] for name in names]
        write_pickle(root / f"kitti_infos_{split}.pkl", {"metainfo": metainfo, "data_list": frames})
        get_logger().info("%s: %d frames in kitti_infos_%s.pkl", root, len(frames), split)
