"""Learn one nuScenes keyframe by heart: 150 steps on the first frame of the info file, without its other sweeps."""

_base_ = [
    './datasets/nus-3d.py', './schedules/one-cycle.py', './default_runtime.py'
]

# One cycle of 150 steps: the rate climbs to 10 lr, then falls to lr / 10,000.
_base_variables_ = dict(epoch_num=150, lr=0.001)

data_root = 'data/nuscenes/'
ann_file = 'nuscenes_infos_train.pkl'
point_cloud_range = [-25.6, -25.6, -5.0, 25.6, 25.6, 3.0]
class_names = [
    'car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier',
    'motorcycle', 'bicycle', 'pedestrian', 'traffic_cone'
]

load_points = dict(
    type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)
train_pipeline = [
    load_points,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectNameFilter', classes=class_names),
    dict(type='PointShuffle'),
    dict(
        type='Pack3DDetInputs',
        keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
]
test_pipeline = [
    load_points,
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points'])
]
metainfo = dict(classes=class_names)

train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        ann_file=ann_file,
        indices=1,
        pipeline=train_pipeline,
        metainfo=metainfo))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        ann_file=ann_file,
        indices=1,
        pipeline=test_pipeline,
        metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + ann_file)
test_evaluator = val_evaluator

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=150),
    visualization=dict(
        type='Det3DVisualizationHook',
        draw=True,
        interval=1,
        score_thr=0.3,
        vis_task='lidar_det'))

ray = dict(num_workers=1, threads_per_worker=2)
