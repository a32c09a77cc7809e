"""`MVXTwoStageDetector` and `MVXFasterRCNN`: the nuScenes detectors' base, in its LiDAR-only form.

Parts have the prefix `pts_`, because the published class has an image branch as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.models.detectors.base import Base3DDetector, DetInputs, Losses, Voxels
from raydet3d.models.module import ConfigType, InitCfg
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample

Metas = Sequence[ConfigType]


@MODELS.register_module()
class MVXTwoStageDetector(Base3DDetector):
    """Voxel encoder, middle encoder, backbone, neck and head on point clouds.

    Args:
        pts_voxel_encoder: Points of a voxel to its feature.
        pts_middle_encoder: Features of voxels to a bird's-eye-view map.
        pts_fusion_layer: Only None is supported, like all arguments of the image branch.
        img_backbone: See `pts_fusion_layer`.
        pts_backbone: Bird's-eye-view map to maps of several strides.
        img_neck: See `pts_fusion_layer`.
        pts_neck: Maps of several strides to those of the head.
        pts_bbox_head: Maps to losses and boxes.
        img_roi_head: See `pts_fusion_layer`.
        img_rpn_head: See `pts_fusion_layer`.
        train_cfg: `pts` is passed to the head.
        test_cfg: `pts` is passed to the head.
        init_cfg: See `BaseModule`.
        data_preprocessor: See `Base3DDetector`.
    """

    def __init__(
        self,
        pts_voxel_encoder: ConfigType | None = None,
        pts_middle_encoder: ConfigType | None = None,
        pts_fusion_layer: ConfigType | None = None,
        img_backbone: ConfigType | None = None,
        pts_backbone: ConfigType | None = None,
        img_neck: ConfigType | None = None,
        pts_neck: ConfigType | None = None,
        pts_bbox_head: ConfigType | None = None,
        img_roi_head: ConfigType | None = None,
        img_rpn_head: ConfigType | None = None,
        train_cfg: ConfigType | None = None,
        test_cfg: ConfigType | None = None,
        init_cfg: InitCfg = None,
        data_preprocessor: ConfigType | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        name = type(self).__name__
        images = {
            "pts_fusion_layer": pts_fusion_layer,
            "img_backbone": img_backbone,
            "img_neck": img_neck,
            "img_roi_head": img_roi_head,
            "img_rpn_head": img_rpn_head,
        }
        given = [key for key, value in images.items() if value is not None]
        if given:
            raise InputError(f"{name}: {', '.join(given)} belong to the image branch, which is not supported")
        parts = {
            "pts_voxel_encoder": pts_voxel_encoder,
            "pts_middle_encoder": pts_middle_encoder,
            "pts_backbone": pts_backbone,
            "pts_bbox_head": pts_bbox_head,
        }
        missing = [key for key, value in parts.items() if value is None]
        if missing:
            raise InputError(f"{name} needs {', '.join(missing)}")
        assert pts_bbox_head is not None
        self.pts_voxel_encoder = MODELS.build(pts_voxel_encoder)
        self.pts_middle_encoder = MODELS.build(pts_middle_encoder)
        self.pts_backbone = MODELS.build(pts_backbone)
        if pts_neck is not None:
            self.pts_neck = MODELS.build(pts_neck)
        self.pts_bbox_head = MODELS.build(
            {**pts_bbox_head, "train_cfg": _points_part(train_cfg), "test_cfg": _points_part(test_cfg)}
        )
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

    @property
    def with_pts_bbox(self) -> bool:
        """Whether there is a head for points."""
        return getattr(self, "pts_bbox_head", None) is not None

    @property
    def with_pts_backbone(self) -> bool:
        """Whether there is a backbone for points."""
        return getattr(self, "pts_backbone", None) is not None

    @property
    def with_pts_neck(self) -> bool:
        """Whether there is a neck for points."""
        return getattr(self, "pts_neck", None) is not None

    @property
    def with_img_backbone(self) -> bool:
        """Whether there is a backbone for images: never."""
        return False

    @property
    def with_img_neck(self) -> bool:
        """Whether there is a neck for images: never."""
        return False

    @property
    def with_img_bbox(self) -> bool:
        """Whether there is a box head for images: never."""
        return False

    def extract_img_feat(self, img: Tensor | None, input_metas: Metas) -> None:
        """Return None: there is no image branch."""
        return

    def extract_pts_feat(
        self,
        voxel_dict: Voxels,
        points: Sequence[Tensor] | None = None,
        img_feats: Sequence[Tensor] | None = None,
        batch_input_metas: Metas | None = None,
    ) -> Sequence[Tensor]:
        """Compute the maps of the head.

        Args:
            voxel_dict: `voxels` (V, P, C), `num_points` (V,) and `coors` (V, 4) as batch, z, y, x.
            points: B clouds; their number is that of the frames, of which the last may have no voxels.
            img_feats: Not used.
            batch_input_metas: Meta information of the B frames.
        """
        coors = voxel_dict["coors"]
        features = self.pts_voxel_encoder(voxel_dict["voxels"], voxel_dict["num_points"], coors)
        frames = points if points is not None else batch_input_metas
        batch_size = len(frames) if frames is not None else int(coors[-1, 0]) + 1
        maps: Sequence[Tensor] = self.pts_backbone(self.pts_middle_encoder(features, coors, batch_size))
        return self.pts_neck(maps) if self.with_pts_neck else maps

    @override
    def extract_feat(
        self, batch_inputs_dict: DetInputs, batch_input_metas: Metas = ()
    ) -> tuple[None, Sequence[Tensor]]:
        """Compute the feature maps of images (None) and of points."""
        img_feats = self.extract_img_feat(batch_inputs_dict.get("imgs"), batch_input_metas)  # type: ignore[func-returns-value]
        points = self.extract_pts_feat(
            batch_inputs_dict["voxels"],
            points=batch_inputs_dict.get("points"),
            img_feats=img_feats,
            batch_input_metas=batch_input_metas,
        )
        return img_feats, points

    @override
    def loss(
        self, batch_inputs_dict: DetInputs, batch_data_samples: Sequence[Det3DDataSample], **kwargs: object
    ) -> Losses:
        metas = [sample.metainfo for sample in batch_data_samples]
        _, maps = self.extract_feat(batch_inputs_dict, metas)
        losses: Losses = self.pts_bbox_head.loss(maps, batch_data_samples, **kwargs)
        return losses

    @override
    def predict(
        self, batch_inputs_dict: DetInputs, batch_data_samples: Sequence[Det3DDataSample], **kwargs: object
    ) -> list[Det3DDataSample]:
        metas = [sample.metainfo for sample in batch_data_samples]
        _, maps = self.extract_feat(batch_inputs_dict, metas)
        predictions = self.pts_bbox_head.predict(maps, batch_data_samples, **kwargs)
        return self.add_pred_to_datasample(batch_data_samples, predictions)

    @override
    def _forward(
        self,
        batch_inputs_dict: DetInputs,
        data_samples: Sequence[Det3DDataSample] | None = None,
        **kwargs: object,
    ) -> object:
        metas = [sample.metainfo for sample in data_samples or ()]
        return self.pts_bbox_head(self.extract_feat(batch_inputs_dict, metas)[1])


@MODELS.register_module()
class MVXFasterRCNN(MVXTwoStageDetector):
    """`MVXTwoStageDetector` by the name that the configs of PointPillars on nuScenes use."""


def _points_part(cfg: ConfigType | None) -> ConfigType | None:
    """Return the settings of the point branch."""
    return None if not cfg else cfg.get("pts")
