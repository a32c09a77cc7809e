"""`ZeroRedundancyOptimizer`: each rank keeps the optimizer state of its share of the parameters only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from raydet3d import dist
from raydet3d.config import ConfigValue
from raydet3d.optim.optimizers import build_optimizer
from raydet3d.optim.param_groups import Group, OptimizerState, Value, settings_of
from raydet3d.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class ZeroRedundancyOptimizer(Optimizer):
    """Distribute an optimizer's state over the ranks: each steps its parameters and broadcasts them.

    Whole parameters are assigned, largest first, to the rank with the fewest elements so far. State dicts are the plain
    optimizer's, so a run can resume with any number of ranks, and with or without this class. `state_dict` is
    collective: every rank calls it (a run's `save_checkpoint` does), and rank 0 gets the whole state.

    Source: Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020, stage 1.

    Args:
        params: Parameters, or param groups.
        optimizer_type: Name of the optimizer that steps: torch's, or one from the table.
        kwargs: Its arguments.
    """

    def __init__(
        self, params: Iterable[Tensor] | list[Group], optimizer_type: str | type[Optimizer], **kwargs: ConfigValue
    ) -> None:
        self._owners: dict[int, int] = {}
        self._loads = [0] * dist.get_world_size()
        # It makes the defaults of all groups; after that it only ever sees this rank's parameters.
        groups: list[Any] = list(params)
        self.local = build_optimizer({"type": optimizer_type, **kwargs}, groups)
        super().__init__([{**group} for group in self.local.param_groups], self.local.defaults)
        self._deal()
        for param in [p for p in self.local.state if not self._is_mine(p)]:
            del self.local.state[param]
        self.state = self.local.state

    # ---- who has what

    def _deal(self) -> None:
        """Give each parameter that has none an owner; every rank comes to the same result."""
        new = [p for group in self.param_groups for p in group["params"] if id(p) not in self._owners]
        for param in sorted(new, key=lambda p: -p.numel()):
            rank = self._loads.index(min(self._loads))
            self._owners[id(param)] = rank
            self._loads[rank] += param.numel()

    def _is_mine(self, param: Tensor) -> bool:
        return self._owners[id(param)] == dist.get_rank()

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, on all ranks."""
        super().add_param_group(param_group)
        if self.__dict__.get("state") is not None and self._owners:
            self._deal()

    # ---- stepping

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a flag on the device (`found_inf`) can hold the step back."""
        return bool(getattr(self.local, "_step_supports_amp_scaling", False))

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, **kwargs: float
    ) -> float | None:
        """Step this rank's parameters, then exchange parameters between the ranks.

        Args:
            closure: Computes the loss again.
            kwargs: For the optimizer's `step`.
        """
        shares: list[Group] = [
            {**settings_of(group), "params": [p for p in group["params"] if self._is_mine(p)]}
            for group in self.param_groups
        ]
        self.local.param_groups = shares
        flags = {name: getattr(self, name) for name in ("found_inf", "grad_scale") if hasattr(self, name)}
        vars(self.local).update(flags)
        try:
            given = kwargs if closure is None else {"closure": closure, **kwargs}
            loss: float | None = self.local.step(**given)
        finally:
            for name in flags:
                delattr(self.local, name)
        for group, share in zip(self.param_groups, shares, strict=True):
            group.update(settings_of(share))  # some optimizers keep notes there
        self._exchange()
        return loss

    @torch.no_grad()
    def _exchange(self) -> None:
        """Bring every rank's parameters to all ranks: one message for each rank and type."""
        if dist.get_world_size() == 1:
            return
        bundles: dict[tuple[int, torch.dtype], list[Tensor]] = {}
        for group in self.param_groups:
            for param in group["params"]:
                if param.requires_grad:
                    bundles.setdefault((self._owners[id(param)], param.dtype), []).append(param)
        for (owner, _), params in sorted(bundles.items(), key=lambda item: (item[0][0], str(item[0][1]))):
            flat = torch.cat([p.reshape(-1) for p in params])
            dist.broadcast(flat, owner)
            if owner != dist.get_rank():
                parts = torch.split(flat, [p.numel() for p in params])
                torch._foreach_copy_(params, [part.view(p.shape) for part, p in zip(parts, params, strict=True)])

    # ---- states

    def state_dict(self) -> OptimizerState:  # type: ignore[override]
        """Return the plain optimizer's state: whole on rank 0, this rank's share elsewhere. All ranks call it."""
        packed: OptimizerState = super().state_dict()  # type: ignore[assignment]  # a plain dict there
        shares = dist.gather_object({slot: _to_host(state) for slot, state in packed["state"].items()})
        if shares is not None:
            whole = {slot: state for share in shares for slot, state in share.items()}
            packed["state"] = {slot: whole[slot] for slot in sorted(whole)}
        return packed

    def load_state_dict(self, state_dict: OptimizerState) -> None:  # type: ignore[override]
        """Load a plain optimizer's state; each rank keeps its share."""
        params = [p for group in self.param_groups for p in group["params"]]
        slots = [slot for group in state_dict["param_groups"] for slot in group["params"]]
        mine = {slot for slot, param in zip(slots, params, strict=True) if self._is_mine(param)}
        share = {slot: state for slot, state in state_dict["state"].items() if slot in mine}
        super().load_state_dict({**state_dict, "state": share})
        self.local.state = self.state


def _to_host(state: dict[str, Value]) -> dict[str, Value]:
    return {key: value.cpu() if isinstance(value, Tensor) else value for key, value in state.items()}
