"""Small layers from small dicts, as published configs write them, and the convolutions' first values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raydet3d.errors import InputError

NORMS: dict[str, type[nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "BN1d": nn.BatchNorm1d,
    "BN2d": nn.BatchNorm2d,
    "BN3d": nn.BatchNorm3d,
    "SyncBN": nn.SyncBatchNorm,
}
CONVS: dict[str, type[nn.Module]] = {"Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d, "Conv": nn.Conv2d}


def build_norm(cfg: Mapping[str, Any], num_features: int) -> nn.Module:
    """Make a normalisation layer.

    Args:
        cfg: `dict(type='BN', eps=1e-3, momentum=0.01, requires_grad=True)`; `requires_grad=False` freezes its weights.
        num_features: Channels to normalise.
    """
    kind, args = _split(cfg, NORMS, "norm_cfg")
    requires_grad = args.pop("requires_grad", True)
    norm = kind(num_features, **{"eps": 1e-5, **args})
    for parameter in norm.parameters():
        parameter.requires_grad = requires_grad
    return norm


def build_conv(cfg: Mapping[str, Any] | None, in_channels: int, out_channels: int, **kwargs: Any) -> nn.Module:
    """Make a convolution from `dict(type='Conv2d', bias=False)`; keywords given here win over the dict's."""
    kind, args = _split(cfg or {"type": "Conv2d"}, CONVS, "conv_cfg")
    return kind(in_channels, out_channels, **{**args, **kwargs})


def build_upsample(cfg: Mapping[str, Any], in_channels: int, out_channels: int, **kwargs: Any) -> nn.Module:
    """Make an upsampling layer from `dict(type='deconv', bias=False)`."""
    kind, args = _split(cfg, UPSAMPLES, "upsample_cfg")
    return kind(in_channels, out_channels, **{**args, **kwargs})


def init_kaiming(module: nn.Module, kind: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> None:
    """Give every convolution of a kind Kaiming-normal weights (fan out, ReLU) and a bias of zero."""
    for layer in module.modules():
        if isinstance(layer, kind):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def rows_of(feature_map: Tensor) -> Tensor:
    """Turn a (B, C, H, W) map into (B * H * W, C) rows; free where the map is stored channels-last."""
    return feature_map.permute(0, 2, 3, 1).reshape(-1, feature_map.shape[1])


def pointwise(rows: Tensor, conv: nn.Module) -> Tensor:
    """Apply a 1x1 convolution to rows of channels.

    The same numbers as the convolution, as one matrix product; its backward pass is 2-3 times faster on a CPU.

    Args:
        rows: (N, C_in).
        conv: A `Conv2d` of kernel size 1.

    Returns:
        (N, C_out).
    """
    weight = conv.weight
    assert isinstance(weight, Tensor)
    return F.linear(rows, weight.flatten(1), conv.bias)  # type: ignore[arg-type]


class _PointwiseAndPick(torch.autograd.Function):
    """A matrix product of all rows, and some of the rows; one gradient for both."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows, weight, index)
        return F.linear(rows, weight, bias), rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_picked: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, index = ctx.saved_tensors
        grad = grad.to(rows.dtype)  # autocast computes in half precision whatever it was given
        grad_rows = (grad @ weight.to(rows.dtype)).index_add_(0, index, grad_picked.to(rows.dtype))
        grad_bias = grad.new_ones(1, len(grad)) @ grad  # a sum over rows, faster than `sum` on a CPU
        return grad_rows, (grad.T @ rows).to(weight.dtype), grad_bias[0].to(weight.dtype), None


def pointwise_and_pick(rows: Tensor, conv: nn.Conv2d, index: Tensor) -> tuple[Tensor, Tensor]:
    """Apply a 1x1 convolution to all rows, and take some of the rows out.

    As `pointwise(rows, conv), rows[index]`, but its backward pass does not make a second map of zeros to put the
    gradients of the few rows into.

    Args:
        rows: (N, C_in).
        conv: A `Conv2d` of kernel size 1, with a bias.
        index: (M,) which rows to take; the same one may come twice.

    Returns:
        (N, C_out) and (M, C_in).
    """
    made: tuple[Tensor, Tensor] = _PointwiseAndPick.apply(rows, conv.weight.flatten(1), conv.bias, index)
    return made


class Deconv(nn.ConvTranspose2d):
    """A transposed convolution; one whose kernel is a single cell is computed as the matrix product that it is.

    Torch's own has no fast path for that case on a CPU.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        point = self.kernel_size == self.stride == (1, 1) and self.padding == self.output_padding == (0, 0)
        plain = point and self.groups == 1 and self.bias is None and output_size is None
        if not plain or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x, output_size)
        batch, _, height, width = x.shape
        rows = rows_of(x) @ self.weight.flatten(1)  # (B * H * W, C_out)
        return rows.view(batch, height, width, self.out_channels).permute(0, 3, 1, 2)


UPSAMPLES: dict[str, type[nn.Module]] = {"deconv": Deconv}


def as_autocast(values: Tensor) -> Tensor:
    """Cast to the dtype that autocast would compute in at the next convolution; as they are where it is off."""
    device = values.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return values.to(torch.get_autocast_dtype(device))
    return values


def _split(
    cfg: Mapping[str, Any], table: Mapping[str, type[nn.Module]], key: str
) -> tuple[type[nn.Module], dict[str, Any]]:
    args = dict(cfg)
    name = str(args.pop("type", "")).rsplit(".", 1)[-1]
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(table)}"
        raise InputError(f"{key}: unknown type {name!r}; {hint}")
    return table[name], args
