"""Sparse 3D convolution in plain torch: submanifold, strided and inverse.

A convolution is a list of (input, output) pairs for each position of the kernel (`SparseConvPairs`), found once per
grid by a sort and binary searches, and a sum of matrix products over them. Within a kernel position no input and no
output occurs twice, so that forward and backward passes are deterministic on every device.

Shapes: N and M active inputs and outputs, K = kd * kh * kw positions of the kernel (z slowest), C channels, P pairs of
a position. Coordinates are (batch, z, y, x), as in spconv.
Source: Graham et al., "3D semantic segmentation with submanifold sparse convolutional networks", CVPR 2018; SECOND (Yan
et al. 2018), section 3.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raydet3d.ops.precision import cast_to_autocast

Triple = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class SparseConvPairs:
    """Pairs of inputs and outputs of a sparse convolution.

    Attributes:
        inputs: For each kernel position (P,) indices of inputs.
        outputs: For each kernel position (P,) indices of outputs.
        num_inputs: N.
        num_outputs: M.
        identity: Kernel position whose pairs are (i, i) for every i (the centre of a submanifold convolution).
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    num_inputs: int
    num_outputs: int
    identity: int | None = None

    @property
    def num_positions(self) -> int:
        """K."""
        return len(self.inputs)

    @cached_property
    def transposed(self) -> SparseConvPairs:
        """The pairs of the inverse convolution, from outputs to inputs."""
        return SparseConvPairs(self.outputs, self.inputs, self.num_outputs, self.num_inputs, self.identity)

    @cached_property
    def table(self) -> Tensor:
        """(M, K) input of each output and kernel position; N where there is none."""
        table = torch.full(
            (self.num_outputs, len(self.inputs)), self.num_inputs, dtype=torch.long, device=self.inputs[0].device
        )
        for position, (source, target) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            table[target, position] = source
        return table


def sparse_conv_output_shape(
    shape: Sequence[int], kernel_size: Triple, stride: Triple, padding: Triple, dilation: Triple
) -> Triple:
    """Return the (D, H, W) size of the output grid of a strided convolution."""
    d, h, w = (
        (size + 2 * p - r * (k - 1) - 1) // s + 1
        for size, k, s, p, r in zip(shape, kernel_size, stride, padding, dilation, strict=True)
    )
    return d, h, w


