"""A generated town in KITTI's layout, with KITTI's three main classes. It is made on first use, into `data_root`."""

dataset_type = 'TownDataset'
data_root = 'data/town/'
class_names = ['Pedestrian', 'Cyclist', 'Car']
# Half of KITTI's range to the front and to the sides; the town labels nothing beyond.
point_cloud_range = [0, -20.48, -3, 40.96, 20.48, 1]
# Other settings are another town: delete the folder, or name another one with data_root.
town_seed = 0
num_train = 400
num_val = 120
town = dict(
    seed=town_seed,
    num_train=num_train,
    num_val=num_val,
    range_m=[
        point_cloud_range[0], point_cloud_range[1], point_cloud_range[3],
        point_cloud_range[4]
    ])
input_modality = dict(use_lidar=True, use_camera=False)
metainfo = dict(classes=class_names)
data_prefix = dict(pts='training/velodyne_reduced')
# The camera's pictures are not trained on; validation draws boxes into them.
val_prefix = dict(pts='training/velodyne_reduced', img='training/image_2')
backend_args = None

train_pipeline = [
    dict(
        type='LoadPointsFromFile',
        coord_type='LIDAR',
        load_dim=4,  # x, y, z, intensity
        use_dim=4,
        backend_args=backend_args),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='RandomFlip3D', flip_ratio_bev_horizontal=0.5),
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[-0.3926991, 0.3926991],
        scale_ratio_range=[0.95, 1.05]),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='PointShuffle'),
    dict(
        type='Pack3DDetInputs',
        keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    dict(
        type='LoadPointsFromFile',
        coord_type='LIDAR',
        load_dim=4,
        use_dim=4,
        backend_args=backend_args),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points'])
]

# The workers of a small machine have a core each: they load for themselves.
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        town=town,
        ann_file='kitti_infos_train.pkl',
        data_prefix=data_prefix,
        pipeline=train_pipeline,
        modality=input_modality,
        test_mode=False,
        metainfo=metainfo,
        box_type_3d='LiDAR',
        backend_args=backend_args))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        town=town,
        ann_file='kitti_infos_val.pkl',
        data_prefix=val_prefix,
        pipeline=test_pipeline,
        modality=input_modality,
        test_mode=True,
        metainfo=metainfo,
        box_type_3d='LiDAR',
        backend_args=backend_args))
test_dataloader = val_dataloader

val_evaluator = dict(
    type='KittiMetric',
    ann_file=data_root + 'kitti_infos_val.pkl',
    metric='bbox',
    backend_args=backend_args)
test_evaluator = val_evaluator

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='Det3DLocalVisualizer', vis_backends=vis_backends, name='visualizer')
