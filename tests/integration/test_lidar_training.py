"""CBGS, sweeps, pasted objects, deformable heads and TTA together: exact resume, equal samples, scores, fine-tuning."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.cli import run_command
from raydet3d.evaluate import main
from raydet3d.runtime import assemble
from raydet3d.runtime.loaders import build_dataloader, release
from tests.kit.exact import same_run
from tests.kit.tiny_centerpoint import CLASSES, TASKS, tiny_centerpoint, write_data

END = 22  # iterations: 22 samples an epoch by CBGS, 2 epochs, 2 samples a batch
SAVES = {"default_hooks__checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": False}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "nuscenes")


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run with a checkpoint of each iteration."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = assemble(tiny_centerpoint(root, folder, **SAVES)).train()
    assert "NuScenes metric/pred_instances_3d_NuScenes/NDS" in result["metrics"]
    return folder


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (7, 2), (11, 0), (18, 1)])
def test_resumed_run_ends_as_the_undisturbed_one(
    root: Path, whole: Path, tmp_path: Path, stop: int, workers: int
) -> None:
    cfg = tiny_centerpoint(root, tmp_path / "part", train_dataloader__num_workers=workers, **SAVES)
    assemble(cfg, resume=str(whole / f"iter_{stop}.pth")).train()
    same_run(whole / f"iter_{END}.pth", tmp_path / "part" / f"iter_{END}.pth")


def train_in_a_process(root: Path, folder: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    assemble(tiny_centerpoint(root, folder, log_level="ERROR", **SAVES), resume=resume).train()


def test_killed_run_continues_exactly(root: Path, whole: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    process = get_context("fork").Process(target=train_in_a_process, args=(root, tmp_path / "part", False))
    process.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "part" / "iter_4.pth.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(60)
    assert not (tmp_path / "part" / f"iter_{END}.pth.json").exists()
    train_in_a_process(root, tmp_path / "part", True)
    same_run(whole / f"iter_{END}.pth", tmp_path / "part" / f"iter_{END}.pth")


def digests(root: Path, workers: int) -> list[str]:
    """A digest of each batch of two epochs."""
    cfg = tiny_centerpoint(root, "unused").train_dataloader
    loader = build_dataloader({**cfg, "num_workers": workers}, seed=5)
    found = []
    for epoch in range(2):
        loader.batch_sampler.set_position(epoch)
        for batch in loader:
            digest = hashlib.sha256()
            for points, sample in zip(batch["inputs"]["points"], batch["data_samples"], strict=True):
                for tensor in (points, sample.gt_instances_3d.bboxes_3d.tensor, sample.gt_instances_3d.labels_3d):
                    digest.update(tensor.numpy().tobytes())
            found.append(digest.hexdigest())
    release(loader)
    return found


def test_samples_are_the_same_for_any_number_of_loader_workers(root: Path) -> None:
    alone = digests(root, 0)
    assert len(alone) == END
    assert len(set(alone)) == END
    assert digests(root, 1) == alone
    assert digests(root, 2) == alone


def run_evaluate(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the evaluate command."""
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_evaluate_with_and_without_tta(
    root: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = tmp_path / "tiny.py"
    tiny_centerpoint(root, tmp_path / "scored").dump(config)
    checkpoint = whole / f"iter_{END}.pth"
    scores: list[str] = []
    for flags in ([], ["--tta"]):
        code, out, err = run_evaluate(monkeypatch, capsys, config, checkpoint, *flags)
        assert code == 0, err
        scores += re.findall(r"^mAP (0\.\d+), NDS 0\.\d+$", out, re.MULTILINE)
    assert len(scores) == 2
    assert scores[0] != scores[1]
    tta = tiny_centerpoint(root, tmp_path / "no", tta_model=None)
    tta.dump(config)
    code, _, err = run_evaluate(monkeypatch, capsys, config, checkpoint, "--tta")
    assert code == 2
    assert "tta_model" in err.splitlines()[-1]


def test_checkpoint_of_another_model_is_one_line_with_its_keys(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = tmp_path / "tiny.py"
    tiny_centerpoint(root, tmp_path / "scored").dump(config)
    torch.save({"state_dict": {"backbone.conv1.weight": torch.ones(3)}}, tmp_path / "other.pth")
    code, _, err = run_evaluate(monkeypatch, capsys, config, tmp_path / "other.pth")
    lines = [line for line in err.splitlines() if line.startswith("raydet3d: error")]
    assert code == 2
    assert len(lines) == 1
    assert "backbone.conv1.weight" in lines[0]


def test_fine_tuning_with_other_classes_keeps_what_fits_and_names_the_rest(
    root: Path, whole: Path, tmp_path: Path, capsys: Any
) -> None:
    cfg = tiny_centerpoint(
        root, tmp_path / "run", load_from=str(whole / f"iter_{END}.pth"), frozen_parts=["pts_voxel_encoder"],
        train_cfg={"by_epoch": False, "max_iters": 1},
        **{f"{mode}_{part}": None for mode in ("val", "test") for part in ("dataloader", "cfg", "evaluator")},
    )  # fmt: skip
    cfg.model.pts_bbox_head.tasks = [TASKS[0], {"num_class": 1, "class_names": ["pedestrian"]}]
    dataset = cfg.train_dataloader.dataset.dataset
    dataset.metainfo.classes = [*CLASSES[:4], "pedestrian"]
    dataset.pipeline[3]["db_sampler"]["classes"] = [*CLASSES[:4], "pedestrian"]
    dataset.pipeline[3]["db_sampler"]["sample_groups"] = {"truck": 3}
    dataset.pipeline[8]["classes"] = [*CLASSES[:4], "pedestrian"]
    runner = assemble(cfg)
    runner.train()
    before = torch.load(whole / f"iter_{END}.pth", weights_only=True)["state_dict"]
    after = runner.model.state_dict()
    encoder = [name for name in before if name.startswith("pts_voxel_encoder")]
    assert encoder
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    said = next(line for line in capsys.readouterr().out.splitlines() if "loaded" in line and "tensors" in line)
    assert "of another shape" in said
    assert "task_heads.1.cls_head.1.weight (3, 64, 3, 3) for (1," in said
