"""Activation checkpointing: recompute the activations of chosen submodules in the backward pass to save memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from raydet3d.runtime.model_parts import find_parts


def checkpoint_activations(model: nn.Module, names: Sequence[str]) -> None:
    """Enable activation checkpointing for some submodules of a model, in place.

    Outputs, gradients and the running statistics of BatchNorm stay the same.

    Args:
        model: The model, without its wrapper.
        names: Names of the submodules, as in `named_modules`.

    Raises:
        InputError: The model has no submodule of that name.
    """
    for part in find_parts(model, names, "activation_checkpointing"):
        kind = type(part)
        # Subclass, since a `forward` assigned to the instance would use the original's weights in copies of the model.
        part.__class__ = type(kind.__name__, (kind,), {"forward": _forward_of(kind), "__module__": kind.__module__})


def _forward_of(kind: Any) -> Any:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return kind.forward(self, *args, **kwargs)
        return checkpoint(
            lambda *a, **k: kind.forward(self, *a, **k),
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _untracked(self)),
            **kwargs,
        )

    return forward


@contextmanager
def _untracked(module: nn.Module) -> Iterator[None]:
    """Freeze BatchNorm's running statistics in the recomputation: the forward pass has already updated them."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
