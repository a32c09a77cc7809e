"""A plug-in written for MMDetection3D: heads, coders, encoders and layers under the published paths, trained a step."""

import sys
import textwrap

import pytest
import torch

from raydet3d import compat
from raydet3d.registry import MODELS, TASK_UTILS
from tests.kit.lidar import HALF, center_point
from tests.kit.pointpillars import a_frame

PLUGIN = """
import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule, Scale, build_conv_layer, build_norm_layer
from mmdet.models.losses.utils import weighted_loss
from mmdet.models.task_modules import AssignResult, BaseAssigner, BaseBBoxCoder, build_bbox_coder
from mmdet.models.utils import multi_apply
from mmdet.utils import reduce_mean
from mmdet3d.models import CenterHead, CenterPoint, PillarFeatureNet
from mmdet3d.models.dense_heads.centerpoint_head import SeparateHead
from mmdet3d.models.layers import circle_nms, nms_bev
from mmdet3d.models.task_modules import CenterPointBBoxCoder
from mmdet3d.models.utils import clip_sigmoid, draw_heatmap_gaussian, gaussian_radius
from mmdet3d.registry import MODELS, TASK_UTILS
from mmdet3d.structures import LiDARInstance3DBoxes, xywhr2xyxyr
from mmengine.model import BaseModule
from mmengine.structures import InstanceData


@weighted_loss
def squared(pred, target):
    return (pred - target) ** 2


@MODELS.register_module()
class PluginPillars(PillarFeatureNet):
    def forward(self, features, num_points, coors, *args, **kwargs):
        return super().forward(features, num_points, coors, *args, **kwargs) * 1.0


@TASK_UTILS.register_module()
class PluginCoder(CenterPointBBoxCoder):
    def decode(self, heat, rot_sine, rot_cosine, hei, dim, vel, reg=None, task_id=-1):
        self.tasks = [*getattr(self, "tasks", []), task_id]
        return super().decode(heat, rot_sine, rot_cosine, hei, dim, vel, reg=reg, task_id=task_id)


@MODELS.register_module()
class PluginSeparateHead(SeparateHead):
    def __init__(self, in_channels, heads, **kwargs):
        super().__init__(in_channels, heads, **kwargs)
        self.before = DepthwiseSeparableConvModule(in_channels, in_channels, 3, padding=1, norm_cfg=dict(type='BN2d'))
        self.factor = Scale(1.0)

    def forward(self, x):
        return super().forward(self.factor(self.before(x)))


@MODELS.register_module()
class PluginHead(CenterHead):
    def get_targets(self, batch_gt_instances_3d):
        heatmaps, anno_boxes, inds, masks = multi_apply(self.get_targets_single, batch_gt_instances_3d)
        return tuple([torch.stack(task) for task in zip(*part)] for part in (heatmaps, anno_boxes, inds, masks))

    def loss_by_feat(self, preds_dicts, batch_gt_instances_3d, *args, **kwargs):
        heatmaps, anno_boxes, inds, masks = self.get_targets(batch_gt_instances_3d)
        losses = dict()
        for task_id, preds_dict in enumerate(preds_dicts):
            heat = clip_sigmoid(preds_dict[0]['heatmap'])
            num_pos = reduce_mean(heatmaps[task_id].eq(1).float().sum()).clamp(min=1)
            losses[f'task{task_id}.loss_heatmap'] = self.loss_cls(heat, heatmaps[task_id], avg_factor=num_pos)
            pred = torch.cat([preds_dict[0][k] for k in ('reg', 'height', 'dim', 'rot')], dim=1)
            pred = pred.permute(0, 2, 3, 1).contiguous()
            pred = self._gather_feat(pred.view(pred.size(0), -1, pred.size(3)), inds[task_id])
            weight = masks[task_id].unsqueeze(2).float() * pred.new_tensor(self.train_cfg['code_weights'])
            losses[f'task{task_id}.loss_bbox'] = squared(pred, anno_boxes[task_id], weight, avg_factor=num_pos)
        return losses


@MODELS.register_module()
class PluginCenterPoint(CenterPoint):
    def extract_pts_feat(self, voxel_dict, points=None, img_feats=None, batch_input_metas=None):
        voxel_features = self.pts_voxel_encoder(
            voxel_dict['voxels'], voxel_dict['num_points'], voxel_dict['coors'], img_feats, batch_input_metas)
        batch_size = voxel_dict['coors'][-1, 0] + 1
        x = self.pts_middle_encoder(voxel_features, voxel_dict['coors'], batch_size)
        x = self.pts_backbone(x)
        if self.with_pts_neck:
            x = self.pts_neck(x)
        return x
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "my_lidar_plugin.py").write_text(textwrap.dedent(PLUGIN))
    monkeypatch.syspath_prepend(str(tmp_path))
    compat.install()
    try:
        import my_lidar_plugin

        yield my_lidar_plugin
    finally:
        sys.modules.pop("my_lidar_plugin", None)
        for table, names in (
            (MODELS, ("PluginPillars", "PluginSeparateHead", "PluginHead", "PluginCenterPoint")),
            (TASK_UTILS, ("PluginCoder",)),
        ):
            for name in names:
                table._table.pop(name, None)
        compat.uninstall()


def test_a_plug_in_trains_and_predicts(plugin):
    cfg = center_point()
    cfg["type"] = "PluginCenterPoint"
    cfg["pts_voxel_encoder"]["type"] = "PluginPillars"
    cfg["pts_bbox_head"].update(type="PluginHead")
    cfg["pts_bbox_head"]["separate_head"]["type"] = "PluginSeparateHead"
    cfg["pts_bbox_head"]["bbox_coder"]["type"] = "PluginCoder"
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    points, sample = a_frame(torch.Generator().manual_seed(0), half=HALF, objects=3, background=300)
    batch = {"inputs": {"points": [points]}, "data_samples": [sample]}
    total, logs = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    assert {"task0.loss_heatmap", "task1.loss_bbox"} <= logs.keys()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    (found,) = model.eval().val_step(batch)
    assert model.pts_bbox_head.bbox_coder.tasks == [0, 1]
    assert found.pred_instances_3d.scores_3d.isfinite().all()


def test_bricks(plugin):
    boxes = torch.tensor([[2.0, 1, 4, 2, 0.1], [2.2, 1, 4, 2, 0.1]])
    assert plugin.nms_bev(plugin.xywhr2xyxyr(boxes), torch.tensor([0.5, 0.9]), 0.2).tolist() == [1]
    pred, target = torch.tensor([1.0, 3.0]), torch.zeros(2)
    assert plugin.squared(pred, target).item() == 5
    assert plugin.squared(pred, target, torch.tensor([1.0, 0.0]), avg_factor=4).item() == pytest.approx(0.25)
    assert plugin.squared(pred, target, reduction="none").tolist() == [1, 9]
    coder = plugin.build_bbox_coder({"type": "DeltaXYZWLHRBBoxCoder", "code_size": 9})
    assert isinstance(coder, plugin.BaseBBoxCoder)
    with pytest.raises(NotImplementedError):
        plugin.BaseAssigner().assign(None, None)
