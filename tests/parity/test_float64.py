"""Losses, gradients and statistics of PointPillars in float32 on a CPU against the same model in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raydet3d.registry import MODELS
from tests.kit.pointpillars import a_frame, published, reduced


class Masked(torch.autograd.Function):
    """ReLU whose active units are given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, active: Tensor) -> Tensor:
        ctx.save_for_backward(active)
        return x * active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (active,) = ctx.saved_tensors
        return grad * active, None


@dataclass
class Pass:
    """Results of a forward and a backward pass; `active` are the units of each ReLU with a positive input."""

    losses: dict[str, float]
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]
    active: dict[str, Tensor]


def training_pass(model: Any, ready: Mapping[str, Any], active: Mapping[str, Tensor] | None = None) -> Pass:
    """Run a training pass on a copy of a model; `active` gives the active units of its ReLUs."""
    model = copy.deepcopy(model)
    seen: dict[str, Tensor] = {}

    def relu(name: str, x: Tensor) -> Tensor:
        seen[name] = x > 0
        if active is None:
            return x.relu()
        given = active[name].to(x.dtype).contiguous(memory_format=torch.channels_last)
        return Masked.apply(x, given)  # type: ignore[no-any-return]

    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.forward = partial(relu, name)  # type: ignore[method-assign]
    losses = model(**ready, mode="loss")
    model.parse_losses(losses)[0].backward()
    return Pass(
        {name: sum(loss).item() for name, loss in losses.items()},
        {name: parameter.grad.double() for name, parameter in model.named_parameters()},
        {name: buffer.double() for name, buffer in model.named_buffers() if "running" in name},
        seen,
    )


def prepared(cfg: dict[str, Any], frames: int, seed: int = 0, **frame: Any) -> tuple[Any, dict[str, Any], Any, Any]:
    """Return a model with its input in float32, and both in float64."""
    torch.manual_seed(seed)
    model: Any = MODELS.build(cfg)
    model.init_weights()
    generator = torch.Generator().manual_seed(seed + 1)
    made = [a_frame(generator, **frame) for _ in range(frames)]
    data = {"inputs": {"points": [one[0] for one in made]}, "data_samples": [one[1] for one in made]}
    ready = model.data_preprocessor(data, True)
    voxels = ready["inputs"]["voxels"]
    double = {
        "inputs": {**ready["inputs"], "voxels": {**voxels, "voxels": voxels["voxels"].double()}},
        "data_samples": ready["data_samples"],
    }
    return model, ready, copy.deepcopy(model).double(), double


def errors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative errors by name."""
    return {name: float((found[name] - value).norm() / value.norm()) for name, value in expected.items()}


def test_losses_gradients_and_statistics_are_those_of_float64() -> None:
    model, ready, reference, double = prepared(reduced(), 2)
    found, expected = training_pass(model, ready), training_pass(reference, double)
    for name, value in expected.losses.items():
        assert abs(found.losses[name] - value) < 1e-5 * abs(value), name
    worst = errors(found.gradients, expected.gradients)
    assert max(worst.values()) < 1e-3, worst
    for name, value in expected.statistics.items():
        torch.testing.assert_close(found.statistics[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_gradients_at_published_size_differ_only_where_a_relu_turns(seed: int) -> None:
    """What remains comes from a few units whose input is so near to 0 that float32 gives it another sign."""
    model, ready, reference, double = prepared(published(), 1, seed, half=34.56, objects=10, background=15000)
    expected, found = training_pass(reference, double), training_pass(model, ready)
    for name, value in expected.losses.items():
        assert abs(found.losses[name] - value) < 1e-5 * abs(value), name
    turned = sum(int((found.active[name] != active).sum()) for name, active in expected.active.items())
    units = sum(active.numel() for active in expected.active.values())
    assert turned < 2e-6 * units
    assert max(errors(found.gradients, expected.gradients).values()) < 5e-3
    same = training_pass(model, ready, expected.active)
    worst = errors(same.gradients, expected.gradients)
    assert max(worst.values()) < 1e-3, worst


def test_features_of_pillars_are_those_of_float64() -> None:
    """Offsets to a pillar's centre are differences of numbers that are up to a thousand times larger."""
    model, ready, reference, double = prepared(published(), 1, half=34.56, objects=10, background=15000)
    voxels, exact = ready["inputs"]["voxels"], double["inputs"]["voxels"]
    names = ("voxels", "num_points", "coors")
    with torch.no_grad():
        found = model.voxel_encoder(*(voxels[name] for name in names)).double()
        expected = reference.voxel_encoder(*(exact[name] for name in names))
    assert (found - expected).norm() < 5e-7 * expected.norm()
