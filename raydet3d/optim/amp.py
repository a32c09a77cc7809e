"""Automatic mixed precision: the forward pass in float16 or bfloat16, with a loss scaler for float16."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Unpack, override

from raydet3d.dist import get_device
from raydet3d.errors import InputError, InputTypeError
from raydet3d.optim.wrapper import BackwardArgs, ClipGrad, OptimWrapper, StepArgs, WrapperState
from raydet3d.registry import OPTIM_WRAPPERS

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class GradScalerArgs(TypedDict, total=False):
    """Arguments of `torch.amp.GradScaler`."""

    init_scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    enabled: bool


def _read_dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    if dtype is None:
        return torch.get_autocast_dtype(device)
    if isinstance(dtype, str):
        name = dtype.removeprefix("torch.")
        if name not in DTYPES:
            raise InputError(f"optim_wrapper.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        return DTYPES[name]
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"optim_wrapper.dtype must be a name such as 'bfloat16' or a torch.dtype, got {dtype!r}")
    return dtype


def autocast(
    device_type: str | None = None,
    dtype: torch.dtype | None = None,
    enabled: bool = True,
    cache_enabled: bool | None = None,
) -> torch.autocast:
    """Return a context of mixed precision, as MMEngine's function of this name.

    Args:
        device_type: `cuda` or `cpu`; the kind of device in use by default.
        dtype: Type to compute in; the device's own by default.
        enabled: Whether to use mixed precision.
        cache_enabled: Whether to cache weights that were cast; torch's setting by default.
    """
    return torch.autocast(device_type or get_device(), dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """`OptimWrapper` with an automatic mixed precision forward pass, on any device.

    float16 needs a loss scaler, which reads a flag of each step on the host and so synchronises with the device.
    bfloat16 needs none. Steps that the scaler skips because its scale was too large do not count as bad; steps whose
    loss is not finite do.

    Args:
        loss_scale: `dynamic`, a fixed scale, or arguments of `torch.amp.GradScaler`.
        dtype: `float16`, `bfloat16` or a `torch.dtype`; by default the device's own (GPU: float16, CPU:
            bfloat16). `float32` and `float64` switch mixed precision off.
        use_fsdp: Whether the model is sharded by FSDP's first version, which has its own scaler.
        kwargs: `OptimWrapper`'s.
    """

    def __init__(
        self,
        loss_scale: str | float | GradScalerArgs = "dynamic",
        dtype: str | torch.dtype | None = None,
        use_fsdp: bool = False,
        *,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: ClipGrad | None = None,
        guard: bool = True,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad, guard=guard)
        self.device_type = self._guard.device.type
        self.cast_dtype = _read_dtype(dtype, self.device_type)
        self._static_scale: float | None = None
        scaler_args: dict[str, Any] = {}
        if isinstance(loss_scale, Mapping):
            scaler_args = {**loss_scale}
        elif isinstance(loss_scale, (int, float)) and not isinstance(loss_scale, bool):
            self._static_scale = float(loss_scale)
            if not 0 < self._static_scale < math.inf:
                raise InputError(f"loss_scale must be above 0 and finite, got {loss_scale!r}")
            scaler_args = {"init_scale": self._static_scale}
        elif loss_scale != "dynamic":
            raise InputTypeError(f'loss_scale must be of type float, dict, or "dynamic", got {loss_scale!r}')
        self.loss_scaler: torch.amp.GradScaler | None = None
        if self.cast_dtype is torch.float16:
            kind: Any = torch.amp.GradScaler
            if use_fsdp:
                from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler as kind
            try:
                self.loss_scaler = kind(device=self.device_type, **scaler_args)
            except TypeError as error:
                raise InputError(f"optim_wrapper.loss_scale: {error}") from None
        # NaN if a loss since the last update was not finite, else 0.
        self._loss_mark: Tensor | None = None

    @override
    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        enabled = self.cast_dtype in (torch.float16, torch.bfloat16)
        kind = self.cast_dtype if enabled else None
        with super().optim_context(model), torch.autocast(self.device_type, dtype=kind, enabled=enabled):
            yield

    @override
    def backward(self, loss: Tensor, **kwargs: Unpack[BackwardArgs]) -> None:
        if self.loss_scaler is None:
            super().backward(loss, **kwargs)
            return
        mark = loss.detach().mul(0)
        self._loss_mark = mark if self._loss_mark is None else self._loss_mark + mark
        super().backward(self.loss_scaler.scale(loss), **kwargs)

    @override
    def step(self, **kwargs: Unpack[StepArgs]) -> None:
        if self.loss_scaler is None:
            super().step(**kwargs)
            return
        if self.clip_type:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip([p for p in self._groups.params() if p.grad is not None])
        if self._guarded and self._loss_mark is not None:
            self._guard.judge([self._loss_mark], self._inner_count)
            self._guard.restore_buffers()
        self._loss_mark = None
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._static_scale)

    @override
    def state_dict(self) -> WrapperState:
        state = super().state_dict()
        if self.loss_scaler is not None:
            state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    @override
    def load_state_dict(self, state_dict: WrapperState) -> None:
        super().load_state_dict(state_dict)
        saved = state_dict.get("loss_scaler")
        if self.loss_scaler is not None and saved:
            self.loss_scaler.load_state_dict(saved)
