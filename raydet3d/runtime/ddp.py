"""Model wrappers for training in several processes, and SyncBatchNorm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from raydet3d.dist import all_reduce_params, broadcast
from raydet3d.errors import InputError
from raydet3d.hooks.context import DataBatch, DataSample, PartCfg
from raydet3d.log import get_logger
from raydet3d.models.detectors.base import BaseModel, Losses, StepOptimizer
from raydet3d.models.module import BatchData
from raydet3d.optim import OptimWrapper, OptimWrapperDict
from raydet3d.registry import MODEL_WRAPPERS


class ModelWrapper:
    """Mixin of model wrappers: runs the steps of `BaseModel`, with forward passes through the wrapper.

    Attributes:
        module: The model.
        is_sharded: Whether each rank holds a part of the parameters only.
    """

    module: Any
    is_sharded: ClassVar[bool] = False

    @property
    def data_preprocessor(self) -> nn.Module:
        """The model's data preprocessor."""
        preprocessor: nn.Module = self.module.data_preprocessor
        return preprocessor

    def parse_losses(self, losses: Losses) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses as the model does."""
        parsed: tuple[Tensor, dict[str, Tensor]] = self.module.parse_losses(losses)
        return parsed

    _run_forward = BaseModel._run_forward
    train_step = BaseModel.train_step

    def val_step(self, data: DataBatch) -> Sequence[DataSample]:
        """Predict for a batch of validation."""
        predictions: Sequence[DataSample] = self.module.val_step(data)
        return predictions

    def test_step(self, data: DataBatch) -> Sequence[DataSample]:
        """Predict for a batch of testing."""
        predictions: Sequence[DataSample] = self.module.test_step(data)
        return predictions


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are sharded over the ranks."""
    return isinstance(model, ModelWrapper) and model.is_sharded


def needs_all_ranks(model: nn.Module) -> bool:
    """Whether forward or backward passes wait for the other ranks: for shards, or for SyncBatchNorm's statistics."""
    return is_sharded(model) or any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def config_needs_all_ranks(cfg: PartCfg) -> bool:
    """Answer `needs_all_ranks` for the model of a config, without building it."""
    kind = (cfg.get("model_wrapper_cfg") or {}).get("type")
    wrapper = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
    sharded = isinstance(wrapper, type) and issubclass(wrapper, ModelWrapper) and wrapper.is_sharded
    return sharded or bool(cfg.get("sync_bn"))


@MODEL_WRAPPERS.register_module()
class MMDistributedDataParallel(ModelWrapper, DistributedDataParallel):
    """`DistributedDataParallel` with `train_step`, `val_step` and `test_step`.

    The layout of the gradient buckets is fixed before the first step. torch changes it after the first backward pass:
    with three or more ranks, that changes the order in which gradients are summed, so that a resumed run, whose first
    step is a later one, would differ from the uninterrupted run in the last bits.

    Args:
        module: The model.
        detect_anomalous_params: Log the parameters that the loss does not depend on.
        **kwargs: Arguments of `DistributedDataParallel`.
    """

    def __init__(self, module: nn.Module, detect_anomalous_params: bool = False, **kwargs: Any) -> None:
        # Gradients come roughly in the reverse order of parameters. The pinned layout follows the order in which
        # DDP lists them; where it cannot be pinned (unused parameters are looked for) torch reverses by itself.
        self._reverse = not kwargs.get("find_unused_parameters", False)
        if "broadcast_buffers" in kwargs and "forward_sync_buffers" in signature(DistributedDataParallel).parameters:
            kwargs["forward_sync_buffers"] = kwargs.pop("broadcast_buffers")  # its name from torch 2.13 on
        super().__init__(module, **kwargs)
        self.detect_anomalous_params = detect_anomalous_params
        self._reported: list[str] = []
        if self._reverse:
            self.reducer._push_all_rebuilt_params()
            self.reducer._rebuild_buckets()

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        parameters, sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        return (parameters[::-1], sparse[::-1]) if self._reverse else (parameters, sparse)

    @override
    def parse_losses(self, losses: Losses) -> tuple[Tensor, dict[str, Tensor]]:
        loss, log_vars = super().parse_losses(losses)
        if self.detect_anomalous_params:
            names = find_unused_parameters(self.module, loss)
            if names and names != self._reported:
                get_logger().warning("parameters that no loss depends on: %s", ", ".join(names))
            self._reported = names
        return loss, log_vars


