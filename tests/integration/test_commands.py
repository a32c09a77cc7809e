"""Commands with bad input: one line that says what to change, and exit code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo" / "pointpillars_town.py"
SECOND = ROOT / "configs" / "demo" / "second_town.py"
KITTI = ROOT / "configs" / "pointpillars" / "pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
SMALL = ("town_seed=3", "num_train=12", "num_val=2")


def command(name: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"raydet3d.{name}", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, no trace, and the last line of stderr says all of it."""
    assert result.returncode == 2, result.stderr + result.stdout
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len([line for line in lines if line.startswith("raydet3d: error: ")]) == 1, result.stderr
    for part in parts:
        assert re.search(part, lines[-1]), f"{part!r} is not in {lines[-1]!r}"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated town of six frames."""
    cwd = tmp_path_factory.mktemp("town")
    result = train(cwd, "epoch_num=1")
    assert result.returncode == 0, result.stderr + result.stdout
    return cwd


def train(cwd: Path, *options: str, flags: Sequence[str] = ("--workers", "0")) -> subprocess.CompletedProcess[str]:
    return command("train", DEMO, *flags, "--cfg-options", *SMALL, *options, cwd=cwd)


def test_evaluate_gives_the_score_of_the_run(town: Path) -> None:
    again = train(town, "epoch_num=1", flags=("--workers", "0", "--resume"))
    assert again.returncode == 0, again.stderr
    last = again.stdout.splitlines()[-1]
    assert re.fullmatch(r"Car_3D_AP40_moderate_strict: \d+\.\d\d", last)
    scored = command(
        "evaluate", DEMO, town / "work_dirs/pointpillars_town/epoch_1.pth", "--out", "results",
        "--cfg-options", *SMALL, cwd=town,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    assert scored.stdout.splitlines()[-1] == last
    files = sorted((town / "results").rglob("*.txt"))
    assert [file.name for file in files] == ["000012.txt", "000013.txt"]


def test_run_writes_the_files_that_the_readme_names(town: Path) -> None:
    work_dir = town / "work_dirs" / "pointpillars_town"
    for name in ("pointpillars_town.py", "epoch_1.pth", "epoch_1.pth.json", "last_checkpoint", "scalars.json"):
        assert (work_dir / name).is_file(), name
    assert list(work_dir.glob("2*/2*.log"))
    assert list(work_dir.glob("2*/vis_data/scalars.json"))
    assert list(work_dir.glob("2*/vis_data/vis_image/*.png"))
    assert list(work_dir.glob("2*/vis_data/**/events.out.tfevents*"))


def test_seconds_demo_trains_in_a_short_form_and_prints_its_score(town: Path) -> None:
    # That it learns to find cars takes minutes: tests/integration/ray/test_second_town.py, a slow test.
    run = command("train", SECOND, "--workers", "0", "--cfg-options", *SMALL, "epoch_num=1", cwd=town)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"Car_3D_AP40_moderate_strict: \d+\.\d\d", run.stdout.splitlines()[-1])
    assert (town / "work_dirs" / "second_town" / "epoch_1.pth").is_file()


def test_torchrun_trains_on_its_ranks_without_ray(town: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "raydet3d.train",
        str(DEMO),
    ]
    command += ["--work-dir", "ranks", "--cfg-options", *SMALL, "epoch_num=1", "train_dataloader.batch_size=1"]
    run = subprocess.run(command, cwd=town, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert len(re.findall(r"Finished in .* with 2 workers", run.stdout)) == 1  # rank 0 speaks, nobody else
    assert "2 process(es)" in run.stdout
    assert (town / "ranks" / "epoch_1.pth").is_file()
    assert not (town / "ranks" / ".ray").exists()


def test_missing_config(tmp_path: Path) -> None:
    refused(
        command("train", "configs/demo/pointpillars_twon.py", cwd=tmp_path), "pointpillars_twon", "pointpillars_town"
    )


def test_a_missing_data_root_says_how_to_prepare_it(tmp_path: Path) -> None:
    refused(
        command("train", KITTI, "--workers", 0, cwd=tmp_path), "data/kitti", "python -m raydet3d.data.prepare kitti"
    )


def test_metric_without_its_file_is_refused_before_training(town: Path) -> None:
    result = train(town, "val_evaluator.ann_file=data/townkitti_infos_val.pkl", flags=("--workers", "0", "--fresh"))
    refused(result, "val_evaluator", "townkitti", "prepare")


def test_a_misspelt_key_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"_base_ = [{str(DEMO)!r}]\noptim_warpper = dict(clip_grad=None)\n")
    refused(command("train", "mine.py", cwd=tmp_path), "mine.py", "optim_warpper", "optim_wrapper")


def test_a_misspelt_key_inside_is_named_with_its_path(town: Path) -> None:
    refused(train(town, "train_dataloader.batch_sizes=3"), "batch_sizes", "batch_size")


def test_an_unknown_type_comes_with_the_nearest_name(town: Path) -> None:
    refused(train(town, "optim_wrapper.optimizer.type=AdamWW"), "optim_wrapper.optimizer", "'AdamWW'", "'AdamW'")


def test_more_workers_than_processors_are_refused(town: Path) -> None:
    refused(train(town, flags=("--workers", "99")), "asked for 99 workers", r"has \d+", "--workers")


def test_unwritable_work_dir_is_refused(town: Path) -> None:
    (town / "file").write_text("")
    refused(train(town, flags=("--workers", "0", "--work-dir", "file/x")), "work_dir", "file/x", "--work-dir")


def test_a_truncated_cloud_is_named_with_both_sizes(town: Path) -> None:
    cloud = town / "data" / "town" / "training" / "velodyne_reduced" / "000001.bin"
    whole = cloud.read_bytes()
    cloud.write_bytes(whole[:-3])
    try:
        for loaders in (0, 2):
            options = ("epoch_num=1", f"train_dataloader.num_workers={loaders}")
            result = train(town, *options, flags=("--workers", "0", "--work-dir", f"work_dirs/truncated_{loaders}"))
            refused(result, r"000001\.bin", str(len(whole) - 3), "16")
    finally:
        cloud.write_bytes(whole)


def test_missing_checkpoint(town: Path) -> None:
    refused(command("evaluate", DEMO, "none.pth", cwd=town), "checkpoint none.pth does not exist")
    refused(train(town, flags=("--workers", "0", "--resume", "none.pth")), "none.pth")


@pytest.mark.parametrize(
    "name",
    [
        *("train", "evaluate", "infer", "publish", "show", "tune", "report", "watch", "export", "benchmark"),
        *("data.prepare", "data.check", "data.convert"),
    ],
)
def test_every_command_has_help(name: str, tmp_path: Path) -> None:
    result = command(name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "usage:" in result.stdout
    assert "example" in result.stdout.lower()
