"""A reduced PointPillars of nuScenes learns one real keyframe by heart; as centerpoint_nuscenes_frame.py.

Of the keyframe ca9a282c (scene-0061) it finds all 20 objects in range with five points or more, at 3D IoU above 0.97,
with one box too many, after 150 steps: 53 s of one core.

    python -m raydet3d.data.prepare nuscenes data/nuscenes --version v1.0-mini
    python -m raydet3d.train configs/demo/pointpillars_nuscenes_frame.py --workers 0
"""

_base_ = './centerpoint_nuscenes_frame.py'

point_cloud_range = [-25.6, -25.6, -5.0, 25.6, 25.6, 3.0]
voxel_size = [0.2, 0.2, 8]  # 256 x 256 pillars; anchors in cells of 40 cm
bn_momentum = 0.1
norm_cfg = dict(type='naiveSyncBN2d', eps=1e-3, momentum=bn_momentum)

model = dict(
    _delete_=True,
    type='MVXFasterRCNN',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=20,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=(8000, 8000))),
    pts_voxel_encoder=dict(
        type='HardVFE',
        in_channels=5,
        feat_channels=[32, 32],
        with_distance=False,
        voxel_size=voxel_size,
        with_cluster_center=True,
        with_voxel_center=True,
        point_cloud_range=point_cloud_range,
        norm_cfg=dict(type='naiveSyncBN1d', eps=1e-3, momentum=bn_momentum)),
    pts_middle_encoder=dict(
        type='PointPillarsScatter', in_channels=32, output_shape=[256, 256]),
    pts_backbone=dict(
        type='SECOND',
        in_channels=32,
        norm_cfg=norm_cfg,
        layer_nums=[1, 2, 2],
        layer_strides=[2, 2, 2],
        out_channels=[32, 64, 64]),
    pts_neck=dict(
        type='SECONDFPN',
        norm_cfg=norm_cfg,
        in_channels=[32, 64, 64],
        upsample_strides=[1, 2, 4],
        out_channels=[32, 32, 32]),
    pts_bbox_head=dict(
        type='Anchor3DHead',
        num_classes=10,
        in_channels=96,
        feat_channels=96,
        use_direction_classifier=True,
        anchor_generator=dict(
            type='AlignedAnchor3DRangeGenerator',
            ranges=[[-25.6, -25.6, -1.0, 25.6, 25.6, -1.0]],
            sizes=[
                [4.6, 1.95, 1.7],  # car
                [8.0, 2.7, 3.2],  # truck, bus, trailer, construction_vehicle
                [1.8, 0.6, 1.3],  # bicycle, motorcycle
                [0.8, 0.8, 1.75],  # pedestrian
                [0.4, 0.4, 1.0],  # traffic_cone
                [0.65, 2.0, 1.1],  # barrier
            ],
            custom_values=[0, 0],
            rotations=[0, 1.57],
            reshape_out=True),
        assigner_per_size=False,
        diff_rad_by_sin=True,
        dir_offset=-0.7854,
        bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder', code_size=9),
        loss_cls=dict(
            type='mmdet.FocalLoss',
            use_sigmoid=True,
            gamma=2.0,
            alpha=0.25,
            loss_weight=1.0),
        loss_bbox=dict(
            type='mmdet.SmoothL1Loss', beta=1.0 / 9.0, loss_weight=1.0),
        loss_dir=dict(
            type='mmdet.CrossEntropyLoss', use_sigmoid=False,
            loss_weight=0.2)),
    train_cfg=dict(
        pts=dict(
            assigner=dict(
                type='Max3DIoUAssigner',
                iou_calculator=dict(type='BboxOverlapsNearest3D'),
                pos_iou_thr=0.6,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                ignore_iof_thr=-1),
            allowed_border=0,
            code_weight=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
            pos_weight=-1,
            debug=False)),
    test_cfg=dict(
        pts=dict(
            use_rotate_nms=True,
            nms_across_levels=False,
            nms_pre=1000,
            nms_thr=0.2,
            score_thr=0.05,
            min_bbox_size=0,
            max_num=500)))