@MODEL_WRAPPERS.register_module()
class MMSeparateDistributedDataParallel(ModelWrapper, nn.Module):
    """Wrapper for models with a `train_step` of their own and several optimizers (`OptimWrapperDict`).

    At the end of each backward pass, the gradients that it changed are averaged over the ranks in one all-reduce, so a
    step may run any number of forward and backward passes through any part of the model. (MMEngine wraps each child,
    which changes the names in checkpoints.) All ranks must use the same parameters.

    Args:
        module: The model.
        device_ids: Accepted as an argument of `DistributedDataParallel`, without effect, like the two below.
        broadcast_buffers: Buffers are each rank's own in training, and rank 0's in a validation and in checkpoints.
        find_unused_parameters: A parameter that no loss depends on gets no gradient.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: Sequence[int | torch.device] | None = None,
        broadcast_buffers: bool = False,
        find_unused_parameters: bool = False,
    ) -> None:
        super().__init__()
        self.module = module
        self._exchanges = True
        self._touched: set[nn.Parameter] = set()
        for tensor in module.state_dict().values():
            broadcast(tensor)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._touch)  # type: ignore[no-untyped-call]

    def _touch(self, parameter: Tensor) -> None:
        if not self._exchanges:
            return
        if not self._touched:
            torch.autograd.Variable._execution_engine.queue_callback(self._average)
        self._touched.add(parameter)  # type: ignore[arg-type]

    def _average(self) -> None:
        touched, self._touched = self._touched, set()
        # In the model's order: the backward pass need not touch them in the same one on each rank.
        all_reduce_params(p.grad for p in self.module.parameters() if p in touched and p.grad is not None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.module(*args, **kwargs)

    def train_step(self, data: BatchData, optim_wrapper: StepOptimizer) -> dict[str, Tensor]:
        """Train on a batch with the model's own `train_step`."""
        self._touched.clear()  # of a backward pass that failed
        out: dict[str, Tensor] = self.module.train_step(data, optim_wrapper)
        return out

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Skip the all-reduce inside the block; the next backward pass outside averages the sum."""
        before, self._exchanges = self._exchanges, False
        try:
            yield
        finally:
            self._exchanges = before


def check_optimizers(model: nn.Module, optim_wrapper: OptimWrapper) -> None:
    """Refuse several optimizers for a wrapper that runs one optimizer step for the whole model.

    Raises:
        InputError: There are several, and the model's wrapper cannot train with them.
    """
    one_step = isinstance(model, ModelWrapper) and type(model).train_step is ModelWrapper.train_step
    if one_step and isinstance(optim_wrapper, OptimWrapperDict):
        raise InputError(
            "several optimizers on several ranks need model_wrapper_cfg=dict("
            "type='MMSeparateDistributedDataParallel'), which leaves the step to the model's train_step"
        )


def find_unused_parameters(model: nn.Module, loss: Tensor) -> list[str]:
    """Return the names of the trainable parameters that are not in a loss's autograd graph."""
    reached: set[int] = set()
    left = [loss.grad_fn]
    seen = set(left)
    while left:
        node: Any = left.pop()
        if hasattr(node, "variable"):  # where a gradient ends
            reached.add(id(node.variable))
        for following, _ in getattr(node, "next_functions", ()):
            if following is not None and following not in seen:
                seen.add(following)
                left.append(following)
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in reached]


def to_sync_bn(model: nn.Module, kind: str = "torch") -> nn.Module:
    """Replace BatchNorm by SyncBatchNorm, whose statistics are over all ranks.

    Args:
        model: The model.
        kind: `torch`; `mmcv` means the same.
    """
    if kind not in ("torch", "mmcv"):
        raise InputError(f"sync_bn must be 'torch' or 'mmcv', got {kind!r}")
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    assert isinstance(converted, nn.Module)
    return converted


def from_sync_bn(model: nn.Module) -> nn.Module:
    """Replace SyncBatchNorm by BatchNorm, for training in one process."""
    if isinstance(model, nn.SyncBatchNorm):
        return _PlainBatchNorm.like(model)
    for name, child in model.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            setattr(model, name, _PlainBatchNorm.like(child))
        else:
            from_sync_bn(child)
    return model


class _PlainBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm for inputs of any number of dimensions, as SyncBatchNorm accepts them."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    @classmethod
    def like(cls, norm: nn.SyncBatchNorm) -> _PlainBatchNorm:
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.load_state_dict(norm.state_dict())
        return made
