"""`SparseEncoder`: features of voxels to a bird's-eye-view map by sparse 3D convolutions.

Shapes: V voxels, C channels, B batch, D, H, W size of the grid.
Source: SECOND (Yan et al. 2018), section 3.1; CenterPoint (Yin et al. 2021) for basic blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from raydet3d.config import ConfigValue
from raydet3d.errors import InputError
from raydet3d.models.layers.sparse_block import SparseBasicBlock, make_sparse_convmodule
from raydet3d.models.layers.sparse_conv3d import SparseConvTensor, SparseSequential, check_backend
from raydet3d.registry import MODELS

Paddings = Sequence[int | Sequence[int]]


@MODELS.register_module()
class SparseEncoder(nn.Module):
    """Middle encoder of SECOND and of CenterPoint on voxels.

    Args:
        in_channels: Channels of the voxels' features.
        sparse_shape: (D, H, W) of the grid.
        order: Order of "conv", "norm" and "act".
        norm_cfg: Normalization.
        base_channels: Channels of the first convolution.
        output_channels: Channels of the last convolution.
        encoder_channels: Channels of the blocks of each stage.
        encoder_paddings: Padding of the blocks of each stage.
        block_type: "conv_module" (each stage but the first begins with a strided convolution) or "basicblock" (each
            stage but the last ends with one, after residual blocks).
        return_middle_feats: Return the sparse output of each stage as well.
        backend: What convolves: "torch", or "spconv" (on a GPU) where that is installed. Weights are the same.
    """

    def __init__(
        self,
        in_channels: int,
        sparse_shape: Sequence[int],
        order: Sequence[str] = ("conv", "norm", "act"),
        norm_cfg: Mapping[str, ConfigValue] = {"type": "BN1d", "eps": 1e-3, "momentum": 0.01},
        base_channels: int = 16,
        output_channels: int = 128,
        encoder_channels: Sequence[Sequence[int]] = ((16,), (32, 32, 32), (64, 64, 64), (64, 64, 64)),
        encoder_paddings: Sequence[Paddings] = ((1,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1)),
        block_type: str = "conv_module",
        return_middle_feats: bool = False,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        check_backend(type(self).__name__, backend)
        self.backend = backend
        if block_type not in ("conv_module", "basicblock"):
            raise InputError(f"SparseEncoder: block_type must be 'conv_module' or 'basicblock', got {block_type!r}")
        if list(order) != ["conv", "norm", "act"]:
            raise InputError(f"SparseEncoder: order must be ('conv', 'norm', 'act'), got {tuple(order)}")
        self.sparse_shape = list(sparse_shape)
        self.return_middle_feats = return_middle_feats
        self.conv_input = make_sparse_convmodule(
            in_channels, base_channels, 3, padding=1, indice_key="subm1", norm_cfg=norm_cfg
        )
        self.encoder_layers = SparseSequential()
        channels = base_channels
        last_stage = len(encoder_channels) - 1
        for i, (widths, paddings) in enumerate(zip(encoder_channels, encoder_paddings, strict=True)):
            blocks: list[nn.Module] = []
            for j, (width, padding) in enumerate(zip(widths, paddings, strict=True)):
                if block_type == "conv_module":
                    is_strided = i > 0 and j == 0
                else:
                    is_strided = i < last_stage and j == len(widths) - 1
                if is_strided or block_type == "conv_module":
                    blocks.append(
                        make_sparse_convmodule(
                            channels,
                            width,
                            3,
                            stride=2 if is_strided else 1,
                            padding=padding,
                            indice_key=f"{'spconv' if is_strided else 'subm'}{i + 1}",
                            conv_type="SparseConv3d" if is_strided else "SubMConv3d",
                            norm_cfg=norm_cfg,
                        )
                    )
                else:
                    blocks.append(SparseBasicBlock(width, width, norm_cfg=norm_cfg))
                channels = width
            self.encoder_layers.add_module(f"encoder_layer{i + 1}", SparseSequential(*blocks))
        self.conv_out = make_sparse_convmodule(
            channels,
            output_channels,
            (3, 1, 1),
            stride=(2, 1, 1),
            indice_key="spconv_down2",
            conv_type="SparseConv3d",
            norm_cfg=norm_cfg,
        )

    def forward(
        self, voxel_features: Tensor, coors: Tensor, batch_size: int
    ) -> Tensor | tuple[Tensor, list[SparseConvTensor]]:
        """Encode a batch.

        Args:
            voxel_features: (V, in_channels).
            coors: (V, 4) batch, z, y, x.
            batch_size: B, frames without voxels included.

        Returns:
            (B, output_channels * D_out, H_out, W_out), stored channels-last; with `return_middle_feats` also the
            sparse tensors of the stages.
        """
        x = self.conv_input(
            SparseConvTensor(voxel_features, coors, self.sparse_shape, batch_size, backend=self.backend)
        )
        stages = []
        for stage in self.encoder_layers:
            x = stage(x)
            stages.append(x)
        dense = self.conv_out(x).dense()  # (B, C, D, H, W)
        batch, channels, depth, height, width = dense.shape
        rows = dense.permute(0, 3, 4, 1, 2).reshape(batch, height, width, channels * depth)
        out = rows.permute(0, 3, 1, 2)
        return (out, stages) if self.return_middle_feats else out
