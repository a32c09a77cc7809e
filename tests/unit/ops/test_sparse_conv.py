"""Sparse convolutions against dense `conv3d` in float64: values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from raydet3d.ops.sparse_conv import sparse_conv, strided_pairs, submanifold_pairs

SHAPE = (9, 14, 12)


def active_cells(share=0.1, batch=2, shape=SHAPE, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(batch, *shape, generator=generator) < share).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    return coords, torch.randn(len(coords), channels, dtype=torch.float64, generator=generator)


def dense_of(coords, features, shape=SHAPE, batch=2):
    dense = features.new_zeros(batch, *shape, features.shape[1])
    dense = dense.index_put(tuple(coords.long().unbind(1)), features)
    return dense.permute(0, 4, 1, 2, 3)


def at(dense, coords):
    return dense.permute(0, 2, 3, 4, 1)[tuple(coords.long().unbind(1))]


def assert_equal_with_gradients(ours, expected, inputs):
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    grad = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(1))
    mine, theirs = (torch.autograd.grad(out, inputs, grad, retain_graph=True) for out in (ours, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def weights(kernel, c_in=5, c_out=7):
    generator = torch.Generator().manual_seed(2)
    count = kernel[0] * kernel[1] * kernel[2]
    weight = torch.randn(count, c_in, c_out, dtype=torch.float64, generator=generator).requires_grad_()
    return weight, weight.view(*kernel, c_in, c_out).permute(4, 3, 0, 1, 2)


@pytest.mark.parametrize("use_table", [True, False])
@pytest.mark.parametrize(
    ("kernel", "dilation"), [((3, 3, 3), (1, 1, 1)), ((1, 3, 3), (1, 1, 1)), ((3, 1, 3), (1, 1, 1)),
                             ((3, 3, 3), (2, 1, 3)), ((1, 1, 1), (1, 1, 1)), ((5, 3, 3), (1, 1, 1))]
)  # fmt: skip
def test_submanifold_equals_conv3d_at_the_active_cells(kernel, dilation, use_table):
    coords, features = active_cells()
    features.requires_grad_()
    weight, dense_weight = weights(kernel)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    pairs = submanifold_pairs(coords, SHAPE, kernel, dilation)
    ours = sparse_conv(features, weight, pairs, bias, use_table=use_table)
    padding = [r * (k // 2) for r, k in zip(dilation, kernel, strict=True)]
    dense = F.conv3d(dense_of(coords, features), dense_weight, bias, padding=padding, dilation=dilation)
    assert_equal_with_gradients(ours, at(dense, coords), [features, weight, bias])


STRIDED = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (0, 1, 1), (1, 1, 1)),
    ((3, 1, 1), (2, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    ((3, 3, 3), (2, 1, 3), (2, 0, 1), (1, 2, 1)),
]


@pytest.mark.parametrize("use_table", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), STRIDED)
def test_strided_equals_conv3d_everywhere(kernel, stride, padding, dilation, use_table):
    coords, features = active_cells()
    features.requires_grad_()
    weight, dense_weight = weights(kernel)
    pairs, out_coords, out_shape = strided_pairs(coords, SHAPE, kernel, stride, padding, dilation)
    ours = dense_of(out_coords, sparse_conv(features, weight, pairs, use_table=use_table), out_shape)
    expected = F.conv3d(dense_of(coords, features), dense_weight, stride=stride, padding=padding, dilation=dilation)
    assert tuple(expected.shape[2:]) == out_shape
    assert_equal_with_gradients(ours, expected, [features, weight])


@pytest.mark.parametrize("use_table", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), STRIDED)
def test_inverse_equals_the_transposed_convolution_at_the_inputs(kernel, stride, padding, dilation, use_table):
    coords, _ = active_cells()
    pairs, out_coords, out_shape = strided_pairs(coords, SHAPE, kernel, stride, padding, dilation)
    features = torch.randn(len(out_coords), 5, dtype=torch.float64, requires_grad=True)
    weight, dense_weight = weights(kernel)
    ours = sparse_conv(features, weight, pairs.transposed, use_table=use_table)
    reached = [
        (o - 1) * t - 2 * p + r * (k - 1) + 1
        for o, t, p, r, k in zip(out_shape, stride, padding, dilation, kernel, strict=True)
    ]
    dense = F.conv_transpose3d(
        dense_of(out_coords, features, out_shape),
        dense_weight.transpose(0, 1),
        stride=stride,
        padding=padding,
        output_padding=[size - have for size, have in zip(SHAPE, reached, strict=True)],
        dilation=dilation,
    )
    assert_equal_with_gradients(ours, at(dense, coords), [features, weight])


def test_random_grids_of_any_density():
    for seed, share in enumerate((0.0, 0.01, 0.5, 1.0)):
        coords, features = active_cells(share, shape=(4, 5, 6), seed=seed)
        weight, dense_weight = weights((3, 3, 3))
        pairs, out_coords, out_shape = strided_pairs(coords, (4, 5, 6), (3, 3, 3), (2, 2, 2), (1, 1, 1))
        ours = dense_of(out_coords, sparse_conv(features, weight, pairs), out_shape)
        expected = F.conv3d(dense_of(coords, features, (4, 5, 6)), dense_weight, stride=2, padding=1)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
        same = submanifold_pairs(coords, (4, 5, 6), (3, 3, 3))
        assert sparse_conv(features, weight, same).shape == (len(coords), 7)


def test_order_of_the_inputs_does_not_change_the_outputs():
    coords, features = active_cells()
    order = torch.randperm(len(coords), generator=torch.Generator().manual_seed(3))
    weight, _ = weights((3, 3, 3))
    first = sparse_conv(features, weight, submanifold_pairs(coords, SHAPE, (3, 3, 3)))
    second = sparse_conv(features[order], weight, submanifold_pairs(coords[order], SHAPE, (3, 3, 3)))
    torch.testing.assert_close(first[order], second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("use_table", [True, False])
def test_autocast_computes_in_half_precision_with_float32_gradients(use_table):
    coords, features = active_cells()
    features = features.float().requires_grad_()
    weight = weights((3, 3, 3))[0].detach().float().requires_grad_()
    pairs = submanifold_pairs(coords, SHAPE, (3, 3, 3))
    expected = sparse_conv(features, weight, pairs)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_conv(features, weight, pairs, use_table=use_table)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.3)
    out.float().sum().backward()
    assert features.grad.dtype == weight.grad.dtype == torch.float32


def test_the_same_call_twice_gives_the_same_bits():
    coords, features = active_cells(0.3)
    features = features.float().requires_grad_()
    weight = weights((3, 3, 3))[0].detach().float().requires_grad_()
    results = []
    for _ in range(2):
        pairs, _, _ = strided_pairs(coords, SHAPE, (3, 3, 3), (2, 2, 2), (1, 1, 1))
        out = sparse_conv(features, weight, pairs)
        results.append((out, *torch.autograd.grad(out.square().sum(), [features, weight])))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_even_kernels_of_submanifold_convolutions_are_refused():
    with pytest.raises(ValueError, match="odd"):
        submanifold_pairs(torch.zeros(1, 4, dtype=torch.long), SHAPE, (2, 2, 2))
