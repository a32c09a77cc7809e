"""Averages of a model's weights over the steps of training (EMA, SWA); what validates better than the last weights.

Source: MMEngine's averaged models (names, arguments, formulas and layout of the state); Izmailov et al., "Averaging
Weights Leads to Wider Optima and Better Generalization", UAI 2018.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.registry import MODELS


class BaseAveragedModel(nn.Module):
    """A copy of a model whose weights are an average of those that the model has had.

    The first update copies; then every ``interval``-th one averages. Its state dict has the copy's entries under
    ``module.`` and the count of updates as ``steps``.

    Args:
        model: The model; it is copied, not kept.
        interval: Updates from one that averages to the next.
        device: Where the copy lies; the model's by default.
        update_buffers: Average floating-point buffers (BatchNorm's statistics) as well; else they are copied.
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
        # The same number on the host: asking a GPU for it would stop training at every step.
        self._count = 0

    def average(self, averages: Sequence[Tensor], sources: Sequence[Tensor], steps: int) -> None:
        """Move all averages on, in place; one after the other by ``avg_func``, unless a kind knows a quicker way.

        Args:
            averages: The averages.
            sources: What the model has now, on the averages' device.
            steps: Updates so far.
        """
        for average, source in zip(averages, sources, strict=True):
            self.avg_func(average, source, steps)

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Move one average on, in place; to be written by a kind that does not write ``average``.

        Args:
            averaged_param: The average.
            source_param: What the model has now.
            steps: Updates so far.
        """
        raise NotImplementedError(f"{type(self).__name__} must define avg_func(averaged_param, source_param, steps)")

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's weights of this step into the average.

        Args:
            model: The model that trains.
        """
        mine, theirs = self._pairs(model)
        if self._count == 0:
            _copy(mine, theirs)
        elif self._count % self.interval == 0:
            floating = [i for i, tensor in enumerate(mine) if tensor.is_floating_point()]
            averages = [mine[i] for i in floating]
            sources = [theirs[i].to(mine[i].device) for i in floating]
            if averages:
                self.average(averages, sources, self._count)
        if not self.update_buffers:
            _copy(list(self.module.buffers()), list(model.buffers()))
        self._count += 1
        self.steps += 1

    @torch.no_grad()
    def copy_from(self, model: nn.Module) -> None:
        """Take the model's weights and buffers as they are, without counting an update."""
        _copy(list(self.module.state_dict().values()), list(model.state_dict().values()))

    @torch.no_grad()
    def swap_with(self, model: nn.Module) -> None:
        """Exchange weights with the model (and buffers, where those are averaged too)."""
        mine: list[Tensor] = [*self.module.parameters()]
        theirs: list[Tensor] = [*model.parameters()]
        if self.update_buffers:
            mine += self.module.buffers()
            theirs += model.buffers()
        for average, source in zip(mine, theirs, strict=True):
            before = average.detach().clone()
            average.copy_(source)
            source.copy_(before)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the copy."""
        return self.module(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over weights and count."""
        found = super().load_state_dict(state_dict, strict, assign)
        self._count = int(self.steps)
        return found

    def _pairs(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """What is averaged, and the model's tensors of the same names."""
        if self.update_buffers:
            mine: Mapping[str, Tensor] = self.module.state_dict()
            theirs: Mapping[str, Tensor] = model.state_dict()
        else:
            mine, theirs = dict(self.module.named_parameters()), dict(model.named_parameters())
        return [tensor.detach() for tensor in mine.values()], [theirs[name].detach() for name in mine]


@MODELS.register_module()
class StochasticWeightAverage(BaseAveragedModel):
    """The plain mean of all weights that were taken: ``a + (w - a) / (n + 1)``.

    Args:
        model: See ``BaseAveragedModel``, like the rest.
        interval: See ``model``.
        device: See ``model``.
        update_buffers: See ``model``.
    """

    def average(self, averages: Sequence[Tensor], sources: Sequence[Tensor], steps: int) -> None:
        """Move towards the sources by one part in as many as were taken."""
        differences = torch._foreach_sub(list(sources), list(averages))
        torch._foreach_add_(list(averages), differences, alpha=1 / float(steps // self.interval + 1))


@MODELS.register_module()
class ExponentialMovingAverage(BaseAveragedModel):
    """An average that forgets: ``(1 - momentum) a + momentum w``.

    ``momentum`` is the share of the new weights: a small number, unlike what the word means for optimizers.

    Args:
        model: See ``BaseAveragedModel``.
        momentum: Share of the new weights, between 0 and 1.
        interval: See ``BaseAveragedModel``.
        device: See ``BaseAveragedModel``.
        update_buffers: See ``BaseAveragedModel``.
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
                "%s: momentum=%g is the share of the new weights; usual values are far below 0.5",
                type(self).__name__,
                momentum,
            )
        self.momentum = momentum

    def average(self, averages: Sequence[Tensor], sources: Sequence[Tensor], steps: int) -> None:
        """Move towards the sources by the momentum's share."""
        torch._foreach_lerp_(list(averages), list(sources), self.share(steps))

    def share(self, steps: int) -> float:
        """The share of the new weights after so many updates."""
        return self.momentum


@MODELS.register_module()
class MomentumAnnealingEMA(ExponentialMovingAverage):
    """An exponential average that begins quickly: its momentum is ``max(momentum, gamma / (gamma + n))``.

    Args:
        model: See ``BaseAveragedModel``.
        momentum: Least share of the new weights.
        gamma: The greater, the longer the average follows quickly.
        interval: See ``BaseAveragedModel``.
        device: See ``BaseAveragedModel``.
        update_buffers: See ``BaseAveragedModel``.
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

    def share(self, steps: int) -> float:
        """The share of the new weights after so many updates."""
        return max(self.momentum, self.gamma / (self.gamma + steps))


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors into others, across devices too."""
    pairs = [(t.detach(), s.detach()) for t, s in zip(targets, sources, strict=True)]
    if pairs:
        torch._foreach_copy_([t for t, _ in pairs], [s for _, s in pairs])
