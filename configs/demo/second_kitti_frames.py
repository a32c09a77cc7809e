"""A reduced SECOND learns a handful of real KITTI frames by heart; as pointpillars_kitti_frames.py.

Of the frames 000008 and 000134 it finds all 20 objects in range at 3D IoU above 0.99 after 150 steps of both
(`train_dataloader.batch_size=2 max_iters=150`), with no box too many.

    python -m raydet3d.data.prepare kitti data/kitti
    python -m raydet3d.train configs/demo/second_kitti_frames.py --workers 0
"""

_base_ = './pointpillars_kitti_frames.py'

point_cloud_range = [0, -20.48, -3, 40.96, 20.48, 1]
voxel_size = [0.16, 0.16, 0.1]  # 256 x 256 x 40 voxels; anchors in cells of 32 cm
bn_momentum = 0.1

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(
            max_num_points=5,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=(12000, 12000))),
    voxel_encoder=dict(_delete_=True, type='HardSimpleVFE'),
    middle_encoder=dict(
        _delete_=True,
        type='SparseEncoder',
        in_channels=4,
        sparse_shape=[41, 256, 256],
        order=('conv', 'norm', 'act'),
        norm_cfg=dict(type='BN1d', eps=1e-3, momentum=bn_momentum),
        base_channels=8,
        output_channels=32,
        encoder_channels=((8, ), (16, 16), (32, 32)),
        encoder_paddings=((1, ), (1, 1), (1, 1))),
    backbone=dict(
        in_channels=160,
        layer_nums=[2, 2],
        layer_strides=[1, 2],
        out_channels=[64, 64]),
    neck=dict(
        in_channels=[64, 64], upsample_strides=[2, 4], out_channels=[48, 48]),
    bbox_head=dict(
        anchor_generator=dict(type='Anchor3DRangeGenerator'),
        assign_per_class=False))
