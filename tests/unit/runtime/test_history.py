"""History: windows worked out by hand; reading is the only copy from the device; cost does not grow."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raydet3d.runtime.history import KEEP, STATISTICS, History, Series, is_plain, register_statistic


class Counted(TorchDispatchMode):
    """Counts reads of scalars (and so waits for a device)."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += "_local_scalar_dense" in str(func) or "_to_copy" in str(func)
        return func(*args, **(kwargs or {}))


def test_windows() -> None:
    history = History()
    for i in range(6):
        history.update_scalar("train/loss", torch.tensor(float(i)))
        history.update_scalar("train/lr", 0.1 * i)
    loss = history.get_scalar("train/loss")
    assert loss.mean(3) == 4.0
    assert loss.mean() == 2.5
    assert (loss.min(2), loss.max(2), loss.max(), loss.current()) == (4.0, 5.0, 5.0, 5.0)
    assert loss.statistics("mean", 2) == 4.5
    assert loss.data == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(KeyError, match="no scalar 'train/los'"):
        history.get_scalar("train/los")
    with pytest.raises(ValueError, match="unknown statistic 'median'"):
        loss.statistics("median")


def test_pending_values_are_copied_together_at_the_first_read() -> None:
    history = History()
    values = [torch.tensor(float(i), requires_grad=True) * 2 for i in range(50)]
    norms = [value.double() for value in values]
    with Counted() as counted:
        for value, norm in zip(values, norms, strict=True):
            history.update_scalars({"train/loss": value, "train/norm": norm})
        assert counted.reads == 0
        history.flush()
        # One stack per type, brought to one type and read together: no scalar is read alone.
        assert counted.reads <= 2
    assert history.get_scalar("train/loss").mean(2) == 97.0
    assert history.get_scalar("train/norm").current() == 98.0


def test_values_of_many_kinds() -> None:
    history = History()
    history.update_scalars({"a": np.float32(1.5), "b": np.array([2.0]), "c": True, "d": {"value": 6.0, "count": 4}})
    assert [history.get_scalar(k).current() for k in "abcd"] == [1.5, 2.0, 1.0, 1.5]
    history.update_scalar("e", torch.ones(2))
    with pytest.raises(ValueError, match=r"scalar 'e' must have one element, got shape \(2,\)"):
        history.flush()


def test_cost_is_the_same_after_many_iterations() -> None:
    # F19
    history, value = History(), torch.tensor(1.0)

    def cost(count: int) -> float:
        best = math.inf
        for _ in range(5):
            start = time.process_time()
            for _ in range(count):
                history.update_scalar("train/loss", value)
            best = min(best, time.process_time() - start)
        return best / count

    early = cost(2000)
    for _ in range(100_000):
        history.update_scalar("train/loss", 1.0)
    assert len(history.get_scalar("train/loss").data) == KEEP
    assert cost(2000) < 3 * early + 2e-6
    assert history.get_scalar("train/loss").count == 100_000 + 20_000


def test_state_keeps_the_window_the_sums_and_plain_facts() -> None:
    history = History()
    for i in range(KEEP + 10):
        history.update_scalar("train/loss", float(i))
    history.update_scalar("train/secret", 1.0, resumed=False)
    history.update_info_dict({"best": 0.5, "name": "x", "object": history})
    history.update_info("not kept", 1, resumed=False)
    state = history.state_dict()
    other = History()
    other.load_state_dict(state)
    assert other.get_scalar("train/loss").mean(5) == history.get_scalar("train/loss").mean(5)
    assert other.get_scalar("train/loss").mean() == (KEEP + 9) / 2
    assert other.get_scalar("train/loss").min() == 0
    assert set(other.log_scalars) == {"train/loss"}
    assert other.runtime_info == {"best": 0.5, "name": "x"}
    assert other.get_info("missing", 3) == 3
    assert other.pop_info("best") == 0.5


def test_a_longer_window_is_reserved_when_it_is_asked_for() -> None:
    history = History()
    history.update_scalar("a", 0.0)
    history.get_scalar("a").reserve(KEEP + 500)
    for i in range(KEEP + 499):
        history.update_scalar("a", float(i))
    assert len(history.get_scalar("a").data) == KEEP + 500


def test_plain_data() -> None:
    assert is_plain({"a": [1, 2.0, None, ("x", True)]})
    assert not is_plain({"a": [object()]})
    assert not is_plain({(1, 2): 3})


def test_a_statistic_of_a_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet3d.runtime.history.STATISTICS", dict(STATISTICS))

    @register_statistic
    def spread(series: Series, window: int | None) -> float:
        values = series.last(window)
        return max(values) - min(values)

    history = History()
    for value in (9.0, 1.0, 4.0, 2.5):
        history.update_scalar("x", value)
    assert history.get_scalar("x").statistics("spread", 3) == 3.0
    assert history.get_scalar("x").statistics("spread") == 8.0
    with pytest.raises(ValueError, match="unknown statistic 'mode'; known: mean, min, max, current, spread"):
        history.get_scalar("x").statistics("mode")
