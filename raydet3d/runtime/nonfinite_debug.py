"""Where something that is not finite comes from: a batch is tried again, and each module's output is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.dist import get_world_size
from raydet3d.runtime import rng
from raydet3d.runtime.ddp import needs_all_ranks, unwrapped


def diagnose_nonfinite(model: nn.Module, optim_wrapper: Any, data_batch: Any, device: torch.device) -> str:
    """Try a batch again, and say in a few words what was not finite first.

    The model, its buffers, its gradients and all generators are left as they were. Weights may have moved on since the
    batch was trained on, and dropout draws anew, so that the trial may be finite where the step was not.

    Every rank calls it equally often. All try, or none does: where a backward pass asks the other ranks (sharded
    weights, SyncBatchNorm), one that has ended early would leave them waiting.

    Args:
        model: The model, perhaps in a wrapper.
        optim_wrapper: Its ``optim_context`` (mixed precision) is used.
        data_batch: A batch from the loader.
        device: The run's.
    """
    bare = unwrapped(model)
    plain = _plain_fault(bare, data_batch)
    if get_world_size() == 1:
        return plain or _try(bare, optim_wrapper, data_batch, device)
    if needs_all_ranks(model):
        return plain or "not tried again: that needs every rank at its batch"
    tried = _try(bare, optim_wrapper, data_batch, device)
    return plain or tried


def _plain_fault(bare: nn.Module, data_batch: Any) -> str | None:
    """What can be told without a trial."""
    for name, weight in bare.named_parameters():
        if not _is_finite(getattr(weight, "to_local", lambda weight=weight: weight)()):
            return f"the weights of {name} are not finite"
    bad_input = next((path for path, tensor in _tensors(data_batch) if not _is_finite(tensor)), None)
    return None if bad_input is None else f"the batch itself is not finite: {bad_input}"


def _try(bare: nn.Module, optim_wrapper: Any, data_batch: Any, device: torch.device) -> str:
    """Try a batch again, and say what was not finite first."""
    kept = [buffer.detach().clone() for buffer in bare.buffers()]
    trial = _Trial(bare, optim_wrapper)
    names = {module: name for name, module in bare.named_modules()}
    handles = [module.register_forward_hook(trial.look) for module in names]
    try:
        with rng.preserve_rng_state(device):
            bare.train_step(data_batch, optim_wrapper=trial)  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - a training step of a user's own may need more than a trial gives it
        return f"the batch could not be tried again ({type(error).__name__}: {error})"
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, before in zip(bare.buffers(), kept, strict=True):
                buffer.copy_(before)
    if trial.first is not None:
        name, kind = names[trial.first], type(trial.first).__name__
        where = f"{name} ({kind})" if name else f"{kind} itself, outside its modules"
        return f"the first output that is not finite is that of {where}"
    if trial.bad_loss:
        return f"all modules' outputs are finite, the loss that {type(bare).__name__} makes of them is not"
    if trial.gradient is not None:
        return f"the loss is finite, the gradient of {trial.gradient} is not"
    return "tried again, the batch gives a finite loss and finite gradients"


class _Trial:
    """Stands in the optim wrapper's place: takes the loss and looks at gradients, but changes nothing.

    Args:
        model: The model that is tried.
        optim_wrapper: The real one.
    """

    def __init__(self, model: nn.Module, optim_wrapper: Any) -> None:
        self.first: nn.Module | None = None
        self.gradient: str | None = None
        self.bad_loss = False
        self._model = model
        self._given = self._wrapper = optim_wrapper

    def optim_context(self, model: nn.Module) -> AbstractContextManager[None]:
        """The real wrapper's context."""
        context: AbstractContextManager[None] = self._wrapper.optim_context(model)
        return context

    def __getitem__(self, name: str) -> _Trial:
        """The same for one of several optimizers."""
        self._wrapper = self._given[name]
        return self

    def look(self, module: nn.Module, _: Any, output: Any) -> None:
        """Look at a module's output; children are done before their parents."""
        if self.first is None and any(not _is_finite(tensor) for _, tensor in _tensors(output)):
            self.first = module

    def update_params(self, loss: Tensor, *_: Any, **__: Any) -> None:
        """Look at the gradients of a loss, the deepest last: that is where they went wrong first."""
        self.bad_loss = not _is_finite(loss)
        if self.first is not None or self.bad_loss:
            return
        named = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
        for (name, _p), gradient in zip(named, gradients, strict=True):
            if gradient is not None and not _is_finite(gradient):
                self.gradient = name


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    dense = tensor.detach()
    dense = dense.coalesce().values() if dense.layout is torch.sparse_coo else dense
    return bool(torch.isfinite(dense).all())


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested containers, and in objects that turn into a dict, each with the way to it."""
    if isinstance(value, Tensor):
        yield path or "its tensor", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}[{key!r}]" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{path}[{i}]")
    elif isinstance(getattr(value, "tensor", None), Tensor):  # boxes
        yield f"{path}.tensor", value.tensor
    elif hasattr(value, "to_dict"):
        yield from _tensors(value.to_dict(), path)
