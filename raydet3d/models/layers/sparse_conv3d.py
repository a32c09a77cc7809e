"""Sparse 3D convolution layers by spconv's names, on the functions of `raydet3d.ops.sparse_conv`.

Shapes: N active cells, C channels, B batch, D, H, W size of the grid. Weights are (kd, kh, kw, C_in, C_out); those of
spconv 2, (C_out, kd, kh, kw, C_in), are told apart by their shape when a checkpoint is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.ops.sparse_conv import SparseConvPairs, Triple, sparse_conv, strided_pairs, submanifold_pairs
from raydet3d.ops.spconv_backend import Kind, SpconvOutput, SpconvPairs, can_use_spconv, check_spconv, spconv_conv
from raydet3d.registry import MODELS


@dataclass(eq=False)
class ActiveCells:
    """Active cells of a grid, and the pairs of convolutions on them, found once.

    Attributes:
        indices: (N, 4) batch, z, y, x.
        spatial_shape: (D, H, W).
        pairs: Pairs of convolutions, with the cells that they lead to.
        spconv_pairs: Pairs of submanifold convolutions by spconv.
    """

    indices: Tensor
    spatial_shape: Triple
    pairs: dict[tuple[Triple, ...], tuple[SparseConvPairs, ActiveCells]] = field(default_factory=dict)
    spconv_pairs: dict[tuple[Triple, ...], SpconvPairs] = field(default_factory=dict)

    def submanifold(self, kernel_size: Triple, dilation: Triple) -> tuple[SparseConvPairs, ActiveCells]:
        """Return the pairs of a submanifold convolution, and these cells."""
        key = (kernel_size, dilation)
        if key not in self.pairs:
            self.pairs[key] = submanifold_pairs(self.indices, self.spatial_shape, kernel_size, dilation), self
        return self.pairs[key]

    def strided(
        self, kernel_size: Triple, stride: Triple, padding: Triple, dilation: Triple
    ) -> tuple[SparseConvPairs, ActiveCells]:
        """Return the pairs of a strided convolution, and the cells of its output."""
        key = (kernel_size, stride, padding, dilation)
        if key not in self.pairs:
            pairs, indices, shape = strided_pairs(
                self.indices, self.spatial_shape, kernel_size, stride, padding, dilation
            )
            self.pairs[key] = pairs, ActiveCells(indices, shape)
        return self.pairs[key]


class SparseConvTensor:
    """Features of the active cells of a grid.

    Args:
        features: (N, C).
        indices: (N, 4) distinct batch, z, y, x.
        spatial_shape: (D, H, W).
        batch_size: B.
        backend: What convolves it and all that follows from it: "torch", or "spconv" where that is installed.
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        *,
        backend: str = "torch",
    ) -> None:
        depth, height, width = spatial_shape
        self.backend = backend
        self.features = features
        self.cells = ActiveCells(indices, (depth, height, width))
        self.batch_size = batch_size
        self.indice_dict: dict[str, tuple[SparseConvPairs | SpconvPairs, ActiveCells]] = {}

    @property
    def indices(self) -> Tensor:
        """(N, 4) batch, z, y, x."""
        return self.cells.indices

    @property
    def spatial_shape(self) -> list[int]:
        """D, H, W."""
        return list(self.cells.spatial_shape)

    def replace_feature(self, features: Tensor, cells: ActiveCells | None = None) -> SparseConvTensor:
        """Return a tensor with other features, on the same cells unless others are given."""
        other = SparseConvTensor.__new__(SparseConvTensor)
        other.features, other.batch_size, other.indice_dict = features, self.batch_size, self.indice_dict
        other.cells = self.cells if cells is None else cells
        other.backend = self.backend
        return other

    def dense(self) -> Tensor:
        """Return the (B, C, D, H, W) map, zero at inactive cells."""
        batch, z, y, x = self.indices.long().unbind(1)
        depth, height, width = self.cells.spatial_shape
        cell = ((batch * depth + z) * height + y) * width + x
        channels = self.features.shape[1]
        flat = self.features.new_zeros(self.batch_size * depth * height * width, channels)
        return (
            flat.index_copy(0, cell, self.features)
            .view(self.batch_size, depth, height, width, channels)
            .permute(0, 4, 1, 2, 3)
        )


class _SparseConvolution(nn.Module):
    """Base class of the sparse convolutions.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Kernel size, one number or (z, y, x), like the next three.
        stride: Stride.
        padding: Padding.
        dilation: Dilation.
        groups: Only 1 is supported.
        bias: Add a bias.
        indice_key: Name under which the pairs of a convolution are kept for its inverse.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        indice_key: str | None = None,
    ) -> None:
        super().__init__()
        if groups != 1:
            raise InputError(f"{type(self).__name__}: groups={groups} is not supported; use 1")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _triple(kernel_size)
        self.stride = _triple(stride)
        self.padding = _triple(padding)
        self.dilation = _triple(dilation)
        self.indice_key = indice_key
        self.weight = nn.Parameter(torch.empty(*self.kernel_size, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize as torch's convolutions: uniform within 1 / sqrt(fan in)."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def find_pairs(self, x: SparseConvTensor) -> tuple[SparseConvPairs, ActiveCells]:
        """Return the pairs of the convolution and the cells of its output."""
        raise NotImplementedError

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        """Convolve."""
        # It reads weights of a single position in another layout.
        if x.backend == "spconv" and math.prod(self.kernel_size) > 1 and can_use_spconv(x.features):
            return self.forward_spconv(x)
        pairs, cells = self.find_pairs(x)
        return x.replace_feature(sparse_conv(x.features, self.weight.flatten(0, 2), pairs, self.bias), cells)

    def forward_spconv(self, x: SparseConvTensor) -> SparseConvTensor:
        """Convolve with spconv."""
        raise NotImplementedError

    def run_spconv(self, kind: Kind, x: SparseConvTensor, pairs: SpconvPairs | None = None) -> SpconvOutput:
        """Call spconv with this layer's weights and settings."""
        return spconv_conv(
            kind,
            x.features,
            self.weight,
            self.bias,
            x.indices,
            x.spatial_shape,
            x.batch_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            pairs=pairs,
        )

    def adapt_weight(self, weight: Tensor) -> Tensor:
        """Return a weight of spconv 2's layout (C_out, kd, kh, kw, C_in) in this one's; others as they are."""
        other = (self.out_channels, *self.kernel_size, self.in_channels)
        if weight.shape != self.weight.shape and tuple(weight.shape) == other:
            return weight.permute(1, 2, 3, 4, 0).contiguous()
        return weight

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        given = state_dict.get(f"{prefix}weight")
        if isinstance(given, Tensor):
            state_dict[f"{prefix}weight"] = self.adapt_weight(given)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @override
    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


