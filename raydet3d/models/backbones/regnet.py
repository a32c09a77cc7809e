"""`NoStemRegNet`: a RegNetX backbone on a bird's-eye-view map, which needs no stem.

Shapes: B batch, C channels, H and W size of the map.
Source: Designing Network Design Spaces (Radosavovic et al. 2020), section 3.3 and appendix B (the RegNetX models).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.layers.build_layer import build_conv_layer, build_norm_layer, check_same_length
from raydet3d.models.module import BaseModule, ConfigType, InitCfg, Sequential
from raydet3d.registry import MODELS

WIDTH_DIVISOR = 8

_NORM = {"type": "BN", "requires_grad": True}


@dataclass(frozen=True)
class RegNetDesign:
    """Parameters of a RegNet.

    Args:
        w0: Initial width; channels.
        wa: Slope of the widths.
        wm: Factor between the widths of two stages.
        group_w: Channels of a group of the 3x3 convolutions.
        depth: Number of blocks.
        bot_mul: Width inside a block over its output's.
    """

    w0: int
    wa: float
    wm: float
    group_w: int
    depth: int
    bot_mul: float = 1.0

    def block_widths(self) -> list[int]:
        """Return the width of each block: the linear widths (equation 2), quantized (equations 3 and 4)."""
        widths = []
        for index in range(self.depth):
            stage = round(math.log((self.w0 + self.wa * index) / self.w0) / math.log(self.wm))
            widths.append(round(self.w0 * self.wm**stage / WIDTH_DIVISOR) * WIDTH_DIVISOR)
        return widths

    def stages(self) -> list[tuple[int, int, int]]:
        """Return width, width of a group and number of blocks of each stage; a group divides the inner width."""
        stages = []
        for width, blocks in groupby(self.block_widths()):
            group = min(self.group_w, int(width * self.bot_mul))
            inner = round(int(width * self.bot_mul) / group) * group
            stages.append((int(inner / self.bot_mul), group, len(list(blocks))))
        return stages


class RegNetBlock(BaseModule):
    """A residual block: 1x1, grouped 3x3 and 1x1 convolutions, and a 1x1 shortcut where the shape changes.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        inner_channels: Channels of the 3x3 convolution.
        groups: Groups of the 3x3 convolution.
        stride: Stride of the block.
        dilation: Dilation of the 3x3 convolution.
        stride_in_first: Stride the first 1x1 convolution (Caffe's style) instead of the 3x3 one.
        use_checkpoint: Recompute the block in the backward pass, which saves memory.
        conv_cfg: Convolution layer.
        norm_cfg: Normalization after every convolution.
        init_cfg: Weight initialization.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        inner_channels: int,
        groups: int,
        stride: int,
        dilation: int,
        *,
        stride_in_first: bool,
        use_checkpoint: bool,
        conv_cfg: ConfigType | None,
        norm_cfg: ConfigType,
        init_cfg: InitCfg,
    ) -> None:
        super().__init__(init_cfg)
        first, second = (stride, 1) if stride_in_first else (1, stride)
        self.use_checkpoint = use_checkpoint
        self.conv1 = build_conv_layer(conv_cfg, in_channels, inner_channels, 1, stride=first, bias=False)
        self.bn1 = build_norm_layer(norm_cfg, inner_channels)[1]
        self.conv2 = build_conv_layer(
            conv_cfg,
            inner_channels,
            inner_channels,
            3,
            stride=second,
            padding=dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn2 = build_norm_layer(norm_cfg, inner_channels)[1]
        self.conv3 = build_conv_layer(conv_cfg, inner_channels, channels, 1, bias=False)
        self.bn3 = build_norm_layer(norm_cfg, channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                build_conv_layer(conv_cfg, in_channels, channels, 1, stride=stride, bias=False),
                build_norm_layer(norm_cfg, channels)[1],
            )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block: (B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        out: Tensor
        if self.use_checkpoint and x.requires_grad:
            out = checkpoint(self._residual, x, use_reentrant=False)
        else:
            out = self._residual(x)
        activated: Tensor = self.relu(out)
        return activated

    def _residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        residual: Tensor = self.bn3(self.conv3(out))
        return residual + shortcut


@MODELS.register_module()
class NoStemRegNet(BaseModule):
    """RegNetX stages without a stem: the voxel encoder's map is the input of the first one.

    Args:
        arch: Name of a RegNetX model, or its parameters: `w0`, `wa`, `wm`, `group_w`, `depth`, `bot_mul`.
        in_channels: Accepted for published configs, as is `base_channels`; the input has `stem_channels`.
        stem_channels: Channels of the input.
        base_channels: Not used.
        strides: Stride of each stage.
        dilations: Dilation of each stage.
        out_indices: Stages whose maps are returned.
        style: "pytorch" strides the 3x3 convolution, "caffe" the first 1x1 one.
        deep_stem: Not used, as there is no stem.
        avg_down: Only False is supported.
        frozen_stages: Stages up to this number (from 1) keep their weights and statistics; -1 for none.
        conv_cfg: Convolution layer.
        norm_cfg: Normalization after every convolution.
        norm_eval: Keep the statistics of batch normalization fixed while training.
        dcn: Only None is supported, as for `plugins`.
        stage_with_dcn: Not used.
        plugins: Not used.
        with_cp: Recompute the blocks in the backward pass, which saves memory.
        zero_init_residual: Begin with blocks that are identities.
        pretrained: Checkpoint to begin with; use `init_cfg`.
        init_cfg: Weight initialization; by default Kaiming normal convolutions.
    """

    DESIGNS: ClassVar[Mapping[str, RegNetDesign]] = {
        "regnetx_400mf": RegNetDesign(w0=24, wa=24.48, wm=2.54, group_w=16, depth=22),
        "regnetx_800mf": RegNetDesign(w0=56, wa=35.73, wm=2.28, group_w=16, depth=16),
        "regnetx_1.6gf": RegNetDesign(w0=80, wa=34.01, wm=2.25, group_w=24, depth=18),
        "regnetx_3.2gf": RegNetDesign(w0=88, wa=26.31, wm=2.25, group_w=48, depth=25),
        "regnetx_4.0gf": RegNetDesign(w0=96, wa=38.65, wm=2.43, group_w=40, depth=23),
        "regnetx_6.4gf": RegNetDesign(w0=184, wa=60.83, wm=2.07, group_w=56, depth=17),
        "regnetx_8.0gf": RegNetDesign(w0=80, wa=49.56, wm=2.88, group_w=120, depth=23),
        "regnetx_12gf": RegNetDesign(w0=168, wa=73.36, wm=2.37, group_w=112, depth=19),
    }

    def __init__(
        self,
        arch: str | Mapping[str, float],
        in_channels: int = 3,
        stem_channels: int = 32,
        base_channels: int = 32,
        strides: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = "pytorch",
        deep_stem: bool = False,
        avg_down: bool = False,
        frozen_stages: int = -1,
        conv_cfg: ConfigType | None = None,
        norm_cfg: ConfigType = _NORM,
        norm_eval: bool = True,
        dcn: ConfigType | None = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: Sequence[ConfigType] | None = None,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        pretrained: str | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if avg_down or dcn is not None or plugins:
            raise InputError("NoStemRegNet: avg_down, dcn and plugins are not supported; leave them out")
        if style not in ("pytorch", "caffe"):
            raise InputError(f"NoStemRegNet: style is 'pytorch' or 'caffe', got {style!r}")
        if pretrained is not None:
            init_cfg = {"type": "Pretrained", "checkpoint": pretrained}
        is_default = init_cfg is None
        super().__init__(
            init_cfg
            or [
                {"type": "Kaiming", "layer": "Conv2d"},
                {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
            ]
        )
        stages = self._design(arch).stages()
        check_same_length("NoStemRegNet", stages=stages, strides=strides, dilations=dilations)
        if not 0 <= min(out_indices) <= max(out_indices) < len(stages):
            raise InputError(f"NoStemRegNet: out_indices={tuple(out_indices)}, but there are {len(stages)} stages")
        self.out_indices = tuple(out_indices)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        block_init = {"type": "Constant", "val": 0, "override": {"name": "bn3"}}
        self.res_layers: list[str] = []
        channels = stem_channels
        for number, ((width, group, depth), stride, dilation) in enumerate(
            zip(stages, strides, dilations, strict=True), 1
        ):
            inner = round(width * self._design(arch).bot_mul)
            blocks = []
            for index in range(depth):
                blocks.append(
                    RegNetBlock(
                        channels,
                        width,
                        inner,
                        inner // group,
                        stride if index == 0 else 1,
                        dilation,
                        stride_in_first=style == "caffe",
                        use_checkpoint=with_cp,
                        conv_cfg=conv_cfg,
                        norm_cfg=norm_cfg,
                        init_cfg=block_init if is_default and zero_init_residual else None,
                    )
                )
                channels = width
            self.res_layers.append(f"layer{number}")
            self.add_module(self.res_layers[-1], Sequential(*blocks))
        self.feat_dim = channels
        self._freeze_stages()

    @classmethod
    def _design(cls, arch: str | Mapping[str, float]) -> RegNetDesign:
        if isinstance(arch, str):
            if arch not in cls.DESIGNS:
                raise InputError(f"NoStemRegNet: arch={arch!r} is not known; known: {', '.join(cls.DESIGNS)}")
            return cls.DESIGNS[arch]
        try:
            return RegNetDesign(**arch)  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(f"NoStemRegNet: arch has w0, wa, wm, group_w, depth and bot_mul ({error})") from None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the stages.

        Args:
            x: (B, stem_channels, H, W).

        Returns:
            The maps of the stages in `out_indices`, each (B, C_stage, H_stage, W_stage).
        """
        outs = []
        for index, name in enumerate(self.res_layers):
            x = self.get_submodule(name)(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)

    @override
    def train(self, mode: bool = True) -> NoStemRegNet:
        """Set the mode; frozen stages, and with `norm_eval` batch normalization, stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        for name in self.res_layers[: max(self.frozen_stages, 0)]:
            self.get_submodule(name).eval().requires_grad_(False)
