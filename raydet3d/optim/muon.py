"""`MuonAdamW`: Muon for matrices and convolutions, AdamW for vectors, under one learning rate.

torch's own `Muon` takes parameters of two dimensions only, which no detector with convolutions is made of.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (momentum, orthogonalised by five
Newton-Schulz steps with the coefficients 3.4445, -4.7750, 2.0315); Liu et al., "Muon is Scalable for LLM Training",
arXiv:2502.16982, 2.2 (updates scaled by 0.2 sqrt(max(rows, columns)), so that AdamW's learning rates fit).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from raydet3d.config.type_check import NonNegativeFloat, checked
from raydet3d.optim.param_groups import Group
from raydet3d.registry import OPTIMIZERS

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@OPTIMIZERS.register_module()
class MuonAdamW(torch.optim.Optimizer):
    """Muon where a weight is a matrix (a convolution's kernel is one of outputs by everything else), AdamW elsewhere.

    Args:
        params: Parameters, or param groups.
        lr: Learning rate of both.
        momentum: Muon's.
        weight_decay: Decoupled, of both.
        nesterov: Whether Muon's momentum looks ahead.
        betas: AdamW's.
        eps: AdamW's.
        ns_steps: Newton-Schulz steps.
    """

    @checked
    def __init__(
        self,
        params: Iterable[Tensor] | list[Group],
        lr: NonNegativeFloat = 1e-3,
        momentum: NonNegativeFloat = 0.95,
        weight_decay: NonNegativeFloat = 0.01,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        ns_steps: int = 5,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "betas": tuple(betas),
                "eps": eps,
                "ns_steps": ns_steps,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update once.

        Args:
            closure: Computes the loss again.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                rule = self._muon if weight.ndim >= 2 else self._adamw
                update = rule(weight, weight.grad, group)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"])
        return loss

    def _muon(self, weight: Tensor, gradient: Tensor, group: Group) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        matrix = direction.reshape(len(direction), -1)
        scale = 0.2 * math.sqrt(max(matrix.shape))
        return (orthogonal(matrix, steps=group["ns_steps"]) * scale).reshape(weight.shape)

    def _adamw(self, weight: Tensor, gradient: Tensor, group: Group) -> Tensor:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        unbiased: Tensor = mean / (1 - beta1 ** state["step"])
        update: Tensor = unbiased / ((square / (1 - beta2 ** state["step"])).sqrt() + group["eps"])
        return update


def orthogonal(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Roughly the nearest matrix with orthonormal rows (or columns): all singular values are close to 1.

    Args:
        matrix: (R, C), not all zero.
        steps: Newton-Schulz steps.

    Returns:
        (R, C), with singular values between about 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    tall = len(x) > x.shape[1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
