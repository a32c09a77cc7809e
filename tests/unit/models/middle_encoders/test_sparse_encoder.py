"""`SparseEncoder`: published names and shapes of both block types, values against dense convolutions."""

import pytest
import torch
import torch.nn.functional as F

from raydet3d.errors import InputError
from raydet3d.registry import MODELS

SECOND = {"type": "SparseEncoder", "in_channels": 4, "sparse_shape": [41, 1600, 1408], "order": ("conv", "norm", "act")}
CENTERPOINT = {
    "type": "SparseEncoder",
    "in_channels": 5,
    "sparse_shape": [41, 1024, 1024],
    "order": ("conv", "norm", "act"),
    "encoder_channels": ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
    "encoder_paddings": ((0, 0, 1), (0, 0, 1), (0, 0, [0, 1, 1]), (0, 0)),
    "block_type": "basicblock",
}


def convolutions(cfg):
    state = MODELS.build(cfg).state_dict()
    return len(state), {name: tuple(value.shape) for name, value in state.items() if value.ndim == 5}


def test_names_and_shapes_of_second():
    count, weights = convolutions(SECOND)
    assert count == 12 * 6
    layer = "encoder_layers.encoder_layer"
    assert weights == {
        "conv_input.0.weight": (3, 3, 3, 4, 16),
        f"{layer}1.0.0.weight": (3, 3, 3, 16, 16),
        f"{layer}2.0.0.weight": (3, 3, 3, 16, 32),
        f"{layer}2.1.0.weight": (3, 3, 3, 32, 32),
        f"{layer}2.2.0.weight": (3, 3, 3, 32, 32),
        f"{layer}3.0.0.weight": (3, 3, 3, 32, 64),
        f"{layer}3.1.0.weight": (3, 3, 3, 64, 64),
        f"{layer}3.2.0.weight": (3, 3, 3, 64, 64),
        f"{layer}4.0.0.weight": (3, 3, 3, 64, 64),
        f"{layer}4.1.0.weight": (3, 3, 3, 64, 64),
        f"{layer}4.2.0.weight": (3, 3, 3, 64, 64),
        "conv_out.0.weight": (3, 1, 1, 64, 128),
    }


def test_names_and_shapes_of_centerpoint():
    count, weights = convolutions(CENTERPOINT)
    assert count == 6 * len(weights)
    assert len(weights) == 1 + 3 * 5 + 4 + 1
    assert weights["encoder_layers.encoder_layer1.1.conv2.weight"] == (3, 3, 3, 16, 16)
    assert weights["encoder_layers.encoder_layer3.2.0.weight"] == (3, 3, 3, 64, 128)
    assert weights["encoder_layers.encoder_layer4.1.conv1.weight"] == (3, 3, 3, 128, 128)
    assert weights["conv_out.0.weight"] == (3, 1, 1, 128, 128)


def dense_module(module, dense, mask, *, submanifold):
    conv, norm, _ = module
    weight = conv.weight.permute(4, 3, 0, 1, 2)
    if submanifold:
        out = F.conv3d(dense, weight, padding=[k // 2 for k in conv.kernel_size])
    else:
        ones = torch.ones_like(weight[:1, :1])
        mask = (F.conv3d(mask, ones, stride=conv.stride, padding=conv.padding) > 0).double()
        out = F.conv3d(dense, weight, stride=conv.stride, padding=conv.padding)
    shape = (1, -1, 1, 1, 1)
    scale = (norm.weight * (norm.running_var + norm.eps).rsqrt()).view(shape)
    out = (out - norm.running_mean.view(shape)) * scale + norm.bias.view(shape)
    return F.relu(out) * mask, mask


def test_map_equals_that_of_dense_convolutions():
    torch.manual_seed(0)
    shape = [25, 16, 24]
    encoder = MODELS.build({**SECOND, "sparse_shape": shape}).double().eval()
    for name, value in encoder.named_buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 2) if "var" in name else value.normal_()
    coors = (torch.rand(2, *shape) < 0.05).nonzero()
    features = torch.randn(len(coors), 4, dtype=torch.float64)
    out = encoder(features, coors, 2)
    mask = torch.zeros(2, 1, *shape, dtype=torch.float64)
    mask[coors[:, 0], 0, coors[:, 1], coors[:, 2], coors[:, 3]] = 1
    dense = torch.zeros(2, 4, *shape, dtype=torch.float64)
    dense[coors[:, 0], :, coors[:, 1], coors[:, 2], coors[:, 3]] = features
    dense, mask = dense_module(encoder.conv_input, dense, mask, submanifold=True)
    for index, stage in enumerate(encoder.encoder_layers):
        for j, block in enumerate(stage):
            dense, mask = dense_module(block, dense, mask, submanifold=index == 0 or j > 0)
    dense, mask = dense_module(encoder.conv_out, dense, mask, submanifold=False)
    torch.testing.assert_close(out, dense.flatten(1, 2), rtol=0, atol=1e-10)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_basic_blocks_train_and_middle_features_are_returned():
    shape = [41, 32, 32]
    encoder = MODELS.build({**CENTERPOINT, "sparse_shape": shape, "return_middle_feats": True})
    coors = (torch.rand(2, *shape) < 0.01).nonzero().int()
    out, stages = encoder(torch.randn(len(coors), 5), coors, 2)
    assert out.shape == (2, 256, 4, 4)
    assert [stage.spatial_shape for stage in stages] == [[21, 16, 16], [11, 8, 8], [5, 4, 4], [5, 4, 4]]
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_a_batch_without_voxels_gives_an_empty_map():
    encoder = MODELS.build({**SECOND, "sparse_shape": [41, 32, 32]})
    out = encoder(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), 2)
    assert out.shape == (2, 256, 4, 4)
    out.sum().backward()


def test_unknown_block_types_are_refused():
    with pytest.raises(InputError, match="block_type"):
        MODELS.build({**SECOND, "block_type": "bottleneck"})
