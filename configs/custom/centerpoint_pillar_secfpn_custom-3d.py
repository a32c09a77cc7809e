"""CenterPoint on pillars on own recordings, with sweeps and velocities where there are some.

The variables below are to be set from the data, as those of pointpillars_secfpn_custom-3d.py. Recordings whose
frames.jsonl gives timestamps and poses: `load_dim=5 sweeps_num=9`; with labelled velocities: `with_velocity=True`.

    python -m raydet3d.data.prepare custom data/custom
    python -m raydet3d.train configs/custom/centerpoint_pillar_secfpn_custom-3d.py --workers 0
"""

_base_ = [
    '../_base_/datasets/custom-3d.py', '../_base_/schedules/one-cycle.py',
    '../_base_/default_runtime.py'
]

class_names = {{_base_.class_names}}
load_dim = {{_base_.load_dim}}
with_velocity = {{_base_.with_velocity}}
# The sides, divided by those of a pillar, are multiples of 8.
point_cloud_range = {{_base_.point_cloud_range}}
voxel_size = [0.32, 0.32, 4]
channels = 32
max_voxels = (16000, 40000)
bn_momentum = 0.1

x0, y0, z0, x1, y1, z1 = point_cloud_range
grid_size = [
    round((x1 - x0) / voxel_size[0]),
    round((y1 - y0) / voxel_size[1]), 1
]
center_limit = [x0 - 5, y0 - 5, z0 - 5, x1 + 5, y1 + 5, z1 + 5]
common_heads = dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2))
code_weights = [1.0] * 8
if with_velocity:
    common_heads['vel'] = (2, 2)
    code_weights = [1.0] * 8 + [0.2] * 2

model = dict(
    type='CenterPoint',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=32,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=max_voxels)),
    pts_voxel_encoder=dict(
        type='PillarFeatureNet',
        in_channels=load_dim,
        feat_channels=[channels],
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range,
        norm_cfg=dict(type='BN1d', eps=1e-3, momentum=bn_momentum),
        legacy=False),
    pts_middle_encoder=dict(
        type='PointPillarsScatter',
        in_channels=channels,
        output_shape=[grid_size[1], grid_size[0]]),
    pts_backbone=dict(
        type='SECOND',
        in_channels=channels,
        layer_nums=[2, 3, 3],
        layer_strides=[1, 2, 2],
        out_channels=[channels, channels, channels * 2],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=bn_momentum)),
    pts_neck=dict(
        type='SECONDFPN',
        in_channels=[channels, channels, channels * 2],
        upsample_strides=[1, 2, 4],
        out_channels=[channels, channels, channels],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=bn_momentum)),
    pts_bbox_head=dict(
        type='CenterHead',
        in_channels=channels * 3,
        tasks=[
            dict(num_class=len(class_names), class_names=class_names),
        ],
        common_heads=common_heads,
        share_conv_channel=channels,
        bbox_coder=dict(
            type='CenterPointBBoxCoder',
            pc_range=point_cloud_range[:2],
            post_center_range=center_limit,
            max_num=200,
            score_threshold=0.1,
            out_size_factor=1,
            voxel_size=voxel_size[:2],
            code_size=9 if with_velocity else 7),
        separate_head=dict(
            type='SeparateHead', init_bias=-4.6, final_kernel=3,
            head_conv=channels),
        loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        loss_bbox=dict(
            type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
        norm_bbox=True),
    train_cfg=dict(
        pts=dict(
            grid_size=grid_size,
            voxel_size=voxel_size,
            out_size_factor=1,
            point_cloud_range=point_cloud_range,
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=200,
            min_radius=2,
            code_weights=code_weights)),
    test_cfg=dict(
        pts=dict(
            pc_range=point_cloud_range[:2],
            post_center_limit_range=center_limit,
            score_threshold=0.1,
            out_size_factor=1,
            voxel_size=voxel_size[:2],
            nms_type='rotate',
            pre_max_size=500,
            post_max_size=100,
            nms_thr=0.1)))

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20, headline=['mAP']),
    checkpoint=dict(
        type='CheckpointHook',
        interval=10,
        max_keep_ckpts=2,
        save_best='CenterDistance/mAP',
        rule='greater'),
    visualization=dict(
        type='Det3DVisualizationHook',
        draw=True,
        interval=2,
        score_thr=0.3,
        vis_task='lidar_det'))
