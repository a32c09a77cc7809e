"""Generator state: captured, written, read back, and the draws are the same; a fence leaves no trace."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

from raydet3d.runtime import rng


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]


def test_state_survives_a_file_that_holds_plain_data_only() -> None:
    rng.set_seed(5)
    draws()  # leaves a second Gaussian waiting in Python's and numpy's generators
    file = io.BytesIO()
    torch.save(rng.capture(), file)
    expected = [draws() for _ in range(3)]
    rng.set_seed(6)
    rng.restore(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert [draws() for _ in range(3)] == expected


def test_preserve_rng_state_restores_the_generators() -> None:
    rng.set_seed(1)
    expected = draws()
    rng.set_seed(1)
    with rng.preserve_rng_state():
        draws()
    assert draws() == expected


def test_preserve_rng_state_restores_the_generators_after_an_error() -> None:
    rng.set_seed(1)
    expected = draws()
    rng.set_seed(1)
    fence = rng.preserve_rng_state()
    fence.__enter__()
    draws()
    assert not fence.__exit__(KeyError, KeyError(), None)  # what went wrong goes on
    assert draws() == expected


def test_ranks_share_a_seed_unless_told_otherwise() -> None:
    assert rng.set_seed(7, rank=3) == 7
    same = torch.rand(2)
    assert rng.set_seed(7, rank=3, diff_rank_seed=True) == 10
    assert not torch.equal(same, torch.rand(2))
    assert 0 <= rng.draw_seed() < 2**31


def test_deterministic_asks_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    try:
        rng.set_seed(0, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
