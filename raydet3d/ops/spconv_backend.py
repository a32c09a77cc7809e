"""spconv 2 as back end of sparse convolutions: its CUDA kernels behind the values of `raydet3d.ops.sparse_conv`.

Optional, and imported only when it is chosen. It uses spconv's public layers (`spconv.pytorch`), whose weights are
replaced for each call, so that a model's own weights and checkpoints stay as they are.

Shapes: N and M active inputs and outputs, C channels. Coordinates are (batch, z, y, x).
Source: https://github.com/traveller59/spconv, docs/USAGE.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.ops.precision import cast_to_autocast
from raydet3d.ops.sparse_conv import Triple

Kind = Literal["submanifold", "strided", "inverse"]
_LAYERS: dict[Kind, str] = {"submanifold": "SubMConv3d", "strided": "SparseConv3d", "inverse": "SparseInverseConv3d"}
_KEY = "pairs"
"""The name of a layer's only entry in spconv's table of pairs."""


@dataclass(frozen=True, eq=False)
class SpconvPairs:
    """Pairs of inputs and outputs in spconv's own form.

    Attributes:
        data: What spconv keeps under an `indice_key`.
        num_positions: Positions of the kernel.
    """

    data: Any
    num_positions: int


@dataclass(frozen=True, eq=False)
class SpconvOutput:
    """Output of a convolution.

    Attributes:
        features: (M, C_out).
        indices: (M, 4) coordinates, int32.
        spatial_shape: (D, H, W).
        pairs: Pairs, for other submanifold convolutions on the same cells or for the inverse.
    """

    features: Tensor
    indices: Tensor
    spatial_shape: Triple
    pairs: SpconvPairs


def check_spconv(owner: str) -> None:
    """Raise `InputError` unless spconv 2 can be imported.

    Args:
        owner: The part whose config asks for it.
    """
    try:
        importlib.import_module("spconv.pytorch")
    except ImportError as error:
        raise InputError(
            f"{owner}: backend='spconv' needs spconv 2 ({error}); install the build for your CUDA, such as "
            "`pip install spconv-cu126`, or use backend='torch'"
        ) from None


def can_use_spconv(features: Tensor) -> bool:
    """Tell whether spconv convolves (N, C) features: it refuses empty clouds, and has no gradients on a CPU."""
    return len(features) > 0 and (features.is_cuda or not torch.is_grad_enabled())


def to_spconv_weight(weight: Tensor) -> Tensor:
    """Permute a (kd, kh, kw, C_in, C_out) weight to spconv 2's (C_out, kd, kh, kw, C_in)."""
    return weight.permute(4, 0, 1, 2, 3).contiguous()


def spconv_conv(
    kind: Kind,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    indices: Tensor,
    spatial_shape: Sequence[int],
    batch_size: int,
    *,
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    dilation: Triple = (1, 1, 1),
    pairs: SpconvPairs | None = None,
) -> SpconvOutput:
    """Convolve the features of active cells.

    Args:
        kind: "submanifold", "strided" or "inverse".
        features: (N, C_in), N at least 1.
        weight: (kd, kh, kw, C_in, C_out), of more than one position.
        bias: (C_out,).
        indices: (N, 4) distinct coordinates.
        spatial_shape: (D, H, W) size of the grid.
        batch_size: Frames of the batch.
        stride: Stride of a strided convolution.
        padding: Padding of a strided convolution.
        dilation: Spacing of the kernel.
        pairs: Pairs of an earlier submanifold convolution on the same cells, or of an inverse's counterpart.

    Returns:
        Features in the type of autocast if it is on, and the cells that they belong to.
    """
    if torch.are_deterministic_algorithms_enabled():
        raise InputError("backend='spconv' does not repeat its sums in the same order; use backend='torch'")
    spconv = importlib.import_module("spconv.pytorch")
    kernel_size, (in_channels, out_channels) = tuple(weight.shape[:3]), weight.shape[3:]
    settings = {} if kind == "inverse" else {"stride": stride, "padding": padding, "dilation": dilation}
    out_type = cast_to_autocast(features.new_empty(0)).dtype
    # Its kernels compute in float32 and float16; bfloat16 has no kernels and float16 not its range.
    compute_type = torch.float32 if out_type == torch.bfloat16 else out_type
    with torch.autocast(features.device.type, enabled=False):
        x = spconv.SparseConvTensor(
            features.to(compute_type).contiguous(), indices.int().contiguous(), list(spatial_shape), batch_size
        )
        if pairs is not None:
            x.indice_dict[_KEY] = pairs.data
        layer = _layer(kind, in_channels, out_channels, kernel_size, features.device.type, tuple(settings.items()))
        # In evaluation mode its layers keep no graph.
        layer.train(torch.is_grad_enabled())
        out = torch.func.functional_call(layer, {"weight": to_spconv_weight(weight.to(compute_type))}, (x,))
    made = out.features.to(out_type)
    depth, height, width = out.spatial_shape
    return SpconvOutput(
        made if bias is None else made + bias.to(out_type),
        out.indices,
        (depth, height, width),
        pairs or SpconvPairs(out.indice_dict[_KEY], weight.shape[:3].numel()),
    )


@cache
def _layer(
    kind: Kind,
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    device: str,
    settings: tuple[tuple[str, Triple], ...],
) -> nn.Module:
    """Make a layer of spconv's without memory for weights."""
    spconv = importlib.import_module("spconv.pytorch")
    # Off the GPU only the native algorithm runs; on it spconv chooses.
    algorithm = {} if device == "cuda" else {"algo": importlib.import_module("spconv.core").ConvAlgo.Native}
    with torch.device("meta"):
        layer: nn.Module = getattr(spconv, _LAYERS[kind])(
            in_channels,
            out_channels,
            list(kernel_size),
            bias=False,
            indice_key=_KEY,
            **{name: list(value) for name, value in settings},
            **algorithm,
        )
    return layer
