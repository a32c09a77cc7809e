"""Public bug reports about other training frameworks, tried on this one: each case names the report it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from typing_extensions import override

from raydet3d.config import Config
from raydet3d.hooks import Hook
from raydet3d.hooks.context import RunContext
from raydet3d.run_status import RunResult
from raydet3d.runtime import assemble
from tests.kit.toy import ToyMetric, toy_cfg


class Scripted(ToyMetric):
    """Gives the scores of a list, one a validation."""

    scores: ClassVar[list[float]] = []

    @override
    def compute_metrics(self, results: object) -> dict[str, float]:
        return {"AP": Scripted.scores.pop(0)}


class RecordSteps(Hook):
    """Records iteration, learning rate and mode of the model after each step."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.steps: list[tuple[int, float, bool]] = []

    @override
    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        self.steps.append((runner.iter, runner.optim_wrapper.get_lr()["lr"][0], runner.model.training))


def train(
    cfg: Config, epochs: int | None = None, *, resume: bool = False
) -> tuple[list[tuple[int, float, bool]], RunResult]:
    """Train, and return the steps that were done and the run's result."""
    if epochs is not None:
        cfg.train_cfg.max_epochs = epochs
    cfg.resume = resume
    record = RecordSteps()
    runner = assemble(cfg, extra_hooks=[record])
    return record.steps, runner.train()


def scored_cfg(folder: Path, scores: Sequence[float], **checkpoint: object) -> Config:
    """A config whose validations give these scores, and which keeps the best checkpoint."""
    Scripted.scores = list(scores)
    cfg = toy_cfg(folder, val_evaluator={"type": Scripted})
    cfg.default_hooks.checkpoint.update(save_best="toy/AP", rule="greater", **checkpoint)
    return cfg


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pth"))


def test_learning_rate_after_the_end_of_a_warmup_is_restored_on_resume(tmp_path: Path) -> None:
    """open-mmlab/mmengine#1542: a rebuilt LinearLR multiplied the learning rate once more."""
    whole, _ = train(toy_cfg(tmp_path / "whole"))
    train(toy_cfg(tmp_path / "parts"), epochs=2)
    rest, _ = train(toy_cfg(tmp_path / "parts"), resume=True)
    assert rest == whole[24:]


def test_schedule_of_a_longer_run_applies_when_a_finished_run_is_extended(tmp_path: Path) -> None:
    """InternLM/xtuner#211: the learning rate stayed constant after max_epochs was raised."""

    def cosine(folder: Path, epochs: int) -> Config:
        cfg = toy_cfg(folder)
        cfg.param_scheduler = [
            {
                "type": "CosineAnnealingLR",
                "T_max": epochs,
                "end": epochs,
                "by_epoch": True,
                "convert_to_iter_based": True,
            }
        ]
        return cfg

    whole, _ = train(cosine(tmp_path / "whole", 4), epochs=4)
    train(cosine(tmp_path / "parts", 2), epochs=2)
    rest, _ = train(cosine(tmp_path / "parts", 4), epochs=4, resume=True)
    assert [lr for _, lr, _ in rest] == pytest.approx([lr for _, lr, _ in whole[24:]], rel=1e-9)


@pytest.mark.parametrize(("scores", "best"), [([float("nan"), 0.5, 0.4], 2), ([0.3, float("nan"), 0.4], 3)])
def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path: Path, scores: list[float], best: int) -> None:
    """Lightning-AI/pytorch-lightning#2636: after a first NaN no score was better."""
    _, result = train(scored_cfg(tmp_path, scores))
    assert f"best_toy_AP_epoch_{best}.pth" in checkpoints(tmp_path)
    assert result["best_score"] == scores[best - 1]


def test_only_the_best_checkpoint_is_saved_where_nothing_else_is_asked_for(tmp_path: Path) -> None:
    """open-mmlab/mmengine#1597: every checkpoint was kept beside the best one."""
    train(scored_cfg(tmp_path, [0.1, 0.5, 0.4], interval=-1, save_last=False))
    assert checkpoints(tmp_path) == ["best_toy_AP_epoch_2.pth"]


def test_best_checkpoint_of_before_a_resume_is_kept_when_later_scores_are_worse(tmp_path: Path) -> None:
    """open-mmlab/mmengine#1166: the first score after an automatic resume replaced the best one."""
    train(scored_cfg(tmp_path, [0.9, 0.2]), epochs=2)
    _, result = train(scored_cfg(tmp_path, [0.5] * 4), epochs=4, resume=True)
    assert "best_toy_AP_epoch_1.pth" in checkpoints(tmp_path)
    assert result["best_score"] == 0.9


def test_model_is_in_training_mode_after_a_validation_between_iterations(tmp_path: Path) -> None:
    """open-mmlab/mmcv#2195: with EMA and an iteration-based loop the model stayed in evaluation mode."""
    cfg = toy_cfg(tmp_path, custom_hooks=[{"type": "EMAHook"}])
    cfg.train_cfg = {"by_epoch": False, "max_iters": 12, "val_interval": 5}
    cfg.train_dataloader.sampler = {"type": "InfiniteSampler", "shuffle": True}
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=5)
    cfg.param_scheduler = []
    steps, _ = train(cfg)
    assert [is_training for *_, is_training in steps] == [True] * 12


def test_a_checkpoint_of_an_averaged_model_evaluates_to_its_training_score(tmp_path: Path) -> None:
    """open-mmlab/mmengine#1678: the averaged weights could not be evaluated from the checkpoint."""
    _, result = train(toy_cfg(tmp_path, custom_hooks=[{"type": "EMAHook", "momentum": 0.5}]))
    runner = assemble(toy_cfg(tmp_path / "evaluate"))
    runner.load_checkpoint(str(tmp_path / "epoch_3.pth"))
    assert runner.val() == result["metrics"]


def test_variables_of_a_base_file_can_be_used_in_an_f_string(tmp_path: Path) -> None:
    """open-mmlab/mmengine#758: a value of `_base_` in an f-string was a placeholder."""
    (tmp_path / "base.py").write_text("root = 'data/x/'\n")
    (tmp_path / "child.py").write_text("_base_ = ['base.py']\nann = f'{_base_.root}train.pkl'\n")
    assert Config.fromfile(tmp_path / "child.py").ann == "data/x/train.pkl"


def test_a_work_dir_with_characters_of_a_pattern_is_resumed(tmp_path: Path) -> None:
    """brenthuisman/par2deep#24 and snowflakedb/snowflake-cli#2804: brackets of a folder were read as a pattern."""
    folder = tmp_path / "lr=[0.1] *?"
    train(toy_cfg(folder), epochs=1)
    steps, _ = train(toy_cfg(folder), epochs=2, resume=True)
    assert steps[0][0] == 12
    assert checkpoints(folder) == ["epoch_1.pth", "epoch_2.pth"]


def test_loader_options_for_workers_are_no_error_without_workers(tmp_path: Path) -> None:
    """open-mmlab/mmsegmentation#2514 and mllam/neural-lam#234: `persistent_workers=True` was a ValueError there."""
    cfg = toy_cfg(tmp_path)
    cfg.train_dataloader.update(persistent_workers=True, prefetch_factor=4)
    _, result = train(cfg, epochs=1)
    assert result["iter"] == 12
