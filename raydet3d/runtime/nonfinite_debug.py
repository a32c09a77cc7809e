"""Find the source of non-finite values: replay a batch and check each module's output and each gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from raydet3d.dist import get_world_size, unwrapped
from raydet3d.hooks.context import DataBatch
from raydet3d.optim import OptimWrapper, OptimWrapperDict
from raydet3d.runtime import rng
from raydet3d.runtime.ddp import needs_all_ranks


def diagnose_nonfinite(
    model: nn.Module, optim_wrapper: OptimWrapper, data_batch: DataBatch, device: torch.device
) -> str:
    """Replay a batch and describe what was non-finite first.

    The model's parameters, buffers and gradients and all random generators are left unchanged. The replay may be
    finite although the step was not, because the weights may have been updated since and dropout draws new masks.

    Must be called on all ranks the same number of times. The batch is replayed on all ranks or on none: where a
    forward or backward pass communicates (sharded weights, SyncBatchNorm), a rank that returns early would block the
    others.

    Args:
        model: The model, with or without its wrapper.
        optim_wrapper: The run's optim wrapper; its `optim_context` (mixed precision) is used.
        data_batch: A batch from the dataloader.
        device: Device of the run.
    """
    bare = unwrapped(model)
    plain = _find_in_data(bare, data_batch)
    if get_world_size() > 1 and needs_all_ranks(model):
        return plain or "not tried again: that needs every rank at its batch"
    if plain and get_world_size() == 1:
        return plain
    replayed = _replay(bare, optim_wrapper, data_batch, device)
    return plain or replayed


def _find_in_data(bare: nn.Module, data_batch: DataBatch) -> str:
    """Check weights and batch, which needs no replay; return an empty string if both are finite."""
    for name, weight in bare.named_parameters():
        if not _is_finite(getattr(weight, "to_local", lambda weight=weight: weight)()):
            return f"the weights of {name} are not finite"
    bad_input = next((path for path, tensor in _tensors(data_batch) if not _is_finite(tensor)), "")
    return bad_input and f"the batch itself is not finite: {bad_input}"


def _replay(bare: nn.Module, optim_wrapper: OptimWrapper, data_batch: DataBatch, device: torch.device) -> str:
    """Replay a batch and describe what was non-finite first."""
    kept = [buffer.detach().clone() for buffer in bare.buffers()]
    trial = _Trial(bare, optim_wrapper)
    handles = [module.register_forward_hook(trial.check_output) for module in bare.modules()]
    try:
        with rng.preserve_rng_state(device):
            bare.train_step(data_batch, optim_wrapper=trial)  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - a custom train_step may use optim wrapper methods that _Trial lacks
        return f"the batch could not be tried again ({type(error).__name__}: {error})"
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, before in zip(bare.buffers(), kept, strict=True):
                buffer.copy_(before)
    return trial.found or "tried again, the batch gives a finite loss and finite gradients"


class _Trial:
    """Stub optim wrapper that checks outputs, loss and gradients for non-finite values and updates nothing.

    Args:
        model: The model to check.
        optim_wrapper: The run's optim wrapper.
    """

    def __init__(self, model: nn.Module, optim_wrapper: OptimWrapper) -> None:
        self.found = ""  # what was not finite first
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._given = self._wrapper = optim_wrapper

    def __getitem__(self, name: str) -> _Trial:
        """Select one optim wrapper of an `OptimWrapperDict`."""
        assert isinstance(self._given, OptimWrapperDict)
        self._wrapper = self._given[name]
        return self

    def optim_context(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return the context of the run's optim wrapper."""
        return self._wrapper.optim_context(model)

    def check_output(self, module: nn.Module, _: object, output: object) -> None:
        """Record the first module with a non-finite output (forward hook; children run before their parents)."""
        if not self.found and not all(_is_finite(tensor) for _, tensor in _tensors(output)):
            name, kind = self._names[module], type(module).__name__
            where = f"{name} ({kind})" if name else f"{kind} itself, outside its modules"
            self.found = f"the first output that is not finite is that of {where}"

    def update_params(self, loss: Tensor, *_: object, **__: object) -> None:
        """Check a loss and its gradients.

        The last parameter with a non-finite gradient is recorded: the backward pass reaches it first.
        """
        if self.found:
            return
        if not _is_finite(loss):
            kind = type(self._model).__name__
            self.found = f"all modules' outputs are finite, the loss that {kind} makes of them is not"
            return
        named = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
        for (name, _p), gradient in zip(named, gradients, strict=True):
            if gradient is not None and not _is_finite(gradient):
                self.found = f"the loss is finite, the gradient of {name} is not"


def _is_finite(tensor: Tensor) -> bool:
    dense = tensor.detach()
    dense = dense.coalesce().values() if dense.layout is torch.sparse_coo else dense
    return bool(torch.isfinite(dense).all())


def _tensors(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the path and value of each tensor in nested containers, boxes and objects with a `to_dict` method."""
    if isinstance(value, Tensor):
        yield path or "its tensor", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}[{key!r}]" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{path}[{i}]")
    elif isinstance(tensor := getattr(value, "tensor", None), Tensor):  # boxes
        yield f"{path}.tensor", tensor
    elif (to_dict := getattr(value, "to_dict", None)) is not None:
        yield from _tensors(to_dict(), path)
