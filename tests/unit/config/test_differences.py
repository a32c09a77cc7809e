"""Differences between a dumped config and the one of now."""

from __future__ import annotations

from typing import Any

import pytest

from raydet3d.config import Config
from raydet3d.config.differences import find_differences, read_dump

BEFORE: dict[str, Any] = {
    "work_dir": "a",
    "log_level": "INFO",
    "model": {"type": "M", "drop": 0.1, "sizes": (1, 2)},
    "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 0.1}},
    "randomness": {"seed": 5},
    "visualizer": {"api_key": "hush"},
    "limit": float("inf"),
    "mapping": {"a.b": -1},
}


def differences(**changes: Any) -> list[str]:
    now = Config({**BEFORE, **changes})
    return [str(one) for one in find_differences(read_dump(Config(BEFORE).pretty_text), now, ignored=["work_dir"])]


def test_a_dumped_config_has_no_differences_to_itself() -> None:
    assert differences() == []
    assert differences(work_dir="b", randomness={}) == []


def test_differences_that_change_the_numbers_come_first() -> None:
    found = differences(
        log_level="DEBUG",
        model={"type": "M", "drop": 0.2, "sizes": (1, 3)},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        new=1,
    )
    assert found == [
        "model.drop: 0.1 -> 0.2",
        "model.sizes.1: 2 -> 3",
        "optim_wrapper.optimizer.type: 'AdamW' -> 'SGD'",
        "log_level: 'INFO' -> 'DEBUG'",
        "new: absent -> 1",
    ]


def test_secrets_are_not_named() -> None:
    assert "hush" not in str(differences(visualizer={"api_key": "hush", "name": "x"}))


@pytest.mark.parametrize("text", ["import os", "a = open('b')", "a = os.system('ls')", "a = (", "a = [x for x in 'b']"])
def test_code_in_a_dump_is_not_run(text: str) -> None:
    with pytest.raises(ValueError, match=r"assignment|malformed|never closed"):
        read_dump(text)
