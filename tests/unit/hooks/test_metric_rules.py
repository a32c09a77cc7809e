"""Metrics that hooks need: unknown names are refused before training, where the names are known, else at first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydet3d.errors import InputError
from raydet3d.hooks.metric_rules import nearest_metrics
from raydet3d.metrics import KittiMetric
from raydet3d.runtime import assemble
from tests.kit.toy import ToyMetric, toy_cfg


class Named(ToyMetric):
    """A metric that knows its names."""

    def names(self) -> list[str] | None:
        return ["toy/mAE_loss", "toy/AP", "toy/count"]


def best(name: str) -> dict[str, Any]:
    return {"type": "CheckpointHook", "save_best": name, "rule": "greater"}


def test_before_training_where_the_names_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = toy_cfg(tmp_path / "run", val_evaluator={"type": Named}, default_hooks__checkpoint=best("toy/APP"))
    with pytest.raises(InputError) as caught:
        assemble(cfg).train()
    assert str(caught.value) == "CheckpointHook: save_best='toy/APP', but validation gives toy/AP and 2 others"
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()
    cfg = toy_cfg(tmp_path, val_evaluator={"type": Named}, default_hooks__checkpoint=best("toy/AP"), log_level="ERROR")
    assert assemble(cfg).train()["best_score"] > 0


def test_after_the_first_validation_where_they_are_not(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path, default_hooks__checkpoint=best("toy/APP"), log_level="ERROR"))
    with pytest.raises(InputError, match="save_best='toy/APP', but validation gave toy/AP"):
        runner.train()
    assert runner.epoch == 1
    # Nothing is lost: what was trained is saved, and the validation is held again after the config is mended.
    runner.close()
    again = assemble(toy_cfg(tmp_path, default_hooks__checkpoint=best("toy/AP"), log_level="ERROR"), resume=True)
    assert again.train()["best_score"] > 0


def test_no_validation_at_all(tmp_path: Path) -> None:
    none = {f"val_{part}": None for part in ("dataloader", "cfg", "evaluator")}
    for name in ("toy/AP", "auto"):
        cfg = toy_cfg(tmp_path, **none, default_hooks__checkpoint=best(name))
        with pytest.raises(InputError, match=f"save_best='{name}', but there is no validation: the config has"):
            assemble(cfg).train()


def test_what_kitti_gives() -> None:
    metric = KittiMetric(ann_file="x.pkl")
    assert metric.names() is None  # the classes are not known
    metric.dataset_meta = {"classes": ("Car", "Cyclist")}
    names = metric.names()
    assert names is not None
    assert "Kitti metric/pred_instances_3d/KITTI/Car_3D_AP40_moderate_strict" in names
    assert not any("Pedestrian" in name for name in names)
    assert KittiMetric(ann_file="x.pkl", format_only=True, submission_prefix="y").names() is None


def test_some_of_many() -> None:
    assert nearest_metrics(["a/x", "a/y"], "x") == "a/x and 1 others"
    assert nearest_metrics([], "x") == "nothing"
