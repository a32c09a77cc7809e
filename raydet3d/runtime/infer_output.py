"""The folder of an inference: what its results were made with, and all of them in one file in input order."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.files import replace_file, write_output
from raydet3d.runtime.frame_sinks import JsonSink
from raydet3d.runtime.infer_files import CloudFile, InferJob
from raydet3d.runtime.inferencer import read_json

RECORD, LINES = "infer.json", "predictions.jsonl"
SECTIONS = ("model", "data_preprocessor", "test_dataloader", "test_cfg", "tta_model", "tta_pipeline")
"""Sections of a config that decide what is predicted."""


class InferRecord(TypedDict):
    """What the results of a folder were made with; results of anything else do not belong there."""

    inputs: str
    checkpoint: str
    weights: str
    config: str
    tta: bool
    score_thr: float | None
    classes: list[str]


def make_record(job: InferJob, root: str, classes: Sequence[str]) -> InferRecord:
    """Describe a job.

    Args:
        job: The job.
        root: Folder that the names of its files are relative to.
        classes: Class names by label.
    """
    plain = Config({key: job.cfg[key] for key in SECTIONS if job.cfg.get(key) is not None}).redacted()
    checkpoint = Path(job.checkpoint)
    weights = ""
    if checkpoint.is_file():
        with checkpoint.open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "inputs": root,
        "checkpoint": job.checkpoint,
        "weights": weights,
        "config": hashlib.sha256(repr(plain).encode()).hexdigest(),
        "tta": job.tta,
        "score_thr": job.score_thr,
        "classes": list(classes),
    }


def begin(out: Path, record: InferRecord, *, fresh: bool) -> None:
    """Begin or continue a job in a folder.

    Args:
        out: The folder.
        record: Of the job.
        fresh: Remove what earlier jobs have written there.

    Raises:
        InputError: The folder holds results of another job.
    """
    path = out / RECORD
    is_there = path.is_file()
    before = read_json(path)
    if is_there and fresh:
        for folder in ("preds", "kitti"):
            shutil.rmtree(out / folder, ignore_errors=True)
        (out / LINES).unlink(missing_ok=True)
    elif is_there and (before is None or not before.keys() >= record.keys()):
        raise InputError(
            f"{path} is damaged, so it is not known what the results in this folder were made with; choose another "
            "--out, or make them anew with --fresh"
        )
    elif before is not None:
        what = {"inputs": "files of another folder", "weights": "another checkpoint", "config": "another config"}
        for key, value in record.items():
            if key not in ("checkpoint", "classes") and before.get(key) != value:
                other = what.get(key, f"{key}={before.get(key)!r}")
                raise InputError(
                    f"--out {out} holds results of {other}; choose another folder, or make them anew with --fresh"
                )
    write_output(path, json.dumps(record, indent=1).encode())


@dataclass
class FoundBoxes:
    """Count of the predicted boxes of a job.

    Args:
        clouds: Clouds with predictions.
        boxes: Their boxes.
        best: Highest score; 0 without a box.
        best_file: The cloud that it is in.
    """

    clouds: int = 0
    boxes: int = 0
    best: float = 0.0
    best_file: str = ""

    def add(self, file: str, scores: Sequence[float]) -> None:
        """Count the boxes of a cloud."""
        self.clouds += 1
        self.boxes += len(scores)
        if (best := max(scores, default=0.0)) > self.best:
            self.best, self.best_file = best, file

    def describe(self) -> str:
        """Describe them in one line: how many, the best score, and where it is."""
        clouds = f"{self.clouds} cloud{'s' if self.clouds != 1 else ''}"
        if not self.boxes:
            return f"none in {clouds}"
        return f"{self.boxes} in {clouds}; the best score is {self.best:.2g}, in {self.best_file}"


def write_lines(
    out: Path, files: Sequence[CloudFile], sink: JsonSink, failed: Mapping[str, str]
) -> tuple[Path, FoundBoxes]:
    """Write all predictions to one file, a JSON object for each input, in input order; count their boxes.

    Args:
        out: Folder of the job.
        files: The inputs.
        sink: The sink of the JSON files.
        failed: Reasons by path of the files without predictions.

    Returns:
        The file, and the boxes in it.
    """
    path, boxes = out / LINES, FoundBoxes()
    temporary = path.with_name(f".{LINES}.tmp")
    with temporary.open("w", encoding="utf-8") as lines:
        for file in files:
            found = None if file.path in failed else sink.read(file.name)
            if found is None:
                content: dict[str, object] = {"error": failed.get(file.path, "its result was removed")}
            else:
                boxes.add(file.path, found["scores_3d"])
                content = {**found}
            lines.write(json.dumps({"file": file.path, **content}) + "\n")
    replace_file(temporary, path)
    return path, boxes
