"""`VoxelNet`: a one-stage detector on voxels (PointPillars, SECOND)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.detectors.base import Base3DDetector, DetInputs, Losses
from raydet3d.models.module import ConfigType, InitCfg
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample


@MODELS.register_module()
class VoxelNet(Base3DDetector):
    """Voxel encoder, middle encoder, backbone, neck and head, one after the other.

    Args:
        voxel_encoder: Points of a voxel to its feature.
        middle_encoder: Features of voxels to a bird's-eye-view map.
        backbone: Bird's-eye-view map to maps of several strides.
        neck: Maps of several strides to one.
        bbox_head: Map to losses and boxes.
        train_cfg: Passed to the head.
        test_cfg: Passed to the head.
        data_preprocessor: See `Base3DDetector`.
        init_cfg: See `BaseModule`.
    """

    def __init__(
        self,
        voxel_encoder: ConfigType,
        middle_encoder: ConfigType,
        backbone: ConfigType,
        neck: ConfigType | None = None,
        bbox_head: ConfigType | None = None,
        train_cfg: ConfigType | None = None,
        test_cfg: ConfigType | None = None,
        data_preprocessor: ConfigType | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if bbox_head is None:
            raise InputError("VoxelNet needs a bbox_head")
        self.voxel_encoder = MODELS.build(voxel_encoder)
        self.middle_encoder = MODELS.build(middle_encoder)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck is not None else None
        self.bbox_head = MODELS.build({**bbox_head, "train_cfg": train_cfg, "test_cfg": test_cfg})
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

    @property
    def with_neck(self) -> bool:
        """Whether there is a neck."""
        return self.neck is not None

    @override
    def extract_feat(self, batch_inputs_dict: DetInputs) -> Sequence[Tensor]:
        voxels = batch_inputs_dict["voxels"]
        features = self.voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])
        # The number of point clouds, not the largest batch index of a voxel: the last cloud may be empty.
        x = self.middle_encoder(features, voxels["coors"], len(batch_inputs_dict["points"]))
        maps: Sequence[Tensor] = self.backbone(x)
        return self.neck(maps) if self.neck is not None else maps

    @override
    def loss(
        self, batch_inputs_dict: DetInputs, batch_data_samples: Sequence[Det3DDataSample], **kwargs: Any
    ) -> Losses:
        losses: Losses = self.bbox_head.loss(self.extract_feat(batch_inputs_dict), batch_data_samples, **kwargs)
        return losses

    @override
    def predict(
        self, batch_inputs_dict: DetInputs, batch_data_samples: Sequence[Det3DDataSample], **kwargs: Any
    ) -> list[Det3DDataSample]:
        predictions = self.bbox_head.predict(self.extract_feat(batch_inputs_dict), batch_data_samples, **kwargs)
        return self.add_pred_to_datasample(batch_data_samples, predictions)

    @override
    def _forward(
        self,
        batch_inputs_dict: DetInputs,
        data_samples: Sequence[Det3DDataSample] | None = None,
        **kwargs: Any,
    ) -> Any:
        return self.bbox_head(self.extract_feat(batch_inputs_dict))
