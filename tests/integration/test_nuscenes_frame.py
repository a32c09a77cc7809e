"""Reduced CenterPoint on voxels and PointPillars on the real nuScenes keyframe: they find what they were trained on.

The trainings take a minute or two: ``pytest -m slow tests/integration/test_nuscenes_frame.py -s`` shows what was found.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet3d.checkpoint.load_weights import load_checkpoint
from raydet3d.config import Config
from raydet3d.data import pseudo_collate
from raydet3d.ops import rotated_iou_3d
from raydet3d.registry import DATASETS, MODELS
from tests.kit.shared import NUSCENES, needs_nuscenes

pytestmark = needs_nuscenes

REPO = Path(__file__).resolve().parents[2]
RANGE_M = 25.6
MIN_POINTS = 5
NUM_OBJECTS = 20  # counted by hand in the info file: |x| and |y| below RANGE_M, MIN_POINTS or more, of the ten classes
SCORE = 0.3
DISTANCE_M = 0.5  # nuScenes' strictest match
IOU = 0.5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["centerpoint", "pointpillars"])
def test_most_objects_of_the_keyframe_are_found(name: str, tmp_path: Path) -> None:
    data = tmp_path / "nuscenes"
    for folder in ("samples", "sweeps"):
        (data / folder / "LIDAR_TOP").mkdir(parents=True)
    shutil.copyfile(next(NUSCENES.glob("*.pkl")), data / "nuscenes_infos_train.pkl")
    for cloud in NUSCENES.glob("*.bin"):
        shutil.copyfile(cloud, data / "samples" / "LIDAR_TOP" / cloud.name)
    config = f"configs/demo/{name}_nuscenes_frame.py"
    command = [sys.executable, "-m", "raydet3d.train", config, "--workers", "0", "--work-dir", str(tmp_path / "run")]
    command += ["--cfg-options", f"data_root={data}/", "train_cfg.val_interval=1000"]  # scores need nuScenes' tables
    done = subprocess.run(command, cwd=REPO, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (checkpoint,) = (tmp_path / "run").glob("epoch_*.pth")
    names, boxes, labels = detect(REPO / config, checkpoint, data)
    labelled = objects(data / "nuscenes_infos_train.pkl", names)
    matches, false_alarms = match(labelled, boxes, labels)
    counted = [pair for pair in zip(labelled, matches, strict=True) if pair[0][2] >= MIN_POINTS]
    for (label, box, points), how in counted:
        place = f"{box[0]:6.1f} {box[1]:6.1f}"
        said = f"{how[0]:.2f} m, IoU {how[1]:.2f}" if how else "MISSED"
        print(f"{names[label]:<14} at {place}, {points:4d} points: {said}")
    num_found = sum(how is not None for _, how in counted)
    print(f"found {num_found} of {len(counted)}, {false_alarms} boxes too many")
    assert len(counted) == NUM_OBJECTS
    assert num_found >= 0.8 * NUM_OBJECTS
    assert false_alarms <= 4


def detect(config: Path, checkpoint: Path, data: Path) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Classes, and (N, 7) boxes (bottom, size, yaw) above `SCORE` with their labels."""
    cfg = Config.fromfile(config)
    dataset = {**cfg.test_dataloader.dataset.to_dict(), "data_root": f"{data}/"}
    model = MODELS.build(cfg.model.to_dict())
    load_checkpoint(model, checkpoint, strict=True)
    (sample,) = model.eval().val_step(pseudo_collate([DATASETS.build(dataset)[0]]))
    found = sample.pred_instances_3d
    keep = found.scores_3d > SCORE
    return list(cfg.metainfo.classes), found.bboxes_3d.tensor[keep, :7], found.labels_3d[keep]


def objects(info_file: Path, names: list[str]) -> list[tuple[int, np.ndarray, int]]:
    """Label, box (bottom, size, yaw) and points of every object in range with a point on it, from the file."""
    infos = pickle.loads(info_file.read_bytes())
    names_of = {number: name for name, number in infos["metainfo"]["categories"].items()}
    rows = []
    for instance in infos["data_list"][0]["instances"]:
        box, points = np.array(instance["bbox_3d"]), int(instance["num_lidar_pts"])
        name = names_of.get(instance["bbox_label_3d"])
        if name is not None and points > 0 and (np.abs(box[:2]) < RANGE_M).all():
            box[2] -= box[5] / 2
            rows.append((names.index(name), box, points))
    return rows


def match(
    truth: list[tuple[int, np.ndarray, int]], boxes: torch.Tensor, labels: torch.Tensor
) -> tuple[list[tuple[float, float] | None], int]:
    """Distance and 3D overlap of the box that finds each object, and the number of boxes that find none."""
    free = set(range(len(boxes)))
    found: list[tuple[float, float] | None] = []
    for label, row, _ in truth:
        box = torch.from_numpy(row)[None].to(boxes)
        iou = rotated_iou_3d(box, boxes)[0]
        distance = (boxes[:, :2] - box[:, :2]).norm(dim=1)
        fits = [i for i in free if labels[i] == label and float(distance[i]) < DISTANCE_M and float(iou[i]) > IOU]
        best = max(fits, key=lambda i: float(iou[i]), default=None)
        found.append(None if best is None else (float(distance[best]), float(iou[best])))
        free.discard(-1 if best is None else best)
    return found, len(free)
