"""Averages of a model's weights over training (EMA, SWA).

Source: MMEngine (names, arguments, formulas and state dict); Izmailov et al., "Averaging
Weights Leads to Wider Optima and Better Generalization", UAI 2018.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.registry import MODELS


class BaseAveragedModel(nn.Module):
    """A copy of a model whose weights are an average of the model's weights during training.

    The first update copies the weights; then every `interval`-th update averages. The state dict has the entries of the
    copy under `module.` and the number of updates as `steps`.

    Args:
        model: The model to copy.
        interval: Number of updates from one average to the next.
        device: Device of the copy; the model's by default.
        update_buffers: Average floating-point buffers (BatchNorm statistics) as well; otherwise they are copied.
    """

    steps: Tensor

    def __init__(
        self,
        model: nn.Module,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise InputError(f"{type(self).__name__}: interval must be an integer of at least 1, got {interval!r}")
        self.module = copy.deepcopy(model).requires_grad_(False)
        if device is not None:
            self.module.to(device)
        self.interval = interval
        self.update_buffers = update_buffers
        self.register_buffer("steps", torch.tensor(0, dtype=torch.long, device=device))
        # The same number on the host: reading it from a GPU would synchronize at every step.
        self._count = 0

    def average(self, averages: Sequence[Tensor], sources: Sequence[Tensor], steps: int) -> None:
        """Update all averages in place; subclasses may replace the loop over `avg_func` by a faster operation.

        Args:
            averages: The averages.
            sources: The model's tensors, on the device of the averages.
            steps: Number of updates so far.
        """
        for average, source in zip(averages, sources, strict=True):
            self.avg_func(average, source, steps)

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Update one average in place; subclasses define this or `average`.

        Args:
            averaged_param: The average.
            source_param: The model's tensor.
            steps: Number of updates so far.
        """
        raise NotImplementedError(f"{type(self).__name__} must define avg_func(averaged_param, source_param, steps)")

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the model's current weights to the average.

        Args:
            model: The model that is trained.
        """
        averaged, current = self._pairs(model)
        if self._count == 0:
            _copy(averaged, current)
        elif self._count % self.interval == 0:
            floating = [i for i, tensor in enumerate(averaged) if tensor.is_floating_point()]
            averages = [averaged[i] for i in floating]
            sources = [current[i].to(averaged[i].device) for i in floating]
            if averages:
                self.average(averages, sources, self._count)
        if not self.update_buffers:
            _copy(list(self.module.buffers()), list(model.buffers()))
        self._count += 1
        self.steps += 1

    @torch.no_grad()
    def copy_from(self, model: nn.Module) -> None:
        """Copy the model's weights and buffers without counting an update."""
        _copy(list(self.module.state_dict().values()), list(model.state_dict().values()))

    @torch.no_grad()
    def swap_with(self, model: nn.Module) -> None:
        """Exchange weights with the model, and buffers if they are averaged too."""
        averages: list[Tensor] = [*self.module.parameters()]
        sources: list[Tensor] = [*model.parameters()]
        if self.update_buffers:
            averages += self.module.buffers()
            sources += model.buffers()
        for average, source in zip(averages, sources, strict=True):
            before = average.detach().clone()
            average.copy_(source)
            source.copy_(before)

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        result = super().load_state_dict(state_dict, strict, assign)
        self._count = int(self.steps)
        return result

    def _pairs(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Return the averaged tensors, and the model's tensors of the same names."""
        if self.update_buffers:
            averaged: Mapping[str, Tensor] = self.module.state_dict()
            current: Mapping[str, Tensor] = model.state_dict()
        else:
            averaged, current = dict(self.module.named_parameters()), dict(model.named_parameters())
        return [tensor.detach() for tensor in averaged.values()], [current[name].detach() for name in averaged]


@MODELS.register_module()
class StochasticWeightAverage(BaseAveragedModel):
    """Mean of the weights: `a + (w - a) / (n + 1)`. Arguments as for `BaseAveragedModel`."""

    @override
    def average(self, averages: Sequence[Tensor], sources: Sequence[Tensor], steps: int) -> None:
        differences = torch._foreach_sub(list(sources), list(averages))
        torch._foreach_add_(list(averages), differences, alpha=1 / float(steps // self.interval + 1))


@MODELS.register_module()
class ExponentialMovingAverage(BaseAveragedModel):
    """Exponential moving average: `(1 - momentum) a + momentum w`.

    `momentum` is the weight of the new values, a small number, unlike an optimizer's momentum.

    Args:
        model: See `BaseAveragedModel`.
        momentum: Weight of the new values, between 0 and 1.
        interval: See `BaseAveragedModel`.
        device: See `BaseAveragedModel`.
        update_buffers: See `BaseAveragedModel`.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, interval, device, update_buffers)
        if not 0 < momentum < 1:
            raise InputError(f"{type(self).__name__}: momentum must lie between 0 and 1, got {momentum!r}")
        if momentum > 0.5:
            get_logger().log(
                logging.WARNING,
                "%s: momentum=%g is the weight of the new values; usual values are far below 0.5",
                type(self).__name__,
                momentum,
            )
        self.momentum = momentum

    @override
    def average(self, averages: Sequence[Tensor], sources: Sequence[Tensor], steps: int) -> None:
        torch._foreach_lerp_(list(averages), list(sources), self.momentum_at(steps))

    def momentum_at(self, steps: int) -> float:
        """Return the weight of the new values after a number of updates."""
        return self.momentum


@MODELS.register_module()
class MomentumAnnealingEMA(ExponentialMovingAverage):
    """Exponential moving average whose momentum decreases to `momentum`: `max(momentum, gamma / (gamma + n))`.

    Args:
        model: See `BaseAveragedModel`.
        momentum: Final weight of the new values.
        gamma: The greater, the slower the momentum decreases.
        interval: See `BaseAveragedModel`.
        device: See `BaseAveragedModel`.
        update_buffers: See `BaseAveragedModel`.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int = 100,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)
        if gamma <= 0:
            raise InputError(f"{type(self).__name__}: gamma must be above 0, got {gamma!r}")
        self.gamma = gamma

    @override
    def momentum_at(self, steps: int) -> float:
        return max(self.momentum, self.gamma / (self.gamma + steps))


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors in place, also between devices."""
    pairs = [(t.detach(), s.detach()) for t, s in zip(targets, sources, strict=True)]
    if pairs:
        torch._foreach_copy_([t for t, _ in pairs], [s for _, s in pairs])
