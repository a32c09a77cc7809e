"""Losses, gradients and statistics of PointPillars in float32 on a CPU against the same model in float64."""

import copy

import torch

from raydet3d.registry import MODELS
from tests.kit.pointpillars import a_frame, reduced


def training_pass(model, ready):
    losses = model(**ready, mode="loss")
    model.parse_losses(losses)[0].backward()
    gradients = {name: parameter.grad.double() for name, parameter in model.named_parameters()}
    statistics = {name: buffer.double() for name, buffer in model.named_buffers() if "running" in name}
    return {name: sum(loss).item() for name, loss in losses.items()}, gradients, statistics


def test_losses_gradients_and_statistics_are_those_of_float64():
    torch.manual_seed(0)
    model = MODELS.build(reduced())
    model.init_weights()
    generator = torch.Generator().manual_seed(1)
    frames = [a_frame(generator) for _ in range(2)]
    ready = model.data_preprocessor(
        {"inputs": {"points": [f[0] for f in frames]}, "data_samples": [f[1] for f in frames]}, True
    )
    voxels = ready["inputs"]["voxels"]
    double = {
        "inputs": {**ready["inputs"], "voxels": {**voxels, "voxels": voxels["voxels"].double()}},
        "data_samples": ready["data_samples"],
    }
    reference = copy.deepcopy(model).double()
    losses, gradients, statistics = training_pass(model, ready)
    expected_losses, expected_gradients, expected_statistics = training_pass(reference, double)
    for name, value in expected_losses.items():
        assert abs(losses[name] - value) < 1e-5 * abs(value), name
    for name, value in expected_gradients.items():
        assert (gradients[name] - value).norm() < 1e-3 * value.norm(), name
    for name, value in expected_statistics.items():
        torch.testing.assert_close(statistics[name], value, rtol=1e-5, atol=1e-7, msg=name)
