"""A reduced CenterPoint on pillars, without velocity, learns a handful of real KITTI frames by heart.

As pointpillars_kitti_frames.py, with a head of two tasks: pedestrians and cyclists, cars.

Of the frames 000008 and 000134 it finds all 20 objects in range at 3D IoU above 0.97 after 150 steps of both
(`train_dataloader.batch_size=2 max_iters=150`), with no box too many.

    python -m raydet3d.data.prepare kitti data/kitti
    python -m raydet3d.train configs/demo/centerpoint_kitti_frames.py --workers 0
"""

_base_ = './pointpillars_kitti_frames.py'

point_cloud_range = [0, -20.48, -3, 40.96, 20.48, 1]
voxel_size = [0.32, 0.32, 4]  # 128 x 128 pillars; the map has 64 x 64 cells of 64 cm
bn_momentum = 0.1

model = dict(
    _delete_=True,
    type='CenterPoint',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=32,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=(8000, 8000))),
    pts_voxel_encoder=dict(
        type='PillarFeatureNet',
        in_channels=4,
        feat_channels=[32],
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range,
        norm_cfg=dict(type='BN1d', eps=1e-3, momentum=bn_momentum),
        legacy=False),
    pts_middle_encoder=dict(
        type='PointPillarsScatter', in_channels=32, output_shape=(128, 128)),
    pts_backbone=dict(
        type='SECOND',
        in_channels=32,
        layer_nums=[1, 2, 2],
        layer_strides=[2, 2, 2],
        out_channels=[32, 32, 64],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=bn_momentum)),
    pts_neck=dict(
        type='SECONDFPN',
        in_channels=[32, 32, 64],
        upsample_strides=[1, 2, 4],
        out_channels=[32, 32, 32],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=bn_momentum)),
    pts_bbox_head=dict(
        type='CenterHead',
        in_channels=96,
        tasks=[
            dict(num_class=2, class_names=['Pedestrian', 'Cyclist']),
            dict(num_class=1, class_names=['Car']),
        ],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2)),
        share_conv_channel=32,
        bbox_coder=dict(
            type='CenterPointBBoxCoder',
            pc_range=point_cloud_range[:2],
            post_center_range=[-5, -25, -10, 46, 25, 10],
            max_num=100,
            score_threshold=0.1,
            out_size_factor=2,
            voxel_size=voxel_size[:2],
            code_size=7),
        separate_head=dict(
            type='SeparateHead', init_bias=-2.19, final_kernel=3, head_conv=32),
        loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        loss_bbox=dict(
            type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
        norm_bbox=True),
    train_cfg=dict(
        pts=dict(
            grid_size=[128, 128, 1],
            voxel_size=voxel_size,
            out_size_factor=2,
            point_cloud_range=point_cloud_range,
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=100,
            min_radius=2,
            code_weights=[1.0] * 8)),
    test_cfg=dict(
        pts=dict(
            post_center_limit_range=[-5, -25, -10, 46, 25, 10],
            score_threshold=0.1,
            nms_type='rotate',
            pre_max_size=100,
            post_max_size=50,
            nms_thr=0.1)))
