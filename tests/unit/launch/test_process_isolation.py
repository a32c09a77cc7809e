"""Runs that share a process: what one has changed is restored, and its objects are freed."""

from __future__ import annotations

import gc
import os
import random
import weakref
from typing import Any

import pytest
import torch

from raydet3d.launch.process_isolation import isolated


class Cycle:
    """An object that refers to itself, as a run does."""

    def __init__(self) -> None:
        self.mine = self


def test_generators_environment_and_threads_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEFORE", "1")
    random.seed(1)
    state, threads = random.getstate(), torch.get_num_threads()
    with isolated():
        random.random()
        torch.set_num_threads(threads + 1)
        os.environ["AFTER"] = "1"
        del os.environ["BEFORE"]
    assert random.getstate() == state
    assert torch.get_num_threads() == threads
    assert ("AFTER" in os.environ, os.environ["BEFORE"]) == (False, "1")


def test_objects_of_a_run_are_freed_at_its_end() -> None:
    with isolated():
        reference = weakref.ref(Cycle())
        gc.disable()
    gc.enable()
    assert reference() is None
    assert gc.get_freeze_count() == 0


def test_objects_of_a_failed_run_are_freed_before_the_next_one() -> None:
    kept: list[Any] = []

    def fail() -> None:
        cycle = Cycle()
        kept.append(weakref.ref(cycle))
        raise ValueError

    try:
        with isolated():
            fail()
    except ValueError as error:
        kept.append(error)  # and with its traceback, the object
    assert kept[0]() is not None
    del kept[1]
    with isolated():
        assert kept[0]() is None
