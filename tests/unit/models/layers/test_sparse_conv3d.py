"""Sparse convolution layers: dense maps, shared pairs, inverse convolutions, both layouts of weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models import (
    SparseBasicBlock,
    SparseConv3d,
    SparseConvTensor,
    SparseInverseConv3d,
    SparseSequential,
    SubMConv3d,
    make_sparse_convmodule,
)

SHAPE = (6, 8, 7)


def sparse_input(channels=4, share=0.2):
    generator = torch.Generator().manual_seed(0)
    indices = (torch.rand(2, *SHAPE, generator=generator) < share).nonzero().int()
    features = torch.randn(len(indices), channels, dtype=torch.float64, generator=generator)
    return SparseConvTensor(features, indices, SHAPE, batch_size=2)


def test_layers_equal_dense_convolutions():
    torch.manual_seed(0)
    x = sparse_input()
    submanifold, strided = SubMConv3d(4, 6, 3, padding=1).double(), SparseConv3d(6, 5, 3, 2, 1, bias=False).double()
    out = strided(submanifold(x))
    mask = (x.dense().abs().sum(1, keepdim=True) > 0).double()
    dense = F.conv3d(x.dense(), submanifold.weight.permute(4, 3, 0, 1, 2), submanifold.bias, padding=1) * mask
    dense = F.conv3d(dense, strided.weight.permute(4, 3, 0, 1, 2), stride=2, padding=1)
    torch.testing.assert_close(out.dense(), dense, rtol=0, atol=1e-10)
    assert out.spatial_shape == [3, 4, 4]


def test_layers_of_one_stage_share_their_pairs():
    x = sparse_input()
    net = SparseSequential(SubMConv3d(4, 4, 3), nn.ReLU(), SubMConv3d(4, 4, 3, indice_key="other")).double()
    out = net(x)
    assert out.cells is x.cells
    assert len(x.cells.pairs) == 1


def test_inverse_convolution_returns_to_the_cells_of_its_counterpart():
    x = sparse_input()
    down, up = SparseConv3d(4, 6, 3, 2, 1, indice_key="down"), SparseInverseConv3d(6, 4, 3, indice_key="down")
    out = up.double()(down.double()(x))
    assert out.cells is x.cells
    assert out.features.shape == x.features.shape
    with pytest.raises(InputError, match="indice_key='missing'"):
        SparseInverseConv3d(4, 4, 3, indice_key="missing").double()(x)


def test_weights_of_spconv_2_are_permuted_when_loaded():
    layer, other = SubMConv3d(4, 6, 3, bias=False), SubMConv3d(4, 6, 3, bias=False)
    other.load_state_dict({"weight": layer.weight.detach().permute(4, 0, 1, 2, 3)})
    assert torch.equal(other.weight, layer.weight)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict({"weight": torch.zeros(3, 3, 3, 5, 6)})


def test_convmodule_and_basic_block_have_the_published_names():
    module = make_sparse_convmodule(4, 6, 3, "subm1", padding=1, norm_cfg={"type": "BN1d"})
    assert {"0.weight", "1.weight", "1.running_var"} <= set(module.state_dict())
    block = SparseBasicBlock(4, 4)
    assert {"conv1.weight", "bn1.weight", "conv2.weight", "bn2.bias"} <= set(block.state_dict())
    assert "conv1.bias" not in block.state_dict()


def test_basic_block_equals_its_formula():
    torch.manual_seed(0)
    x = sparse_input()
    block = SparseBasicBlock(4, 4).double().eval()
    out = block(x)
    first = F.relu(block.bn1(block.conv1(x).features))
    expected = F.relu(block.bn2(block.conv2(x.replace_feature(first)).features) + x.features)
    torch.testing.assert_close(out.features, expected)
    assert (x.features < 0).any()  # the input was not changed in place


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_cells_in_training_give_finite_gradients(count):
    x = SparseConvTensor(torch.ones(count, 4), torch.zeros(count, 4, dtype=torch.int32), SHAPE, batch_size=2)
    module = make_sparse_convmodule(4, 6, 3, stride=2, padding=1, conv_type="SparseConv3d")
    out = SparseSequential(module, SparseBasicBlock(6, 6))(x).dense()
    assert out.shape == (2, 6, 3, 4, 4)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
