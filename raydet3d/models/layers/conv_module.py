"""`ConvModule`: convolution, normalization and activation, by mmcv's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.models.layers.build_layer import build_activation_layer, build_conv_layer, build_norm_layer
from raydet3d.models.module import ConfigType
from raydet3d.models.weight_init import constant_init, kaiming_init
from raydet3d.registry import MODELS

_RELU = {"type": "ReLU"}


@MODELS.register_module()
class ConvModule(nn.Module):
    """Convolution, normalization and activation; the latter two may be left out.

    Submodules are `conv`, the normalization under its abbreviation (`bn`, `gn`, ...) and `activate`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Kernel size.
        stride: Stride.
        padding: Padding.
        dilation: Dilation.
        groups: Groups of the convolution.
        bias: "auto" for a bias where there is no normalization.
        conv_cfg: Convolution; `Conv2d` by default.
        norm_cfg: Normalization; None for none.
        act_cfg: Activation; None for none.
        inplace: Let the activation write over its input.
        with_spectral_norm: Only False is supported.
        padding_mode: Padding of the convolution.
        order: Order of "conv", "norm" and "act".
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
        bias: bool | str = "auto",
        conv_cfg: ConfigType | None = None,
        norm_cfg: ConfigType | None = None,
        act_cfg: ConfigType | None = _RELU,
        inplace: bool = True,
        with_spectral_norm: bool = False,
        padding_mode: str = "zeros",
        order: Sequence[str] = ("conv", "norm", "act"),
    ) -> None:
        super().__init__()
        if with_spectral_norm:
            raise InputError("ConvModule: with_spectral_norm=True is not supported; leave it out")
        if sorted(order) != ["act", "conv", "norm"]:
            raise InputError(f"ConvModule: order is made of 'conv', 'norm' and 'act', got {tuple(order)}")
        self.conv_cfg, self.norm_cfg, self.act_cfg, self.order = conv_cfg, norm_cfg, act_cfg, tuple(order)
        self.with_norm, self.with_activation = norm_cfg is not None, act_cfg is not None
        self.with_bias = norm_cfg is None if bias == "auto" else bool(bias)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        extra: dict[str, Any] = {} if padding_mode == "zeros" else {"padding_mode": padding_mode}
        self.conv = build_conv_layer(
            conv_cfg,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=self.with_bias,
            **extra,
        )
        self.norm_name: str | None = None
        if norm_cfg is not None:
            channels = out_channels if self.order.index("norm") > self.order.index("conv") else in_channels
            self.norm_name, norm = build_norm_layer(norm_cfg, channels)
            self.add_module(self.norm_name, norm)
        if act_cfg is not None:
            self.activate = build_activation_layer(act_cfg, inplace=inplace)
        self.init_weights()

    @property
    def norm(self) -> nn.Module | None:
        """The normalization, or None."""
        return None if self.norm_name is None else getattr(self, self.norm_name)

    def init_weights(self) -> None:
        """Initialize as mmcv: Kaiming normal over the fan-out; layers with an `init_weights` of their own are kept."""
        if not hasattr(self.conv, "init_weights") and type(self.conv).__name__.startswith("Conv"):
            leaky = self.act_cfg is not None and self.act_cfg.get("type") == "LeakyReLU"
            slope = float(self.act_cfg.get("negative_slope", 0.01)) if leaky and self.act_cfg is not None else 0.0
            kaiming_init(self.conv, a=slope, nonlinearity="leaky_relu" if leaky else "relu")
        if self.norm is not None:
            constant_init(self.norm, 1, bias=0)

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """Apply the layers in their order.

        Args:
            x: Input of the convolution.
            activate: False leaves out the activation.
            norm: False leaves out the normalization.
        """
        for part in self.order:
            if part == "conv":
                x = self.conv(x)
            elif part == "norm" and norm and self.norm is not None:
                x = self.norm(x)
            elif part == "act" and activate and self.with_activation:
                x = self.activate(x)
        return x


class DepthwiseSeparableConvModule(nn.Module):
    """A depthwise `ConvModule` followed by a pointwise one.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Kernel size of the depthwise convolution, like the next three.
        stride: Stride.
        padding: Padding.
        dilation: Dilation.
        norm_cfg: Normalization of both.
        act_cfg: Activation of both.
        dw_norm_cfg: Normalization of the depthwise one; "default" for `norm_cfg`, like the next three.
        dw_act_cfg: Activation of the depthwise one.
        pw_norm_cfg: Normalization of the pointwise one.
        pw_act_cfg: Activation of the pointwise one.
        **kwargs: Further arguments of `ConvModule`, for both.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        norm_cfg: ConfigType | None = None,
        act_cfg: ConfigType | None = _RELU,
        dw_norm_cfg: ConfigType | str | None = "default",
        dw_act_cfg: ConfigType | str | None = "default",
        pw_norm_cfg: ConfigType | str | None = "default",
        pw_act_cfg: ConfigType | str | None = "default",
        **kwargs: Any,
    ) -> None:
        super().__init__()

        def chosen(own: ConfigType | str | None, shared: ConfigType | None) -> ConfigType | None:
            return shared if isinstance(own, str) else own

        self.depthwise_conv = ConvModule(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            norm_cfg=chosen(dw_norm_cfg, norm_cfg),
            act_cfg=chosen(dw_act_cfg, act_cfg),
            **kwargs,
        )
        self.pointwise_conv = ConvModule(
            in_channels,
            out_channels,
            1,
            norm_cfg=chosen(pw_norm_cfg, norm_cfg),
            act_cfg=chosen(pw_act_cfg, act_cfg),
            **kwargs,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions."""
        out: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return out
