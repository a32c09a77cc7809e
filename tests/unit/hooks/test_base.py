"""Hooks: order, fall-through, helper questions, errors and state; against MMEngine's rules (runtime.md 1.6)."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.hooks import STAGES, Hook, Hooks, get_priority


class Spy(Hook):
    """Notes what it is called with."""

    def __init__(self, name: str, seen: list[Any]) -> None:
        self.name, self.seen = name, seen

    def before_run(self, runner: Any) -> None:
        self.seen.append(self.name)

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = ""
    ) -> None:
        self.seen.append((mode, batch_idx, outputs))

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        self.seen.append(mode)


RUNNER: Any = SimpleNamespace(epoch=1, iter=7, max_epochs=2, max_iters=8)


def test_the_22_stages() -> None:
    assert len(STAGES) == len(set(STAGES)) == 22
    assert all(callable(getattr(Hook, stage)) for stage in STAGES)
    assert Hook.stages == STAGES


def test_order_is_by_priority_then_by_registration() -> None:
    seen: list[Any] = []
    hooks = Hooks()
    for name, priority in (("a", None), ("b", "LOW"), ("c", 10), ("d", "normal"), ("e", "HIGHEST"), ("f", 70)):
        hooks.register(Spy(name, seen), priority)
    hooks.call(RUNNER, "before_run")
    assert seen == ["e", "c", "a", "d", "b", "f"]


@pytest.mark.parametrize(("priority", "words"), [(101, "between 0 and 100"), ("FIRST", "got 'FIRST'")])
def test_unknown_priorities(priority: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Hooks().register(Hook(), priority)
    assert get_priority("very_low") == 90


def test_stages_of_a_mode_fall_through() -> None:
    seen: list[Any] = []
    hooks = Hooks()
    hooks.register(Spy("a", seen))
    hooks.call(RUNNER, "before_train_epoch")
    hooks.call(RUNNER, "before_val_epoch")
    hooks.call(RUNNER, "after_test_iter", batch_idx=3, data_batch=None, outputs=[1])
    hooks.call(RUNNER, "after_train_epoch")
    hooks.call(RUNNER, "after_val_epoch", metrics={})
    assert seen == ["train", "val", ("test", 3, [1])]


def test_hooks_of_a_stage_are_collected_once_and_listed_in_the_table() -> None:
    hooks = Hooks()
    hooks.register(Spy("a", []))
    plain = Hook()
    plain.after_run = lambda runner: None  # type: ignore[method-assign]
    hooks.register(plain, 5)
    assert Spy.implements("after_val_iter")
    assert not Spy.implements("before_val_iter")
    stages = ["before_run", "before_train_epoch", "before_val_epoch", "before_test_epoch"]
    stages += ["after_train_iter", "after_val_iter", "after_test_iter"]
    listed = {line.strip().rsplit("  ", 1)[1]: line.strip().rsplit("  ", 1)[0] for line in hooks.table().splitlines()}
    assert set(listed) == {"Spy(50)", "Hook(5)"}
    assert sorted(listed["Spy(50)"].split(", ")) == sorted(stages)
    assert listed["Hook(5)"].strip() == "after_run"


def test_a_stage_of_a_users_own() -> None:
    class Own(Hook):
        def after_lunch(self, runner: Any, menu: str) -> None:
            seen.append(menu)

    seen: list[str] = []
    hooks = Hooks()
    hooks.register(Own())
    hooks.call(RUNNER, "after_lunch", menu="soup")
    assert seen == ["soup"]
    hooks.call(RUNNER, "after_train_nap")  # has the shape of a stage by mode; nobody listens


def test_i4_an_error_keeps_its_type_and_trace_and_says_where() -> None:
    class Broken(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            raise TypeError("bad")

    hooks = Hooks()
    hooks.register(Broken())
    with pytest.raises(TypeError, match="bad") as caught:
        hooks.call(RUNNER, "after_train_iter", batch_idx=0)
    assert caught.value.args == ("bad",)
    assert caught.value.__notes__ == ["in hook Broken, stage after_train_iter, epoch 2, iteration 8"]
    assert caught.traceback[-1].name == "after_train_iter"


@pytest.mark.parametrize(
    ("epoch", "n", "start", "expected"),
    [(1, 2, 0, True), (0, 2, 0, False), (0, 2, 3, False), (4, 2, 3, True), (1, 0, 0, False)],
)
def test_every_n_epochs(epoch: int, n: int, start: int, expected: bool) -> None:
    runner: Any = SimpleNamespace(epoch=epoch, iter=epoch)
    assert Hook().every_n_epochs(runner, n, start) is expected
    assert Hook().every_n_train_iters(runner, n, start) is expected


def test_batch_intervals_and_last_iterations() -> None:
    hook = Hook()
    assert hook.every_n_inner_iters(9, 5)
    assert not hook.every_n_inner_iters(8, 5)
    assert not hook.every_n_inner_iters(9, -1)
    assert hook.end_of_epoch([1, 2, 3], 2)
    assert hook.is_last_train_epoch(RUNNER)
    assert hook.is_last_train_iter(RUNNER)


class Counting(Hook):
    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


def test_hooks_of_one_class_have_separate_states() -> None:
    # F13: the place where hooks keep their state
    hooks = Hooks()
    for hook, priority in ((Counting(1), 60), (Hook(), 55), (Counting(2), 50)):
        hooks.register(hook, priority)
    saved = hooks.state_dict()
    assert [(entry["position"], entry["name"]) for entry in saved] == [(0, "Counting"), (2, "Counting")]
    other = Hooks()
    first, second = Counting(), Counting()
    for hook, priority in ((Hook(), 0), (second, 60), (first, 50)):  # a hook more, in front: positions have moved
        other.register(hook, priority)
    assert other.load_state_dict(saved) == []
    assert (first.count, second.count) == (2, 1)
    assert Hooks().load_state_dict(saved) == ["Counting", "Counting"]


def test_numpy_in_a_state_becomes_plain() -> None:
    hooks = Hooks()
    state = {"best": np.float64(0.5), "seen": {np.int64(3): (np.bool_(True), Path("a/b"))}, "curve": np.arange(3.0)}
    hooks.register(Counting(state))  # type: ignore[arg-type]
    (entry,) = hooks.state_dict()
    file = io.BytesIO()
    torch.save(entry, file)
    file.seek(0)
    count = torch.load(file, weights_only=True)["state"]["count"]
    assert type(count["best"]) is float
    assert count["seen"] == {3: (True, "a/b")}
    assert torch.equal(count["curve"], torch.arange(3.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({1, 2}, r"hook Counting: state_dict\(\)\['count'\] is a set, which a checkpoint cannot hold"),
        ([np.array(["a"])], r"state_dict\(\)\['count'\]\[0\] is a ndarray"),
        ({(1, 2): 3}, r"state_dict\(\)\['count'\] has the key \(1, 2\)"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused_by_name(state: Any, words: str) -> None:
    hooks = Hooks()
    hooks.register(Counting(state))
    with pytest.raises(InputError, match=words):
        hooks.state_dict()
