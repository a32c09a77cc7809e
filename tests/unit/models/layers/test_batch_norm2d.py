"""`BatchNorm2d` against torch's layer in float64."""

import pytest
import torch
from torch import nn

from raydet3d.models.layers.batch_norm2d import BatchNorm2d


@pytest.mark.parametrize("momentum", [0.01, None])
@pytest.mark.parametrize("affine", [True, False])
def test_equals_torch_in_float64_over_training_and_evaluation(momentum, affine):
    torch.manual_seed(0)
    ours = BatchNorm2d(6, momentum=momentum, affine=affine)
    theirs = nn.BatchNorm2d(6, momentum=momentum, affine=affine).double()
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        x = (torch.randn(2, 6, 30, 20) * 3 + 1).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours(x).double(), theirs(x.double()), rtol=1e-5, atol=1e-5)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name].double(), value.double(), rtol=1e-6, atol=1e-7)


def test_contiguous_and_half_precision_maps_use_the_kernel_of_torch():
    norm, plain = BatchNorm2d(4), nn.BatchNorm2d(4)
    for x in (torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5).bfloat16().to(memory_format=torch.channels_last)):
        assert torch.equal(norm(x), plain(x))


def test_frozen_weights_get_no_gradient():
    norm = BatchNorm2d(4).requires_grad_(False)
    x = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    norm(x).square().sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is None


def test_backward_after_a_forward_pass_of_another_type():
    norm = BatchNorm2d(4)
    x = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    half = norm(x.bfloat16())
    norm(x)
    half.float().sum().backward()
    assert x.grad is not None
