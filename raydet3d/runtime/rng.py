"""Seed the random generators, enable deterministic algorithms, and save and restore the generators' state."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from raydet3d.dist import broadcast_object


class _PythonState(TypedDict):
    version: int
    words: Tensor
    gauss: float | None


class _NumpyState(TypedDict):
    keys: Tensor
    position: int
    has_gauss: int
    cached: float


class RngState(TypedDict):
    """State of the global random generators, in types that `torch.load(weights_only=True)` accepts."""

    python: _PythonState
    numpy: _NumpyState
    torch: Tensor
    cuda: NotRequired[Tensor]


def draw_seed() -> int:
    """Draw a 31-bit seed from the operating system, the same on every rank."""
    return int(broadcast_object(int.from_bytes(os.urandom(4), "little") >> 1))


def set_seed(seed: int, *, rank: int = 0, diff_rank_seed: bool = False, deterministic: bool = False) -> int:
    """Seed the global generators of Python, NumPy and PyTorch.

    Args:
        seed: The run's seed.
        rank: This process's rank.
        diff_rank_seed: Seed rank r with `seed + r`.
        deterministic: Let PyTorch use deterministic algorithms only (slower; affects the whole process).

    Returns:
        The seed that this rank uses.
    """
    here = seed + rank if diff_rank_seed else seed
    random.seed(here)
    np.random.seed(here % 2**32)
    torch.manual_seed(here)  # also seeds the generators of all CUDA devices
    if deterministic:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return here


def capture(device: torch.device | None = None) -> RngState:
    """Return the generators' state, in types that `torch.load(weights_only=True)` accepts.

    Args:
        device: Device of the run; if it is a CUDA device, the state of its generator is included.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state: RngState = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: RngState, device: torch.device | None = None) -> None:
    """Set the generators to a state returned by `capture`."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"].cpu())
    if device is not None and device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextmanager
def preserve_rng_state(device: torch.device | None = None) -> Iterator[RngState]:
    """Restore the generators' state when the `with` block ends.

    Yields:
        The state before the block.
    """
    before = capture(device)
    try:
        yield before
    finally:
        restore(before, device)
