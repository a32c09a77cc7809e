"""Predict on files: load, predict, and hand each frame to the sinks, which write its files.

A frame is done when all of its files exist and the JSON files among them can be read. Each is written whole or not at
all, the JSON file last, so that a job that was killed goes on with the frames that are not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raydet3d.compat.fileio import get_local_path
from raydet3d.config import Config, is_uri
from raydet3d.errors import InputError
from raydet3d.runtime.frame_sinks import FrameSink, JsonSink, PictureSink
from raydet3d.runtime.inference import LoadedCloud
from raydet3d.runtime.inferencer import LidarDet3DInferencer
from raydet3d.runtime.kitti_text_sink import KittiTextSink
from raydet3d.runtime.scene_sink import SceneSink

DRAWN_SCORE = 0.3


@dataclass(frozen=True)
class CloudFile:
    """A point cloud to predict on.

    Args:
        path: The file, or its URI.
        name: Where its results go: a path without suffix, relative to the folder of each kind of result.
    """

    path: str
    name: str


@dataclass(frozen=True, kw_only=True)
class InferJob:
    """What to predict with and what to write, as plain data: every process of a job gets it.

    Args:
        cfg: The resolved config.
        checkpoint: The weights.
        out: Folder of the results.
        tta: Whether to predict on the views of `tta_pipeline`.
        score_thr: Least score of a box that is written; None writes all, and draws those of 0.3 and more.
        show_dir: Folder of pictures; None draws none.
        page_dir: Folder of the 3D page; None writes none.
        page_names: Frames on the page.
        kitti: Whether to write KITTI text files.
        calib_dir: Folder of KITTI calibration files, `NAME.txt`.
        batch_size: Clouds in a batch.
        device: Where to predict; a GPU where there is one, by default.
        threads: Torch threads of a process.
        cwd: Folder that relative paths start from.
        modules: Folders of the user's modules.
    """

    cfg: dict[str, Any]
    checkpoint: str
    out: str
    tta: bool = False
    score_thr: float | None = None
    show_dir: str | None = None
    page_dir: str | None = None
    page_names: tuple[str, ...] = ()
    kitti: bool = False
    calib_dir: str | None = None
    batch_size: int = 1
    device: str | None = None
    threads: int | None = None
    cwd: str = "."
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Args:
        path: The file.
        error: Why there is no prediction, in one line; empty where there is one.
    """

    path: str
    error: str = ""


def make_sinks(job: InferJob) -> list[FrameSink]:
    """Return the sinks of a job in the order in which they take a frame; that of the JSON file is the last."""
    sinks: list[FrameSink] = []
    drawn_score = DRAWN_SCORE if job.score_thr is None else job.score_thr
    if job.show_dir is not None:
        sinks.append(PictureSink(job.show_dir, drawn_score))
    if job.page_dir is not None:
        sinks.append(SceneSink(job.page_dir, drawn_score, job.page_names))
    if job.kitti:
        sinks.append(KittiTextSink(job.out, job.calib_dir))
    return [*sinks, JsonSink(job.out)]


def is_done(sinks: Sequence[FrameSink], file: CloudFile) -> bool:
    """Return whether all files of a frame exist and can be used."""
    return all(sink.is_done(file.name) for sink in sinks if sink.wants(file.name))


class FileInferencer:
    """Predicts on files in one process.

    Args:
        job: What to predict with and what to write.
    """

    def __init__(self, job: InferJob) -> None:
        self._job = job
        self._inferencer = LidarDet3DInferencer(Config(job.cfg), job.checkpoint, job.device, tta=job.tta)
        self._sinks = make_sinks(job)

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return list(self._inferencer.dataset_meta["classes"])

    def run(self, files: Sequence[CloudFile]) -> list[Outcome]:
        """Predict on files in batches and write their results.

        A file that cannot be read or predicted on takes no other one of its batch with it.
        """
        size = self._job.batch_size
        batches = [files[start : start + size] for start in range(0, len(files), size)]
        return [outcome for batch in batches for outcome in self._run_batch(batch)]

    def _run_batch(self, files: Sequence[CloudFile]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        loaded: list[tuple[CloudFile, LoadedCloud]] = []
        for file in files:
            if is_done(self._sinks, file):  # a process that died after it is tried again
                outcomes.append(Outcome(file.path))
                continue
            try:
                loaded.append((file, self._load(file.path)))
            except Exception as error:  # noqa: BLE001 - whatever a file makes a transform trip over
                outcomes.append(Outcome(file.path, describe(error)))
        return outcomes + self._predict(loaded)

    def _load(self, path: str) -> LoadedCloud:
        """Load a cloud, of a URI through a copy that is removed again."""
        if not is_uri(path):
            return self._inferencer.pipeline(path)
        with get_local_path(path) as copy:
            try:
                return self._inferencer.pipeline(copy)
            except InputError as error:
                raise InputError(str(error).replace(copy, path)) from None

    def _predict(self, loaded: Sequence[tuple[CloudFile, LoadedCloud]]) -> list[Outcome]:
        if not loaded:
            return []
        try:
            frames = self._inferencer.predict([(file.name, sample) for file, sample in loaded])
            for frame in frames:
                kept = frame.above(self._job.score_thr)
                for sink in [sink for sink in self._sinks if sink.wants(frame.name)]:
                    sink.take(kept, self._inferencer)
        except Exception as error:  # noqa: BLE001 - whatever a cloud makes the model, or a full disk a sink, trip over
            if len(loaded) == 1:
                return [Outcome(loaded[0][0].path, describe(error))]
            return [outcome for one in loaded for outcome in self._predict([one])]
        return [Outcome(file.path) for file, _ in loaded]


def describe(error: Exception) -> str:
    """Describe an error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
