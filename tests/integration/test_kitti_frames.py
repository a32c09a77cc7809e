"""Real frames through the doors: prepare, train, evaluate; found objects are counted from KITTI's own text files.

The counting (tests/kit/recall.py) is checked first, on the labels given back as results. The training takes minutes:
``pytest -m slow tests/integration/test_kitti_frames.py -s`` shows what was found.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.recall import count, report
from tests.kit.shared import KITTI, needs_shared

pytestmark = needs_shared

REPO = Path(__file__).resolve().parents[2]
CONFIG = "configs/demo/pointpillars_kitti_frames.py"
NUM_OBJECTS = 22  # counted by hand in label_2: x 0 to 40.96 m, |y| < 20.48 m


def labels_as_results(folder: Path, *, dz: float = 0.0, score: float = 0.9, times: int = 1) -> Path:
    """Result files that repeat the labels, moved ``dz`` metres away from the camera."""
    folder.mkdir()
    for file in (KITTI / "training" / "label_2").glob("*.txt"):
        lines = []
        for line in file.read_text().splitlines():
            fields = line.split()
            fields[13] = str(float(fields[13]) + dz)
            lines += [" ".join([*fields, str(score)])] * times
        (folder / file.name).write_text("\n".join(lines))
    return folder


def test_counting_on_the_labels_themselves(tmp_path: Path) -> None:
    objects, false_alarms = count(labels_as_results(tmp_path / "same"), KITTI)
    assert len(objects) == NUM_OBJECTS
    assert all(o.is_found and o.iou > 0.999 for o in objects)
    assert false_alarms == 0
    assert sorted(o.name for o in objects) == ["Car"] * 9 + ["Cyclist"] * 5 + ["Pedestrian"] * 8

    objects, false_alarms = count(labels_as_results(tmp_path / "twice", times=2), KITTI)
    assert sum(o.is_found for o in objects) == false_alarms == NUM_OBJECTS

    objects, _ = count(labels_as_results(tmp_path / "unsure", score=0.29), KITTI)
    assert not any(o.is_found for o in objects)

    # The longest car (4.36 m, along the depth) keeps (4.36 - 0.9) / (4.36 + 0.9) = 0.66, a cyclist a third.
    objects, _ = count(labels_as_results(tmp_path / "moved", dz=0.9), KITTI)
    assert not any(o.is_found for o in objects)


@dataclass(frozen=True)
class Run:
    """Where a training and an evaluation left their files, and what they cost together."""

    work_dir: Path
    test_dir: Path
    results: Path
    data: Path
    cpu_s: float


def scores(log_dir: Path, pattern: str) -> dict[str, float]:
    """The last KITTI scores that a run logged."""
    (file,) = log_dir.glob(pattern)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    (*_, last) = (row for row in rows if any("KITTI" in key for key in row))
    return {key: value for key, value in last.items() if "KITTI" in key}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("frames")
    data = folder / "kitti"
    shutil.copytree(KITTI, data, copy_function=shutil.copyfile)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    door("raydet3d.data.prepare", "kitti", str(data), "--workers", "0")
    options = ["--cfg-options", f"data_root={data}/"]
    door("raydet3d.train", CONFIG, "--workers", "0", "--work-dir", str(folder / "train"), *options)
    (checkpoint,) = (folder / "train").glob("iter_*.pth")
    given = ["--work-dir", str(folder / "test"), "--out", str(folder / "results")]
    door("raydet3d.evaluate", CONFIG, str(checkpoint), *given, *options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(folder / "train", folder / "test", folder / "results" / "pred_instances_3d", data, cpu_s)


def door(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=REPO, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_five_frames_are_learnt_by_heart(run: Run) -> None:
    objects, false_alarms = count(run.results, run.data)
    print(f"\n{report(objects, false_alarms)}\n{run.cpu_s:.0f} s of processor time")
    assert len(objects) == NUM_OBJECTS
    assert sum(o.is_found for o in objects) >= 18
    assert false_alarms <= 4
    assert run.cpu_s < 15 * 60


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_evaluate_gives_the_score_of_the_validation(run: Run) -> None:
    validation = scores(run.work_dir, "*/vis_data/scalars.json")
    assert len(validation) > 100
    assert scores(run.test_dir, "*/*.json") == validation


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_frame_has_its_picture(run: Run) -> None:
    names = sorted(path.name for path in run.work_dir.glob("*/vis_data/vis_image/*.png"))
    assert [name[:10] for name in names] == [f"val_{n:06d}" for n in (0, 1, 2, 8, 134)]
