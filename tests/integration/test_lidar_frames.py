"""Reduced SECOND and CenterPoint on the real KITTI frames: they find the objects that they were trained on.

The trainings take minutes: ``pytest -m slow tests/integration/test_lidar_frames.py -s`` shows what was found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raydet3d.registry import MODELS
from tests.kit.lidar import model_of
from tests.kit.pointpillars import a_sample
from tests.kit.recall import count, report
from tests.kit.shared import KITTI, needs_shared

pytestmark = needs_shared

REPO = Path(__file__).resolve().parents[2]
FRAMES = ("000008", "000134")
NUM_OBJECTS = 20  # counted by hand in their label_2: x 0 to 40.96 m, |y| < 20.48 m


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=REPO, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", ["second", "centerpoint"])
def test_most_objects_of_two_frames_are_found(name: str, tmp_path: Path) -> None:
    data = tmp_path / "kitti"
    for file in KITTI.rglob("*.*"):
        if file.stem in FRAMES:
            (data / file.relative_to(KITTI)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, data / file.relative_to(KITTI))
    (data / "ImageSets").mkdir()
    for part in ("train", "val", "trainval"):
        (data / "ImageSets" / f"{part}.txt").write_text("\n".join(FRAMES))
    (data / "ImageSets" / "test.txt").touch()
    config = f"configs/demo/{name}_kitti_frames.py"
    options = ["--cfg-options", f"data_root={data}/", "train_dataloader.batch_size=2", "max_iters=150"]
    run("raydet3d.data.prepare", "kitti", str(data), "--workers", "0")
    run("raydet3d.train", config, "--workers", "0", "--work-dir", str(tmp_path / "train"), *options)
    (checkpoint,) = (tmp_path / "train").glob("iter_*.pth")
    given = ["--work-dir", str(tmp_path / "test"), "--out", str(tmp_path / "results")]
    run("raydet3d.evaluate", config, str(checkpoint), *given, *options)
    objects, false_alarms = count(tmp_path / "results" / "pred_instances_3d", data)
    print(f"\n{report(objects, false_alarms)}")
    assert len(objects) == NUM_OBJECTS
    assert sum(o.is_found for o in objects) >= 16
    assert false_alarms <= 4


@pytest.mark.parametrize(
    "name",
    [
        "second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py",
        "centerpoint/centerpoint_pillar016_second_secfpn_8xb6-cyclic-80e_kitti-3d-3class.py",
        "sassd/sassd_8xb6-80e_kitti-3d-3class.py",
    ],
)
def test_published_size_on_a_real_frame(name: str) -> None:
    """Loss, gradients and prediction at full size, on one frame."""
    points = torch.frombuffer(
        bytearray((KITTI / "training/velodyne_reduced/000008.bin").read_bytes()), dtype=torch.float32
    )
    torch.manual_seed(0)
    model = MODELS.build(model_of(name))
    model.init_weights()
    batch = {
        "inputs": {"points": [points.view(-1, 4)]},
        "data_samples": [
            a_sample([[14.7, -1.1, -1.6, 3.9, 1.6, 1.5, 0.1], [8.0, 2.7, -1.6, 3.4, 1.5, 1.6, 0.0]], [2, 2])
        ],
    }
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    (found,) = model.eval().val_step(batch)
    assert found.pred_instances_3d.scores_3d.isfinite().all()
