"""Predictions written to a file and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.metrics.prediction_file import PredictionFile, read_predictions
from raydet3d.structures import CameraInstance3DBoxes, LiDARInstance3DBoxes


def found(boxes: Any, dims: int = 7) -> dict[str, Any]:
    count = len(boxes)
    return {
        "bboxes_3d": LiDARInstance3DBoxes(torch.as_tensor(boxes).reshape(-1, dims), box_dim=dims),
        "scores_3d": torch.rand(count),
        "labels_3d": torch.arange(count),
    }


def save(path: Path, samples: list[dict[str, Any]]) -> None:
    metric = PredictionFile(path)
    metric.dataset_meta = {"classes": ("Car", "Van")}
    for sample in samples:
        metric.process(None, [sample])
    assert metric.names() == []
    assert metric.evaluate(len(samples)) == {}


@pytest.mark.parametrize("dims", [7, 9])
def test_values_and_types_survive_bit_for_bit(tmp_path: Path, dims: int) -> None:
    samples = [{"sample_idx": index, "pred_instances_3d": found(torch.randn(size, dims), dims)} for index, size in
               [(7, 3), (3, 0), (12, 1)]]  # fmt: skip
    save(tmp_path / "found.npz", samples)
    frames, classes = read_predictions(tmp_path / "found.npz")
    assert classes == ["Car", "Van"]
    assert list(frames) == ["7", "3", "12"]
    for sample in samples:
        ours: Any = frames[str(sample["sample_idx"])]["pred_instances_3d"]
        theirs = sample["pred_instances_3d"]
        assert type(ours["bboxes_3d"]) is LiDARInstance3DBoxes
        assert torch.equal(ours["bboxes_3d"].tensor, theirs["bboxes_3d"].tensor)
        assert ours["bboxes_3d"].tensor.shape == (len(theirs["scores_3d"]), dims)
        for name in ("scores_3d", "labels_3d"):
            assert np.array_equal(ours[name], theirs[name].numpy())
            assert ours[name].dtype == theirs[name].numpy().dtype


def test_image_predictions_and_camera_boxes_are_kept_too(tmp_path: Path) -> None:
    flat = {"bboxes": torch.rand(2, 4), "scores": torch.rand(2), "labels": torch.tensor([0, 1])}
    boxes = {"bboxes_3d": CameraInstance3DBoxes(torch.rand(1, 7)), "scores_3d": torch.rand(1), "labels_3d": [0]}
    boxes["labels_3d"] = torch.tensor([0])
    save(tmp_path / "found.npz", [{"sample_idx": "a", "pred_instances_3d": boxes, "pred_instances": flat}])
    frame: Any = read_predictions(tmp_path / "found.npz")[0]["a"]
    assert type(frame["pred_instances_3d"]["bboxes_3d"]) is CameraInstance3DBoxes
    assert np.array_equal(frame["pred_instances"]["bboxes"], flat["bboxes"].numpy())


def test_a_sample_without_predictions_is_refused() -> None:
    with pytest.raises(InputError, match="sample_idx"):
        PredictionFile("x.npz").process(None, [{"sample_idx": 1, "prediction": 2.0}])


@pytest.mark.parametrize("content", [b"", b"not numpy", b"PK\x03\x04broken"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "found.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"found\.npz"):
        read_predictions(tmp_path / "found.npz")
