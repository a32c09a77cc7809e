"""`PredictionFile`: all predictions of an evaluation in one file, which can be scored again without the model.

The file is numpy's `.npz`, without pickled objects: `sample_idx` (F,), `classes`, and for each kind of predictions
(`pred_instances_3d`, `pred_instances`) `KIND/count` (F,), -1 for a frame without this kind, `KIND/FIELD` with the rows
of all frames one after the other, and for 3D boxes `KIND/FIELD/box_type`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from raydet3d.errors import InputError
from raydet3d.files import write_atomic
from raydet3d.metrics.base import BaseMetric
from raydet3d.registry import METRICS
from raydet3d.structures import Boxes3D, get_box_type
from raydet3d.structures.boxes import BOX_TYPES

KINDS = ("pred_instances_3d", "pred_instances")
Array: TypeAlias = "NDArray[np.generic]"
Fields: TypeAlias = "dict[str, Array | Boxes3D]"
Frame: TypeAlias = "dict[str, int | str | Fields]"
"""`sample_idx` of a frame, and its fields by kind of predictions."""


@METRICS.register_module()
class PredictionFile(BaseMetric):
    """Write the predictions of all samples to a file; it scores nothing.

    Args:
        out_file: The file.
        collect_device: Accepted for compatibility.
    """

    def __init__(self, out_file: str | Path, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device)
        self.out_file = Path(out_file)

    def names(self) -> list[str] | None:
        """Return no names: there are no results."""
        return []

    def process(self, data_batch: object, data_samples: Sequence[Mapping[str, object]]) -> None:
        """Keep the predictions of a batch.

        Args:
            data_batch: Not used.
            data_samples: Dicts with `sample_idx` and predictions.

        Raises:
            InputError: A sample has no id, or none of the known kinds of predictions.
        """
        for number, sample in enumerate(data_samples):
            kinds = {kind: _host_fields(sample[kind]) for kind in KINDS if kind in sample}
            if "sample_idx" not in sample or not kinds:
                raise InputError(
                    f"PredictionFile: sample {number} of a batch has no sample_idx or none of {', '.join(KINDS)}; "
                    "predictions of this model cannot be saved"
                )
            self.results.append({"sample_idx": sample["sample_idx"], **kinds})

    def compute_metrics(self, results: list[Frame]) -> dict[str, float]:
        """Write the file.

        Args:
            results: Every frame's predictions.

        Returns:
            Nothing.
        """
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes") or ()]
        write_predictions(self.out_file, results, classes)
        return {}


def write_predictions(path: Path, frames: Sequence[Frame], classes: Sequence[str]) -> None:
    """Write predictions, whole or not at all.

    Args:
        path: The file.
        frames: Predictions of each frame.
        classes: Class names by label.
    """
    columns: dict[str, Array] = {
        "sample_idx": np.array([str(frame["sample_idx"]) for frame in frames], dtype=np.str_),
        "classes": np.array(classes, dtype=np.str_),
    }
    for kind in KINDS:
        found = [cast("Fields | None", frame.get(kind)) for frame in frames]
        fields = list(next((one for one in found if one), {}))
        if not any(one is not None for one in found):
            continue
        counts = [-1 if one is None else len(next(iter(one.values()), ())) for one in found]
        columns[f"{kind}/count"] = np.array(counts, dtype=np.int64)
        for name in fields:
            values = [one[name] for one in found if one]
            if isinstance(values[0], Boxes3D):
                columns[f"{kind}/{name}/box_type"] = np.array(_box_type(values[0]))
            columns[f"{kind}/{name}"] = np.concatenate(
                [value.numpy() if isinstance(value, Boxes3D) else value for value in values]
            )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_predictions(path: Path) -> tuple[dict[str, Frame], list[str]]:
    """Read a file of predictions.

    Args:
        path: The file.

    Returns:
        The frames by `sample_idx`, and the class names.

    Raises:
        InputError: It is no such file, or is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        frames: dict[str, Frame] = {str(index): {"sample_idx": str(index)} for index in columns["sample_idx"]}
        for kind in KINDS:
            if f"{kind}/count" in columns:
                for frame, fields in zip(frames.values(), _split(columns, kind), strict=True):
                    if fields is not None:
                        frame[kind] = fields
        return frames, [str(name) for name in columns["classes"]]
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a file of evaluate --save-predictions, or is damaged ({error})") from None


def _split(columns: Mapping[str, Array], kind: str) -> Iterable[Fields | None]:
    """Yield the fields of each frame; None for a frame without this kind of predictions."""
    names = [name.removeprefix(f"{kind}/") for name in columns if name.startswith(f"{kind}/") and name.count("/") == 1]
    names.remove("count")
    begin = 0
    for count in columns[f"{kind}/count"].tolist():
        if count < 0:
            yield None
            continue
        fields: Fields = {}
        for name in names:
            rows = columns[f"{kind}/{name}"][begin : begin + count]
            box_type = columns.get(f"{kind}/{name}/box_type")
            fields[name] = rows
            if box_type is not None:
                fields[name] = get_box_type(str(box_type))[0](torch.from_numpy(rows), box_dim=rows.shape[1])
        begin += count
        yield fields


def _host_fields(instances: object) -> Fields:
    """Return the numeric fields of a frame's instances in host memory."""
    fields: Fields = {}
    for name, value in instances.items() if isinstance(instances, Mapping) else ():
        if isinstance(value, Boxes3D):
            fields[name] = value.to("cpu")
        elif isinstance(value, torch.Tensor | np.ndarray):
            fields[name] = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    return fields


def _box_type(boxes: Boxes3D) -> str:
    return next(name for name, kind in BOX_TYPES.items() if kind.mode == boxes.mode)
