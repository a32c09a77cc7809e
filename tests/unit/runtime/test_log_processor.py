"""LogProcessor: custom columns and windows, worked out by hand; lines themselves are in hooks/test_logger.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.runtime.history import History
from raydet3d.runtime.log_processor import LogProcessor, peak_memory

CPU = torch.device("cpu")


def runner(losses: list[float]) -> Any:
    history = History()
    for i, loss in enumerate(losses):
        history.update_scalar("train/lr", 0.1 / (i + 1))
        history.update_scalar("train/loss", loss)
        history.update_scalar("train/score", loss)
        history.update_scalar("val/AP", 1.0)
    return SimpleNamespace(
        message_hub=history,
        epoch=1,
        iter=len(losses) - 1,
        max_epochs=3,
        max_iters=100,
        device=CPU,
        train_dataloader=[0] * 4,
    )


def test_means_and_newest_values() -> None:
    tag, line = LogProcessor(window_size=2).get_log_after_iter(runner([8.0, 4.0, 2.0, 1.0]), 3, "train")
    assert (tag["loss"], tag["score"], tag["lr"]) == (1.5, 1.0, 0.025)
    assert (tag["epoch"], tag["iter"]) == (2, 4)
    assert "AP" not in tag
    assert line.startswith("Epoch(train) [2][4/4]  lr: 2.5000e-02  memory: ")
    assert line.endswith("loss: 1.5000  score: 1.0000")


def test_custom_columns() -> None:
    custom = [
        {"data_src": "loss", "method_name": "max", "window_size": 3},
        {"data_src": "loss", "method_name": "mean", "window_size": "epoch", "log_name": "epoch_loss"},
        {"data_src": "loss", "method_name": "min", "window_size": "global", "log_name": "least"},
        {"data_src": "score", "method_name": "current", "log_name": "now"},
    ]
    # 6 values, the last 2 of them in this epoch
    tag, _ = LogProcessor(custom_cfg=custom).get_log_after_iter(runner([0.5, 9.0, 8.0, 4.0, 2.0, 1.0]), 1, "train")
    assert tag["loss"] == 4.0
    assert tag["epoch_loss"] == 1.5
    assert tag["least"] == 0.5
    assert tag["now"] == 1.0


def test_hierarchy_and_digits() -> None:
    processor = LogProcessor(log_with_hierarchy=True, num_digits=2)
    tag, line = processor.get_log_after_iter(runner([2.0]), 0, "train")
    assert "train/loss" in tag
    assert "loss: 2.00" in line


def test_scores_of_a_validation_and_what_is_no_number() -> None:
    run = runner([1.0])
    run.message_hub.update_info("val_metrics", {"AP": 12.34567, "count": 3, "table": "a b"})
    run.message_hub.update_scalars({"val/time": 0.5, "val/data_time": 0.25})
    tag, line = LogProcessor().get_log_after_epoch(run, 1, "val")
    assert line == "Epoch(val) [1][1/1]    AP: 12.3457  count: 3  table: a b  data_time: 0.2500  time: 0.5000"
    assert tag == {"AP": 12.34567, "count": 3, "data_time": 0.25, "time": 0.5}
    assert LogProcessor().get_log_after_epoch(run, 1, "val", with_non_scalar=True)[0]["table"] == "a b"
    some = LogProcessor().get_log_after_epoch(run, 1, "val", headline=["nothing of this name"])
    assert some[0] == tag  # files keep all
    assert "table" not in some[1]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"data_src": "loss"}, "needs a data_src and a method_name"),
        ({"data_src": "loss", "method_name": "median"}, "unknown method_name 'median'"),
        ({"data_src": "loss", "method_name": "mean", "window": 3}, "unknown key 'window'"),
        ({"data_src": "loss", "method_name": "mean", "window_size": "all"}, "a number, 'epoch' or 'global', got 'all'"),
    ],
)
def test_bad_columns(item: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LogProcessor(custom_cfg=[item])


def test_more_bad_columns() -> None:
    mean = {"data_src": "loss", "method_name": "mean"}
    with pytest.raises(InputError, match="two entries log 'loss'"):
        LogProcessor(custom_cfg=[mean, mean])
    with pytest.raises(InputError, match="needs by_epoch=True"):
        LogProcessor(by_epoch=False, custom_cfg=[{**mean, "window_size": "epoch"}])
    processor = LogProcessor(custom_cfg=[{**mean, "data_src": "lost"}])
    with pytest.raises(InputError, match="no scalar 'lost' to log; there are lr, loss, score"):
        processor.get_log_after_iter(runner([1.0]), 0, "train")


def test_memory_is_in_megabytes() -> None:
    assert 50 < peak_memory(CPU) < 100_000
