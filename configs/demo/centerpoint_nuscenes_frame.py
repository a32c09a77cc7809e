"""A reduced CenterPoint on voxels of 20 cm learns one real nuScenes keyframe by heart; no benchmark.

It trains and validates on the first keyframe of the info file, with its own sweep alone, within 25.6 m of the sensor.
Of the keyframe ca9a282c (scene-0061) it finds all 20 objects in range with five points or more, at 3D IoU above 0.97,
with no box too many, after 150 steps: two minutes of one core.

    python -m raydet3d.data.prepare nuscenes data/nuscenes --version v1.0-mini
    python -m raydet3d.train configs/demo/centerpoint_nuscenes_frame.py --workers 0
"""

_base_ = [
    '../_base_/models/centerpoint_voxel01_second_secfpn_nus.py',
    '../_base_/nuscenes_keyframe.py'
]

point_cloud_range = [-25.6, -25.6, -5.0, 25.6, 25.6, 3.0]
voxel_size = [0.2, 0.2, 0.2]  # 256 x 256 x 40 voxels; cells of the map are 80 cm wide
out_size_factor = 4
bn_momentum = 0.1  # the published 0.01 remembers hundreds of steps, here all of them

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=(12000, 12000))),
    pts_middle_encoder=dict(
        sparse_shape=[41, 256, 256],
        norm_cfg=dict(type='BN1d', eps=1e-3, momentum=bn_momentum),
        base_channels=8,
        output_channels=16,
        encoder_channels=((8, 8, 16), (16, 16, 32), (32, 32)),
        encoder_paddings=((0, 0, 1), (0, 0, [0, 1, 1]), (0, 0))),
    pts_backbone=dict(
        in_channels=64,  # 16 channels at each of 4 heights
        out_channels=[64, 64],
        layer_nums=[2, 2],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=bn_momentum)),
    pts_neck=dict(
        in_channels=[64, 64],
        out_channels=[48, 48],
        norm_cfg=dict(type='BN', eps=1e-3, momentum=bn_momentum)),
    pts_bbox_head=dict(
        in_channels=96,
        share_conv_channel=48,
        bbox_coder=dict(
            pc_range=point_cloud_range[:2],
            out_size_factor=out_size_factor,
            voxel_size=voxel_size[:2]),
        separate_head=dict(head_conv=48, init_bias=-4.6),
        norm_cfg=dict(type='BN2d', momentum=bn_momentum)),
    train_cfg=dict(
        pts=dict(
            grid_size=[256, 256, 40],
            voxel_size=voxel_size,
            out_size_factor=out_size_factor,
            point_cloud_range=point_cloud_range)),
    test_cfg=dict(
        pts=dict(
            pc_range=point_cloud_range[:2],
            out_size_factor=out_size_factor,
            voxel_size=voxel_size[:2],
            # The published 1 m^2 would merge two barriers of this frame.
            nms_type='rotate')))
