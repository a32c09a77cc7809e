"""Split an iteration's batch into micro-batches, to keep the global batch when the number of workers changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.hooks.context import DataBatch, StepModel
from raydet3d.optim import OptimWrapper


def train_in_parts(
    model: StepModel, batch: DataBatch, optim_wrapper: OptimWrapper, weights: Sequence[float]
) -> dict[str, Tensor]:
    """Train on a batch in micro-batches, with one optimizer step after the last of them.

    Args:
        model: The model, with a `train_step` method.
        batch: A batch from the dataloader.
        optim_wrapper: Accumulates the gradients of the micro-batches.
        weights: Loss weight of each micro-batch; their number is the number of micro-batches, unless the batch has
            fewer samples.

    Returns:
        The values to log, averaged over the micro-batches.

    Raises:
        InputError: The batch cannot be split, or the optim wrapper does not support micro-batches.
    """
    if not hasattr(optim_wrapper, "micro_batch"):
        raise InputError(
            f"{type(optim_wrapper).__name__} cannot train on an iteration in parts, which fewer workers than the run "
            "was laid out for need; start as many workers as before, or begin a new run"
        )
    size = batch_length(batch)
    parts = [(divide(batch, k, len(weights), size), weights[k]) for k in range(min(len(weights), size))]
    outputs = []
    for i, (part, weight) in enumerate(parts, start=1):
        with optim_wrapper.micro_batch(weight=weight, last=i == len(parts)):
            outputs.append(model.train_step(part, optim_wrapper=optim_wrapper))
    return _mean(outputs)


def batch_length(batch: DataBatch) -> int:
    """Return the number of samples in a collated batch: the length of its lists and of its tensors' first dimension.

    Raises:
        InputError: The batch has no list and no tensor, or their lengths differ.
    """
    lengths = set(_lengths(batch))
    if len(lengths) != 1:
        raise InputError(
            f"train_dataloader.collate_fn makes batches whose parts have lengths {sorted(lengths)}: they cannot be "
            "divided, which another number of workers than the run was laid out for needs"
        )
    return lengths.pop()


def _lengths(batch: object) -> list[int]:
    if isinstance(batch, Mapping):
        return [length for value in batch.values() for length in _lengths(value)]
    if isinstance(batch, Tensor):
        return [len(batch)] if batch.ndim else []
    return [len(batch)] if isinstance(batch, (list, tuple)) else []


def divide(batch: object, first: int, step: int, size: int) -> Any:
    """Select every `step`-th sample of a batch, starting at index `first`.

    Args:
        batch: Nested dicts of lists and tensors. Other values are not split.
        first: Index of the first selected sample.
        step: Distance between selected samples.
        size: Number of samples in the batch.
    """
    if isinstance(batch, Mapping):
        return {key: divide(value, first, step, size) for key, value in batch.items()}
    if isinstance(batch, (list, tuple, Tensor)) and not (isinstance(batch, Tensor) and batch.ndim == 0):
        assert len(batch) == size
        return batch[first::step]
    return batch


def _mean(outputs: Sequence[Mapping[str, Tensor | float]]) -> dict[str, Any]:
    """Average floats and floating-point tensors over the micro-batches; take other values from the last one."""
    out = dict(outputs[-1])
    for name, value in out.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            out[name] = torch.stack([torch.as_tensor(one[name]).detach() for one in outputs]).mean(0)
        elif isinstance(value, float):
            out[name] = sum(float(one[name]) for one in outputs) / len(outputs)
    return out
