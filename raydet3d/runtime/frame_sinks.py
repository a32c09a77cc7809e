"""Sinks: each takes the frames of an inference with their predictions and writes a file of every one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import cast

from typing_extensions import override

from raydet3d.runtime.inferencer import (
    LidarDet3DInferencer,
    PredictedFrame,
    PredictionDict,
    read_json,
    save_picture,
    to_dict,
    write_json,
)

LISTS = ("bboxes_3d", "scores_3d", "labels_3d")
"""Keys of a frame's JSON file that hold an entry for each box."""


class FrameSink(ABC):
    """Takes each frame with its predictions and writes a file of it.

    A frame passes through all sinks of a job (`make_sinks`) in the process that predicted it.

    Args:
        folder: Folder of the files.
        suffix: Their suffix.
    """

    def __init__(self, folder: str | Path, suffix: str) -> None:
        self.folder, self.suffix = Path(folder), suffix

    def path(self, name: str) -> Path:
        """Return the file of a frame."""
        return self.folder / f"{name}{self.suffix}"

    def wants(self, name: str) -> bool:
        """Return whether a file of this frame is written."""
        return True

    def is_done(self, name: str) -> bool:
        """Return whether the file of a frame exists and can be used."""
        return self.path(name).is_file()

    @abstractmethod
    def take(self, frame: PredictedFrame, inferencer: LidarDet3DInferencer) -> None:
        """Write the file of a frame, whole or not at all.

        Args:
            frame: The frame.
            inferencer: What predicted it: class names (`dataset_meta`), visualizer, config.
        """


class JsonSink(FrameSink):
    """Writes `preds/NAME.json`: `bboxes_3d`, `scores_3d`, `labels_3d`, `box_type_3d`, as MMDetection3D's inferencer."""

    def __init__(self, out: str | Path) -> None:
        super().__init__(Path(out) / "preds", ".json")

    @override
    def is_done(self, name: str) -> bool:
        return self.read(name) is not None

    @override
    def take(self, frame: PredictedFrame, inferencer: LidarDet3DInferencer) -> None:
        write_json(self.path(frame.name), to_dict(frame.sample))

    def read(self, name: str) -> PredictionDict | None:
        """Return the predictions of a frame; None where there are none, or where their file is damaged."""
        found = read_json(self.path(name))
        if found is None or not all(isinstance(found.get(key), list) for key in LISTS):
            return None
        is_whole = len({len(found[key]) for key in LISTS}) == 1
        are_scores = all(isinstance(score, int | float) for score in found["scores_3d"])
        return cast(PredictionDict, found) if is_whole and are_scores else None


class PictureSink(FrameSink):
    """Draws frames with the config's visualizer.

    Args:
        folder: Folder of the pictures.
        score_thr: Least score of a drawn box.
    """

    def __init__(self, folder: str | Path, score_thr: float) -> None:
        super().__init__(folder, ".png")
        self._score_thr = score_thr

    @override
    def take(self, frame: PredictedFrame, inferencer: LidarDet3DInferencer) -> None:
        save_picture(inferencer.draw(frame, self._score_thr), self.path(frame.name))
