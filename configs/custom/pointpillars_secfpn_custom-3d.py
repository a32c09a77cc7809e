"""PointPillars on own recordings; the page "Own data" of the documentation leads through it.

The variables below are to be set from the data (`python -m raydet3d.data.check data/custom` suggests them), here or on
the command line (`--cfg-options channels=64`). As they are, the model is small: it trains on two processors. With a GPU,
channels=64 and pillars of 16 cm are the published size.

    python -m raydet3d.data.prepare custom data/custom
    python -m raydet3d.train configs/custom/pointpillars_secfpn_custom-3d.py --workers 0
"""

_base_ = [
    '../_base_/datasets/custom-3d.py', '../_base_/schedules/one-cycle.py',
    '../_base_/default_runtime.py'
]

class_names = {{_base_.class_names}}
load_dim = {{_base_.load_dim}}
# The sides, divided by those of a pillar, are multiples of 8.
point_cloud_range = {{_base_.point_cloud_range}}
voxel_size = [0.32, 0.32, 4]
channels = 32
# Length, width, height of a typical object of each class, and where its bottom is, metres.
anchor_sizes = [[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]]
anchor_bottoms = [-1.73, -1.65, -1.7]
max_voxels = (16000, 40000)

x0, y0, z0, x1, y1, z1 = point_cloud_range
anchor_ranges = [[x0, y0, bottom, x1, y1, bottom]
                 for bottom in anchor_bottoms]

model = dict(
    type='VoxelNet',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=32,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=max_voxels)),
    voxel_encoder=dict(
        type='PillarFeatureNet',
        in_channels=load_dim,
        feat_channels=[channels],
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range),
    middle_encoder=dict(
        type='PointPillarsScatter',
        in_channels=channels,
        output_shape=[
            round((y1 - y0) / voxel_size[1]),
            round((x1 - x0) / voxel_size[0])
        ]),
    backbone=dict(
        type='SECOND',
        in_channels=channels,
        layer_nums=[2, 3, 3],
        # A map with a cell for each pillar: pedestrians are narrower than two pillars of 32 cm.
        layer_strides=[1, 2, 2],
        out_channels=[channels, channels, channels * 2]),
    neck=dict(
        type='SECONDFPN',
        in_channels=[channels, channels, channels * 2],
        upsample_strides=[1, 2, 4],
        out_channels=[channels, channels, channels]),
    bbox_head=dict(
        type='Anchor3DHead',
        num_classes=len(class_names),
        in_channels=channels * 3,
        feat_channels=channels * 3,
        use_direction_classifier=True,
        assign_per_class=True,
        anchor_generator=dict(
            type='AlignedAnchor3DRangeGenerator',
            ranges=anchor_ranges,
            sizes=anchor_sizes,
            rotations=[0, 1.57],
            reshape_out=False),
        diff_rad_by_sin=True,
        bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder'),
        loss_cls=dict(
            type='mmdet.FocalLoss',
            use_sigmoid=True,
            gamma=2.0,
            alpha=0.25,
            loss_weight=1.0),
        loss_bbox=dict(
            type='mmdet.SmoothL1Loss', beta=1.0 / 9.0, loss_weight=2.0),
        loss_dir=dict(
            type='mmdet.CrossEntropyLoss', use_sigmoid=False,
            loss_weight=0.2)),
    train_cfg=dict(
        # Of small objects, fewer anchors overlap much.
        assigner=[
            dict(
                type='Max3DIoUAssigner',
                iou_calculator=dict(type='BboxOverlapsNearest3D'),
                pos_iou_thr=0.6 if size[0] > 2.5 else 0.5,
                neg_iou_thr=0.45 if size[0] > 2.5 else 0.35,
                min_pos_iou=0.45 if size[0] > 2.5 else 0.35,
                ignore_iof_thr=-1) for size in anchor_sizes
        ],
        allowed_border=0,
        pos_weight=-1,
        debug=False),
    test_cfg=dict(
        use_rotate_nms=True,
        nms_across_levels=False,
        nms_thr=0.01,
        score_thr=0.1,
        min_bbox_size=0,
        nms_pre=200,
        max_num=100))

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=20, headline=['mAP_3D', 'mAP']),
    checkpoint=dict(
        type='CheckpointHook',
        interval=10,
        max_keep_ckpts=2,
        save_best='Box3DAP/mAP_3D',
        rule='greater'),
    visualization=dict(
        type='Det3DVisualizationHook',
        draw=True,
        interval=2,
        score_thr=0.3,
        vis_task='lidar_det'))
