"""A reduced PointPillars of nuScenes learns one real keyframe by heart; as centerpoint_nuscenes_frame.py.

Of the keyframe ca9a282c (scene-0061) it finds all 20 objects in range with five points or more, at 3D IoU above 0.97,
with one box too many, after 150 steps: 53 s of one core.

    python -m raydet3d.data.prepare nuscenes data/nuscenes --version v1.0-mini
    python -m raydet3d.train configs/demo/pointpillars_nuscenes_frame.py --workers 0
"""

_base_ = [
    '../_base_/models/pointpillars_hv_fpn_nus.py',
    '../_base_/nuscenes_keyframe.py'
]

point_cloud_range = [-25.6, -25.6, -5.0, 25.6, 25.6, 3.0]
voxel_size = [0.2, 0.2, 8]  # 256 x 256 pillars; anchors in cells of 40 cm
bn_momentum = 0.1
norm_cfg = dict(type='naiveSyncBN2d', eps=1e-3, momentum=bn_momentum)

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(
            max_num_points=20,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=(8000, 8000))),
    pts_voxel_encoder=dict(
        in_channels=5,
        feat_channels=[32, 32],
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range,
        norm_cfg=dict(momentum=bn_momentum)),
    pts_middle_encoder=dict(in_channels=32, output_shape=[256, 256]),
    pts_backbone=dict(
        in_channels=32,
        norm_cfg=norm_cfg,
        layer_nums=[1, 2, 2],
        out_channels=[32, 64, 64]),
    pts_neck=dict(
        _delete_=True,
        type='SECONDFPN',
        norm_cfg=norm_cfg,
        in_channels=[32, 64, 64],
        upsample_strides=[1, 2, 4],
        out_channels=[32, 32, 32]),
    pts_bbox_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(
            _delete_=True,
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
            reshape_out=True)))
