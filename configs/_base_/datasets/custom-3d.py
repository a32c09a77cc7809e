"""Own recordings. Prepare them first: ``python -m raydet3d.data.prepare custom data/custom``."""

dataset_type = 'CustomDataset'
data_root = 'data/custom/'
class_names = ['car', 'pedestrian', 'cyclist']
class_colors = [[255, 158, 0], [0, 128, 255], [220, 20, 160]]
point_cloud_range = [0, -20.48, -3, 40.96, 20.48, 1]
load_dim = 4  # x, y, z, intensity; 5 with sweeps, whose points have a time
sweeps_num = 0  # earlier clouds to join with a frame
with_velocity = False
batch_size = 4
num_workers = 2

metainfo = dict(classes=class_names, palette=class_colors)
load_step = dict(
    type='LoadPointsFromFile',
    coord_type='LIDAR',
    load_dim=load_dim,
    use_dim=load_dim)
sweep_step = dict(
    type='LoadPointsFromMultiSweeps',
    sweeps_num=sweeps_num,
    load_dim=load_dim,
    use_dim=load_dim,
    pad_empty_sweeps=True,
    remove_close=True)
train_sweeps = [sweep_step] if sweeps_num else []
test_sweeps = [dict(sweep_step, test_mode=True)] if sweeps_num else []

db_sampler = dict(
    data_root=data_root,
    info_path=data_root + 'custom_dbinfos_train.pkl',
    rate=1.0,
    prepare=dict(filter_by_min_points={name: 5 for name in class_names}),
    classes=class_names,
    sample_groups={name: 8 for name in class_names},
    points_loader=load_step)

train_pipeline = [
    load_step, *train_sweeps,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='ObjectSample', db_sampler=db_sampler),
    dict(type='RandomFlip3D', flip_ratio_bev_horizontal=0.5),
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[-0.78539816, 0.78539816],
        scale_ratio_range=[0.95, 1.05]),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectNameFilter', classes=class_names),
    dict(type='PointShuffle'),
    dict(
        type='Pack3DDetInputs',
        keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    # Takes new clouds of the recorder as well, which dataset.json describes.
    dict(
        type='LoadCustomPointsFromFile',
        data_root=data_root,
        coord_type='LIDAR',
        load_dim=load_dim,
        use_dim=load_dim),
    *test_sweeps,
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points'])
]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='custom_infos_train.pkl',
        pipeline=train_pipeline,
        metainfo=metainfo,
        with_velocity=with_velocity,
        min_points=1,
        test_mode=False,
        box_type_3d='LiDAR'))
val_dataloader = dict(
    batch_size=1,
    num_workers=min(num_workers, 1),
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='custom_infos_val.pkl',
        pipeline=test_pipeline,
        metainfo=metainfo,
        with_velocity=with_velocity,
        test_mode=True,
        box_type_3d='LiDAR'))
test_dataloader = val_dataloader

val_evaluator = [
    dict(
        type='Box3DAPMetric',
        iou_thresholds=[0.5, 0.25],
        point_cloud_range=point_cloud_range),
    dict(
        type='CenterDistanceAPMetric',
        with_velocity=with_velocity,
        point_cloud_range=point_cloud_range)
]
test_evaluator = val_evaluator

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='Det3DLocalVisualizer',
    vis_backends=vis_backends,
    bbox_color=class_colors,
    name='visualizer')
