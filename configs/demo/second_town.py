"""A small SECOND on a generated town: minutes on two cores, without a GPU and without a download.

The town (400 training frames, 120 others for validation, in KITTI's layout) is generated into data/town on first use,
in about 20 s. 600 steps of 2 workers x 2 frames follow, then one validation.

    python -m raydet3d.train configs/demo/second_town.py
"""

_base_ = [
    '../_base_/models/second_hv_secfpn_kitti.py',
    '../_base_/datasets/town-3d-3class.py', '../_base_/default_runtime.py'
]

point_cloud_range = [0, -20.48, -3, 40.96, 20.48, 1]
voxel_size = [0.16, 0.16, 0.1]  # 256 x 256 x 40 voxels

# The published 0.01 remembers 100 steps and more: the averages of a short training would lag behind its weights.
bn_momentum = 0.05

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(
            max_num_points=5,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=(12000, 12000))),
    # Two strided stages instead of three: the map has 64 x 64 cells of 64 cm.
    middle_encoder=dict(
        sparse_shape=[41, 256, 256],
        norm_cfg=dict(type='BN1d', eps=1e-3, momentum=bn_momentum),
        base_channels=8,
        output_channels=32,
        encoder_channels=((8, ), (16, 16), (32, 32)),
        encoder_paddings=((1, ), (1, 1), (1, 1))),
    backbone=dict(
        norm_cfg=dict(type='BN', eps=1e-3, momentum=bn_momentum),
        in_channels=160,
        layer_nums=[2, 2],
        layer_strides=[1, 2],
        out_channels=[64, 64]),
    # The anchors stand in cells of 32 cm.
    neck=dict(
        norm_cfg=dict(type='BN', eps=1e-3, momentum=bn_momentum),
        in_channels=[64, 64],
        upsample_strides=[2, 4],
        out_channels=[48, 48]),
    bbox_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(
            # The road is 1.73 m under the LiDAR, the pavement 0.12 m higher.
            ranges=[
                [0, -20.48, -1.65, 40.96, 20.48, -1.65],
                [0, -20.48, -1.7, 40.96, 20.48, -1.7],
                [0, -20.48, -1.73, 40.96, 20.48, -1.73],
            ],
            sizes=[[0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [3.9, 1.6, 1.56]])))

# One cycle: the rate climbs to 10 lr, then falls to lr / 10,000.
epoch_num = 6
lr = 0.001
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.95, 0.99), weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        T_max=epoch_num * 0.4,
        eta_min=lr * 10,
        begin=0,
        end=epoch_num * 0.4,
        by_epoch=True,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=epoch_num * 0.6,
        eta_min=lr * 1e-4,
        begin=epoch_num * 0.4,
        end=epoch_num,
        by_epoch=True,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingMomentum',
        T_max=epoch_num * 0.4,
        eta_min=0.85,
        begin=0,
        end=epoch_num * 0.4,
        by_epoch=True,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingMomentum',
        T_max=epoch_num * 0.6,
        eta_min=0.95,
        begin=epoch_num * 0.4,
        end=epoch_num,
        by_epoch=True,
        convert_to_iter_based=True)
]

train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=epoch_num, val_interval=epoch_num)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    logger=dict(
        type='LoggerHook', interval=20, headline=['3D_AP40_moderate_strict']),
    checkpoint=dict(
        type='CheckpointHook',
        interval=3,
        max_keep_ckpts=2,
        save_best='Kitti metric/pred_instances_3d/KITTI/Car_3D_AP40_moderate_strict',
        rule='greater'),
    visualization=dict(
        type='Det3DVisualizationHook',
        draw=True,
        interval=20,
        score_thr=0.3,
        vis_task='lidar_det'))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(vis_backends=vis_backends)

# Another seed is another run: --cfg-options randomness.seed=1.
randomness = dict(seed=0)

ray = dict(num_workers=2)
