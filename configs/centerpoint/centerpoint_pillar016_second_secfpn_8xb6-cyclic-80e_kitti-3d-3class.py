"""CenterPoint on KITTI's pillars of 16 cm: pedestrians, cyclists and cars, without velocity.

Ours: there is no published model of this kind. Pillars, backbone and neck are those of PointPillars on KITTI.

    python -m raydet3d.data.prepare kitti data/kitti
    python -m raydet3d.train configs/centerpoint/centerpoint_pillar016_second_secfpn_8xb6-cyclic-80e_kitti-3d-3class.py
"""

_base_ = [
    '../_base_/models/centerpoint_pillar02_second_secfpn_nus.py',
    '../_base_/datasets/kitti-3d-3class.py',
    '../_base_/schedules/cyclic-40e.py', '../_base_/default_runtime.py'
]

point_cloud_range = [0, -39.68, -3, 69.12, 39.68, 1]
voxel_size = [0.16, 0.16, 4]  # 432 x 496 pillars
post_center_range = [-5, -45, -10, 75, 45, 10]

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(
            max_num_points=32,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=(16000, 40000))),
    pts_voxel_encoder=dict(
        in_channels=4,
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range),
    pts_middle_encoder=dict(output_shape=(496, 432)),
    # Cells of 32 cm, so that pedestrians have some.
    pts_neck=dict(upsample_strides=[1, 2, 4], use_conv_for_no_stride=False),
    pts_bbox_head=dict(
        tasks=[
            dict(num_class=2, class_names=['Pedestrian', 'Cyclist']),
            dict(num_class=1, class_names=['Car']),
        ],
        common_heads=dict(
            _delete_=True, reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2)),
        bbox_coder=dict(
            pc_range=point_cloud_range[:2],
            post_center_range=post_center_range,
            out_size_factor=2,
            voxel_size=voxel_size[:2],
            code_size=7)),
    train_cfg=dict(
        pts=dict(
            grid_size=[432, 496, 1],
            voxel_size=voxel_size,
            point_cloud_range=point_cloud_range,
            out_size_factor=2,
            code_weights=[1.0] * 8)),
    test_cfg=dict(
        pts=dict(
            post_center_limit_range=post_center_range,
            pc_range=point_cloud_range[:2],
            out_size_factor=2,
            voxel_size=voxel_size[:2],
            min_radius=[0.2, 4],
            nms_thr=0.1)))

# PointPillars' range: the rest of the pipelines is that of the base.
train_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='ObjectSample', db_sampler={{_base_.db_sampler}}),
    dict(
        type='ObjectNoise',
        num_try=100,
        translation_std=[1.0, 1.0, 0.5],
        global_rot_range=[0.0, 0.0],
        rot_range=[-0.78539816, 0.78539816]),
    dict(type='RandomFlip3D', flip_ratio_bev_horizontal=0.5),
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[-0.78539816, 0.78539816],
        scale_ratio_range=[0.95, 1.05]),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='PointShuffle'),
    dict(
        type='Pack3DDetInputs',
        keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points'])
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