def submanifold_pairs(
    coords: Tensor, shape: Sequence[int], kernel_size: Triple, dilation: Triple = (1, 1, 1)
) -> SparseConvPairs:
    """Find the pairs of a submanifold convolution, whose outputs are its inputs.

    Args:
        coords: (N, 4) distinct coordinates.
        shape: (D, H, W) size of the grid.
        kernel_size: Odd sizes.
        dilation: Spacing of the kernel.
    """
    if any(size % 2 == 0 for size in kernel_size):
        raise ValueError(f"a submanifold convolution needs odd kernel sizes, got {kernel_size}")
    reach = [r * (k // 2) for r, k in zip(dilation, kernel_size, strict=True)]
    # With a margin around the grid, neighbors outside of it have keys that no input has.
    margin = coords.new_tensor([0, *reach])
    key = _keys(coords.long() + margin, [size + 2 * r for size, r in zip(shape, reach, strict=True)])
    ordered, order = torch.sort(key)
    _, height, width = (size + 2 * r for size, r in zip(shape, reach, strict=True))
    offsets = list(itertools.product(*(range(-(k // 2), k // 2 + 1) for k in kernel_size)))
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for dz, dy, dx in offsets[: len(offsets) // 2]:
        wanted = ordered + ((dz * dilation[0] * height + dy * dilation[1]) * width + dx * dilation[2])
        place = torch.searchsorted(ordered, wanted).clamp_(max=max(len(ordered) - 1, 0))
        found = (ordered[place] == wanted).nonzero().squeeze(1)
        inputs.append(order[place[found]])
        outputs.append(order[found])
    every = torch.arange(len(coords), device=coords.device)
    # The opposite position of the kernel has the same pairs, swapped.
    return SparseConvPairs(
        [*inputs, every, *reversed(outputs)],
        [*outputs, every, *reversed(inputs)],
        len(coords),
        len(coords),
        identity=len(inputs),
    )


def strided_pairs(
    coords: Tensor,
    shape: Sequence[int],
    kernel_size: Triple,
    stride: Triple,
    padding: Triple,
    dilation: Triple = (1, 1, 1),
) -> tuple[SparseConvPairs, Tensor, Triple]:
    """Find the pairs of a strided convolution, whose outputs are all cells that an input reaches.

    Args:
        coords: (N, 4) distinct coordinates.
        shape: (D, H, W) size of the grid.
        kernel_size: Size of the kernel.
        stride: Stride.
        padding: Padding on both sides.
        dilation: Spacing of the kernel.

    Returns:
        The pairs, the (M, 4) coordinates of the outputs in ascending order, and the size of the output grid.
    """
    out_shape = sparse_conv_output_shape(shape, kernel_size, stride, padding, dilation)
    batch, *positions = coords.long().unbind(1)
    # For each axis and offset the reached output cell, and whether there is one.
    reached: list[list[tuple[Tensor, Tensor]]] = []
    for axis, position in enumerate(positions):
        column = []
        for offset in range(kernel_size[axis]):
            shifted = position + (padding[axis] - offset * dilation[axis])
            cell = torch.div(shifted, stride[axis], rounding_mode="floor")
            column.append((cell, (cell * stride[axis] == shifted) & (cell >= 0) & (cell < out_shape[axis])))
        reached.append(column)
    inputs, keys = [], []
    for (z, has_z), (y, has_y), (x, has_x) in itertools.product(*reached):
        valid = (has_z & has_y & has_x).nonzero().squeeze(1)
        inputs.append(valid)
        row = (batch[valid] * out_shape[0] + z[valid]) * out_shape[1] + y[valid]
        keys.append(row * out_shape[2] + x[valid])
    unique, outputs = torch.unique(torch.cat(keys), return_inverse=True)
    pairs = SparseConvPairs(inputs, outputs.split([len(key) for key in keys]), len(coords), len(unique))
    depth, height, width = out_shape
    out_coords = torch.stack(
        (
            unique // (depth * height * width),
            unique // (height * width) % depth,
            unique // width % height,
            unique % width,
        ),
        dim=1,
    )
    return pairs, out_coords.to(coords.dtype), out_shape


def sparse_conv(
    features: Tensor,
    weight: Tensor,
    pairs: SparseConvPairs,
    bias: Tensor | None = None,
    *,
    use_table: bool | None = None,
) -> Tensor:
    """Convolve the features of active cells.

    Args:
        features: (N, C_in).
        weight: (K, C_in, C_out).
        pairs: Pairs of inputs and outputs.
        bias: (C_out,).
        use_table: One product over gathered neighbors (M, K * C_in) instead of one per kernel position; by default
            on a GPU, where it takes fewer launches. On a CPU it was slower for every layer of SECOND.

    Returns:
        (M, C_out), in the type of autocast if it is on.
    """
    features, weight = cast_to_autocast(features), cast_to_autocast(weight)
    if use_table is None:
        use_table = features.device.type != "cpu"
    result: Tensor = _SparseConv.apply(features, weight, pairs, use_table)
    return result if bias is None else result + bias.to(result.dtype)


class _SparseConv(torch.autograd.Function):
    """Autograd function of `sparse_conv`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, pairs: SparseConvPairs, use_table: bool) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.pairs, ctx.use_table = pairs, use_table
        return _convolve(features, weight, pairs, use_table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        pairs: SparseConvPairs = ctx.pairs
        grad_features = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_features = _convolve(grad, weight.transpose(1, 2), pairs.transposed, ctx.use_table)
        if ctx.needs_input_grad[1]:
            if ctx.use_table:
                grad_weight = (_gather(features, pairs).T @ grad).view_as(weight)
            else:
                grad_weight = torch.stack(
                    [
                        features.T @ grad
                        if position == pairs.identity
                        else features.index_select(0, source).T @ grad.index_select(0, target)
                        for position, (source, target) in enumerate(zip(pairs.inputs, pairs.outputs, strict=True))
                    ]
                )
        return grad_features, grad_weight, None, None


def _convolve(features: Tensor, weight: Tensor, pairs: SparseConvPairs, use_table: bool) -> Tensor:
    """Compute the (M, C_out) outputs of (N, C_in) features and (K, C_in, C_out) weights."""
    if use_table:
        return _gather(features, pairs) @ weight.flatten(0, 1)
    identity = pairs.identity
    # The pairs of the identity are neither gathered nor added.
    shape = (pairs.num_outputs, weight.shape[2])
    out = features.new_zeros(shape) if identity is None else features @ weight[identity]
    for position, (source, target, matrix) in enumerate(zip(pairs.inputs, pairs.outputs, weight, strict=True)):
        if position != identity and len(source):
            out.index_add_(0, target, features.index_select(0, source) @ matrix)
    return out


def _gather(features: Tensor, pairs: SparseConvPairs) -> Tensor:
    """Gather the (M, K * C_in) neighbors of every output; zeros where there is none."""
    padded = torch.cat((features, features.new_zeros(1, features.shape[1])))
    width = pairs.table.shape[1] * features.shape[1]
    return padded.index_select(0, pairs.table.flatten()).view(pairs.num_outputs, width)


def _keys(coords: Tensor, shape: Sequence[int]) -> Tensor:
    """Number the cells of (N, 4) coordinates in a grid of (D, H, W) cells per batch."""
    batch, z, y, x = coords.unbind(1)
    return ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x
