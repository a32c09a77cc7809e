"""Models: detectors and their parts; importing this package fills the `MODELS` and `TASK_UTILS` registries."""

from raydet3d.models.averaged_model import (
    BaseAveragedModel,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from raydet3d.models.backbones.regnet import NoStemRegNet
from raydet3d.models.backbones.second import SECOND
from raydet3d.models.center_tta import CenterPointTTAModel
from raydet3d.models.data_preprocessors.base import BaseDataPreprocessor
from raydet3d.models.data_preprocessors.det3d import Det3DDataPreprocessor
from raydet3d.models.data_preprocessors.image import ImgDataPreprocessor, stack_batch
from raydet3d.models.dense_heads.anchor3d_head import Anchor3DHead
from raydet3d.models.dense_heads.center_head import CenterHead
from raydet3d.models.dense_heads.free_anchor3d_head import FreeAnchor3DHead
from raydet3d.models.dense_heads.separate_head import DCNSeparateHead, SeparateHead
from raydet3d.models.dense_heads.shape_aware_head import BaseShapeHead, ShapeAwareHead
from raydet3d.models.detectors.base import Base3DDetector, BaseModel
from raydet3d.models.detectors.centerpoint import CenterPoint
from raydet3d.models.detectors.dynamic_voxelnet import DynamicVoxelNet
from raydet3d.models.detectors.mvx_two_stage import MVXFasterRCNN, MVXTwoStageDetector
from raydet3d.models.detectors.sassd import SASSD
from raydet3d.models.detectors.voxelnet import VoxelNet
from raydet3d.models.layers.conv_module import ConvModule, DepthwiseSeparableConvModule
from raydet3d.models.layers.deform_conv2d import DeformConv2dPack, ModulatedDeformConv2dPack
from raydet3d.models.layers.sparse_block import SparseBasicBlock, make_sparse_convmodule
from raydet3d.models.layers.sparse_conv3d import (
    SparseConv3d,
    SparseConvTensor,
    SparseInverseConv3d,
    SparseSequential,
    SubMConv3d,
)
from raydet3d.models.layers.sync_batch_norm import NaiveSyncBatchNorm1d, NaiveSyncBatchNorm2d
from raydet3d.models.losses import CrossEntropyLoss, FocalLoss, GaussianFocalLoss, L1Loss, SmoothL1Loss
from raydet3d.models.middle_encoders.pillar_scatter import PointPillarsScatter
from raydet3d.models.middle_encoders.sparse_encoder import SparseEncoder
from raydet3d.models.middle_encoders.sparse_encoder_sassd import SparseEncoderSASSD
from raydet3d.models.module import BaseModule, ModuleDict, ModuleList, Sequential, build_model_from_cfg
from raydet3d.models.necks.fpn import FPN
from raydet3d.models.necks.second_fpn import SECONDFPN
from raydet3d.models.task_modules.anchor_generators import (
    AlignedAnchor3DRangeGenerator,
    AlignedAnchor3DRangeGeneratorPerCls,
    Anchor3DRangeGenerator,
)
from raydet3d.models.task_modules.assigners import Max3DIoUAssigner
from raydet3d.models.task_modules.box_coders import BaseBBoxCoder, DeltaXYZWLHRBBoxCoder
from raydet3d.models.task_modules.center_box_coder import CenterPointBBoxCoder
from raydet3d.models.task_modules.iou_calculators import BboxOverlapsNearest3D
from raydet3d.models.task_modules.pseudo_sampler import PseudoSampler
from raydet3d.models.tta import BaseTTAModel
from raydet3d.models.voxel_encoders.dynamic_encoders import DynamicPillarFeatureNet, DynamicSimpleVFE, DynamicVFE
from raydet3d.models.voxel_encoders.hard_vfe import HardVFE
from raydet3d.models.voxel_encoders.pillar_encoder import PillarFeatureNet
from raydet3d.models.voxel_encoders.voxel_encoder import HardSimpleVFE

__all__ = [
    "FPN",
    "SASSD",
    "SECOND",
    "SECONDFPN",
    "AlignedAnchor3DRangeGenerator",
    "AlignedAnchor3DRangeGeneratorPerCls",
    "Anchor3DHead",
    "Anchor3DRangeGenerator",
    "Base3DDetector",
    "BaseAveragedModel",
    "BaseBBoxCoder",
    "BaseDataPreprocessor",
    "BaseModel",
    "BaseModule",
    "BaseShapeHead",
    "BaseTTAModel",
    "BboxOverlapsNearest3D",
    "CenterHead",
    "CenterPoint",
    "CenterPointBBoxCoder",
    "CenterPointTTAModel",
    "ConvModule",
    "CrossEntropyLoss",
    "DCNSeparateHead",
    "DeformConv2dPack",
    "DeltaXYZWLHRBBoxCoder",
    "DepthwiseSeparableConvModule",
    "Det3DDataPreprocessor",
    "DynamicPillarFeatureNet",
    "DynamicSimpleVFE",
    "DynamicVFE",
    "DynamicVoxelNet",
    "ExponentialMovingAverage",
    "FocalLoss",
    "FreeAnchor3DHead",
    "GaussianFocalLoss",
    "HardSimpleVFE",
    "HardVFE",
    "ImgDataPreprocessor",
    "L1Loss",
    "MVXFasterRCNN",
    "MVXTwoStageDetector",
    "Max3DIoUAssigner",
    "ModulatedDeformConv2dPack",
    "ModuleDict",
    "ModuleList",
    "MomentumAnnealingEMA",
    "NaiveSyncBatchNorm1d",
    "NaiveSyncBatchNorm2d",
    "NoStemRegNet",
    "PillarFeatureNet",
    "PointPillarsScatter",
    "PseudoSampler",
    "SeparateHead",
    "Sequential",
    "ShapeAwareHead",
    "SmoothL1Loss",
    "SparseBasicBlock",
    "SparseConv3d",
    "SparseConvTensor",
    "SparseEncoder",
    "SparseEncoderSASSD",
    "SparseInverseConv3d",
    "SparseSequential",
    "StochasticWeightAverage",
    "SubMConv3d",
    "VoxelNet",
    "build_model_from_cfg",
    "make_sparse_convmodule",
    "stack_batch",
]
