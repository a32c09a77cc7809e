"""CheckpointHook: which files a run of toys leaves behind; against MMEngine's rules (runtime.md 1.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.hooks import CheckpointHook, Hook
from raydet3d.runtime import Runner, assemble
from tests.kit.toy import toy_cfg


def run(folder: Path, hook: dict[str, Any], **changes: Any) -> tuple[Runner, dict[str, Any]]:
    cfg = toy_cfg(folder, default_hooks__checkpoint={"type": "CheckpointHook", **hook}, log_level="ERROR", **changes)
    runner = assemble(cfg)
    return runner, runner.train()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pth"))


EPOCHS = {"by_epoch": True, "max_epochs": 5, "val_interval": 2}


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ({"interval": 2}, ["epoch_2.pth", "epoch_4.pth", "epoch_5.pth"]),
        ({"interval": 2, "save_last": False}, ["epoch_2.pth", "epoch_4.pth"]),
        ({"interval": 1, "max_keep_ckpts": 2}, ["epoch_4.pth", "epoch_5.pth"]),
        ({"interval": 1, "save_begin": 3}, ["epoch_3.pth", "epoch_4.pth", "epoch_5.pth"]),
        ({"interval": -1}, ["epoch_5.pth"]),
        ({"interval": -1, "save_last": False}, []),
        ({"interval": 2, "filename_tmpl": "e{}.pth"}, ["e2.pth", "e4.pth", "e5.pth"]),
        ({"interval": 1, "max_keep_ckpts": 1, "keep_every": 2}, ["epoch_2.pth", "epoch_4.pth", "epoch_5.pth"]),
        ({"interval": 1, "keep_bytes": 1}, ["epoch_5.pth"]),
        ({"interval": 25, "by_epoch": False}, ["iter_25.pth", "iter_50.pth", "iter_60.pth"]),
    ],
)
def test_which_checkpoints_are_kept(tmp_path: Path, hook: dict[str, Any], expected: list[str]) -> None:
    _, result = run(tmp_path, hook, train_cfg=EPOCHS)
    assert files(tmp_path) == expected
    if expected:
        assert (tmp_path / "last_checkpoint").read_text() == expected[-1]
        assert result["last_checkpoint"] == str(tmp_path / expected[-1])


class Crash(Hook):
    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 40:
            raise RuntimeError("crash")


def test_f8_interval_minus_one_loses_an_epoch_by_a_crash_and_not_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path, {"interval": -1}, train_cfg=EPOCHS, custom_hooks=[{"type": Crash}])
    assert files(tmp_path) == ["epoch_3.pth"]


def test_counting_iterations_under_an_epoch_loop_keeps_one_an_epoch(tmp_path: Path) -> None:
    hook = {"interval": -1, "by_epoch": False}
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path, hook, train_cfg={**EPOCHS, "val_interval": 1}, custom_hooks=[{"type": Crash}])
    assert files(tmp_path) == ["iter_36.pth"]


def test_contents_of_a_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, {"interval": 1, "save_param_scheduler": False})
    state = torch.load(tmp_path / "epoch_2.pth", weights_only=True)
    assert (state["meta"]["epoch"], state["meta"]["iter"], state["meta"]["seed"]) == (2, 24, 3)
    assert state["meta"]["dataset_meta"] == {"classes": ("toy",)}
    assert "param_schedulers" not in state
    assert {"state_dict", "optimizer", "message_hub", "progress", "history", "hooks", "rng", "sampler"} <= set(state)
    run(tmp_path / "iter", {"interval": 5, "by_epoch": False, "save_optimizer": False})
    state = torch.load(tmp_path / "iter" / "iter_5.pth", weights_only=True)
    assert (state["meta"]["epoch"], state["meta"]["iter"]) == (0, 5)
    assert "optimizer" not in state


SCORES = {"toy/mAE_loss": "less", "toy/AP": "greater"}


def test_the_best_of_several_metrics(tmp_path: Path) -> None:
    runner, _ = run(tmp_path, {"interval": -1, "save_best": list(SCORES)})
    best = [name for name in files(tmp_path) if name.startswith("best")]
    # The toy gets better with every epoch (its error falls), so both bests are the last; older ones are gone.
    assert best == ["best_toy_AP_epoch_3.pth", "best_toy_mAE_loss_epoch_3.pth"]
    assert runner.message_hub.get_info("best_ckpt_toy/AP") == str(tmp_path / "best_toy_AP_epoch_3.pth")
    assert "optimizer" not in torch.load(tmp_path / best[0], weights_only=True)


def test_worse_is_not_best_and_auto_takes_the_first_metric(tmp_path: Path) -> None:
    # By the wrong rule the first validation stays best.
    _, result = run(tmp_path, {"interval": -1, "save_best": "auto", "rule": "greater"})
    assert result["best_checkpoint"] == str(tmp_path / "best_toy_mAE_loss_epoch_1.pth")
    assert result["best_score"] > result["metrics"]["toy/mAE_loss"]


def test_a_metric_that_validation_never_gives(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"save_best='AP', but validation gave toy/AP and 2 others"):
        run(tmp_path, {"save_best": "AP"})


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"save_best": "height"}, "is more or less of save_best='height' better"),
        ({"save_best": ["auto", "mAP"]}, "cannot be combined"),
        ({"save_best": "mAP", "rule": "more"}, "rule must be 'greater' or 'less', got 'more'"),
        ({"save_best": ["mAP", "loss", "acc"], "rule": ["less", "less"]}, "2 rules for 3 metrics"),
        ({"save_begin": -1}, "save_begin must be 0 or more"),
        ({"keep_every": 0}, "keep_every must be a whole number from 1 up, got 0"),
        (
            {"keep_bytes": "much"},
            "keep_bytes: a size is a number of bytes or text",
        ),
        ({"backend_args": {"backend": "petrel"}}, "CheckpointHook: backend_args: backend 'petrel' is not known"),
    ],
)
def test_bad_arguments(args: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        CheckpointHook(**args)


def test_rules_are_told_from_names() -> None:
    hook = CheckpointHook(save_best=["coco/bbox_mAP", "val_loss", "top1", "Car_3D_AP40_moderate_strict"])
    assert list(hook._rules.values()) == ["greater", "less", "greater", "greater"]
    hook = CheckpointHook(save_best="height", greater_keys=["height"])
    assert hook._rules == {"height": "greater"}


def test_another_folder_and_publishing(tmp_path: Path) -> None:
    run(tmp_path / "work", {"interval": -1, "out_dir": str(tmp_path / "out"), "published_keys": ["meta", "state_dict"]})
    assert files(tmp_path / "work") == []
    folder = tmp_path / "out" / "work"
    (published,) = folder.glob("epoch_3-*.pth")
    assert len(published.stem) == len("epoch_3-") + 8
    assert set(torch.load(published, weights_only=True)) == {"meta", "state_dict"}
    assert (tmp_path / "work" / "last_checkpoint").read_text() == "../out/work/epoch_3.pth"


class Swap(Hook):
    """As an average of weights does: other weights go into the file, the model keeps its own."""

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {name: torch.zeros_like(value) for name, value in checkpoint["state_dict"].items()}


def test_hooks_may_edit_what_is_saved(tmp_path: Path) -> None:
    runner, _ = run(tmp_path, {"interval": -1}, custom_hooks=[{"type": Swap}])
    state = torch.load(tmp_path / "epoch_3.pth", weights_only=True)["state_dict"]
    assert all(value.abs().sum() == 0 for value in state.values())
    assert runner.model.first.weight.abs().sum() > 0


def test_metrics_and_rules_may_be_single_names_as_in_mmengine() -> None:
    hook = CheckpointHook(greater_keys="height", less_keys=["width"], save_best=["height", "width"])
    assert (hook.greater_keys, hook.less_keys) == (("height",), ["width"])
    assert (hook.key_indicators, hook.rules) == (["height", "width"], ["greater", "less"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"save_best": {"acc": "acc"}},
        {"save_best": ["auto", "acc"]},
        {"save_best": ["acc"], "rule": 1},
        {"save_best": ["acc"], "rule": ["greater", "less"]},
    ],
)
def test_wrong_metrics_and_rules_are_assertion_errors(wrong: Any) -> None:
    with pytest.raises(AssertionError):
        CheckpointHook(**wrong)


def test_the_old_and_the_new_name_of_the_backend_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="backend_args"):
        CheckpointHook(file_client_args={"backend": "disk"}, backend_args={"backend": "local"})
