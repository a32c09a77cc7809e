"""Model wrappers: what stands round the model when several processes train it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydet3d.dist import all_reduce_params, broadcast, is_model_wrapper, unwrapped
from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.optim import OptimWrapperDict
from raydet3d.registry import MODEL_WRAPPERS
from raydet3d.runtime.wrapper_steps import Steps

__all__ = [
    "MMDistributedDataParallel",
    "MMSeparateDistributedDataParallel",
    "from_sync_bn",
    "is_model_wrapper",
    "refuse_several",
    "to_sync_bn",
    "unreached",
    "unwrapped",
]


@MODEL_WRAPPERS.register_module()
class MMDistributedDataParallel(Steps, DistributedDataParallel):
    """DistributedDataParallel with ``train_step``, ``val_step`` and ``test_step``.

    The layout of the gradient buckets is fixed before the first step. (Torch lays them out anew after the first
    backward pass; from three ranks on that changes the order in which gradients are summed, so a resumed run, whose
    first step is a later one, would drift from the undisturbed run in the last bits.)

    Args:
        module: The model.
        detect_anomalous_params: Name parameters that a loss does not reach.
        **kwargs: Of DistributedDataParallel.
    """

    def __init__(self, module: nn.Module, detect_anomalous_params: bool = False, **kwargs: Any) -> None:
        # Gradients come roughly in the reverse order of parameters. The pinned layout follows the order in which
        # DDP lists them; where it cannot be pinned (unused parameters are looked for) torch reverses by itself.
        self._reverse = not kwargs.get("find_unused_parameters", False)
        if "broadcast_buffers" in kwargs and "forward_sync_buffers" in signature(DistributedDataParallel).parameters:
            kwargs["forward_sync_buffers"] = kwargs.pop("broadcast_buffers")  # its name from torch 2.13 on
        super().__init__(module, **kwargs)
        self.detect_anomalous_params = detect_anomalous_params
        self._told: list[str] = []
        if self._reverse:
            self.reducer._push_all_rebuilt_params()
            self.reducer._rebuild_buckets()

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        parameters, sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        return (parameters[::-1], sparse[::-1]) if self._reverse else (parameters, sparse)

    def look_at(self, loss: Tensor) -> None:
        """Warn of parameters that this loss does not reach, unless that was said of them in the last iteration."""
        if not self.detect_anomalous_params:
            return
        names = unreached(self.module, loss)
        if names and names != self._told:
            get_logger().warning("parameters that no loss reaches: %s", ", ".join(names))
        self._told = names


@MODEL_WRAPPERS.register_module()
class MMSeparateDistributedDataParallel(Steps, nn.Module):
    """For models that are trained in parts, with an optimizer each (``OptimWrapperDict``): they do their own steps.

    Whenever a backward pass ends, the gradients that it has touched are averaged over the ranks, in one exchange; so a
    step may go forward and backward as often as it likes, through any part of the model. (MMEngine puts each child
    into a wrapper, which changes the names in checkpoints.) All ranks must use the same parameters.

    Args:
        module: The model.
        device_ids: Accepted for DistributedDataParallel's sake, as are the two below.
        broadcast_buffers: Buffers are the ranks' own while training, and rank 0's in a validation and in checkpoints.
        find_unused_parameters: A parameter that no loss reaches gets no gradient.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: Any = None,
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

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """The model's own step of training."""
        self._touched.clear()  # of a backward pass that failed
        out: dict[str, Tensor] = self.module.train_step(data, optim_wrapper)
        return out

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes without an exchange; the next one outside averages what they have added up."""
        before, self._exchanges = self._exchanges, False
        try:
            yield
        finally:
            self._exchanges = before


def refuse_several(model: nn.Module, optim_wrapper: Any) -> None:
    """Refuse several optimizers where the model stands in a wrapper that makes the one step of all.

    Raises:
        InputError: They cannot be trained with.
    """
    if isinstance(optim_wrapper, OptimWrapperDict) and getattr(type(model), "train_step", None) is Steps.train_step:
        raise InputError(
            "several optimizers on several ranks need model_wrapper_cfg=dict("
            "type='MMSeparateDistributedDataParallel'), which leaves the step to the model's train_step"
        )


def unreached(model: nn.Module, loss: Tensor) -> list[str]:
    """Names of the trainable parameters that a loss does not depend on: those that its graph does not lead to.

    Args:
        model: The model.
        loss: What it gave, with its graph.
    """
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


def to_sync_bn(model: nn.Module, kind: str) -> nn.Module:
    """Replace BatchNorm by one whose statistics are those of all ranks.

    Args:
        model: The model.
        kind: ``torch`` (``mmcv`` is taken for the same).
    """
    if kind not in ("torch", "mmcv"):
        raise InputError(f"sync_bn must be 'torch' or 'mmcv', got {kind!r}")
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    assert isinstance(converted, nn.Module)
    return converted


def from_sync_bn(model: nn.Module) -> nn.Module:
    """Replace SyncBatchNorm by BatchNorm: a process alone has nobody to share statistics with."""
    for name, child in model.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            setattr(model, name, _PlainBatchNorm.like(child))
        else:
            from_sync_bn(child)
    return model


class _PlainBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm for inputs of any number of dimensions, as SyncBatchNorm takes them."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    @classmethod
    def like(cls, norm: nn.SyncBatchNorm) -> _PlainBatchNorm:
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.load_state_dict(norm.state_dict())
        return made