@MODELS.register_module()
class SubMConv3d(_SparseConvolution):
    """Submanifold convolution: its active cells are those of the input; stride and padding are not used."""

    @override
    def find_pairs(self, x: SparseConvTensor) -> tuple[SparseConvPairs, ActiveCells]:
        return x.cells.submanifold(self.kernel_size, self.dilation)

    @override
    def forward_spconv(self, x: SparseConvTensor) -> SparseConvTensor:
        shared, key = x.cells.spconv_pairs, (self.kernel_size, self.dilation)
        out = self.run_spconv("submanifold", x, shared.get(key))
        shared[key] = out.pairs
        return x.replace_feature(out.features)


@MODELS.register_module()
class SparseConv3d(_SparseConvolution):
    """Strided convolution: every cell that an active input reaches is active in the output."""

    @override
    def find_pairs(self, x: SparseConvTensor) -> tuple[SparseConvPairs, ActiveCells]:
        pairs, cells = x.cells.strided(self.kernel_size, self.stride, self.padding, self.dilation)
        if self.indice_key is not None:
            x.indice_dict[self.indice_key] = pairs, x.cells
        return pairs, cells

    @override
    def forward_spconv(self, x: SparseConvTensor) -> SparseConvTensor:
        out = self.run_spconv("strided", x)
        if self.indice_key is not None:
            x.indice_dict[self.indice_key] = out.pairs, x.cells
        return x.replace_feature(out.features, ActiveCells(out.indices, out.spatial_shape))


@MODELS.register_module()
class SparseInverseConv3d(_SparseConvolution):
    """Inverse of a strided convolution: back to the active cells of its input.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: That of the strided convolution.
        indice_key: That of the strided convolution.
        bias: Add a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        indice_key: str,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, indice_key=indice_key)

    def find_counterpart(self, x: SparseConvTensor) -> tuple[SparseConvPairs | SpconvPairs, ActiveCells]:
        """Return the pairs of the strided convolution and the cells of its input."""
        assert self.indice_key is not None
        if self.indice_key not in x.indice_dict:
            raise InputError(f"SparseInverseConv3d: no convolution with indice_key={self.indice_key!r} came before")
        pairs, cells = x.indice_dict[self.indice_key]
        if pairs.num_positions != math.prod(self.kernel_size):
            raise InputError(
                f"SparseInverseConv3d: kernel_size={self.kernel_size} is not that of {self.indice_key!r}, whose kernel "
                f"has {pairs.num_positions} positions"
            )
        return pairs, cells

    @override
    def find_pairs(self, x: SparseConvTensor) -> tuple[SparseConvPairs, ActiveCells]:
        pairs, cells = self.find_counterpart(x)
        assert isinstance(pairs, SparseConvPairs)
        return pairs.transposed, cells

    @override
    def forward_spconv(self, x: SparseConvTensor) -> SparseConvTensor:
        pairs, cells = self.find_counterpart(x)
        assert isinstance(pairs, SpconvPairs)
        return x.replace_feature(self.run_spconv("inverse", x, pairs).features, cells)


class SparseSequential(nn.Sequential):
    """`nn.Sequential` on sparse tensors; modules for dense tensors are applied to the features."""

    @override
    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        for module in self:
            if isinstance(module, _SparseConvolution | SparseSequential) or getattr(module, "is_sparse", False):
                x = module(x)
            else:
                x = x.replace_feature(apply_to_features(module, x.features))
        return x


def check_backend(owner: str, backend: str) -> None:
    """Raise `InputError` unless a back end is known and installed."""
    if backend not in ("torch", "spconv"):
        raise InputError(f"{owner}: backend must be 'torch' or 'spconv', got {backend!r}")
    if backend == "spconv":
        check_spconv(owner)


def apply_to_features(module: nn.Module, features: Tensor) -> Tensor:
    """Apply a module to (N, C) features; BatchNorm uses its running statistics for fewer than two cells."""
    if isinstance(module, nn.BatchNorm1d) and module.training and len(features) < 2:
        return F.batch_norm(
            features, module.running_mean, module.running_var, module.weight, module.bias, False, eps=module.eps
        )
    result: Tensor = module(features)
    return result


def _triple(value: int | Sequence[int]) -> Triple:
    """Expand one number to three."""
    z, y, x = (value,) * 3 if isinstance(value, int) else value
    return z, y, x
