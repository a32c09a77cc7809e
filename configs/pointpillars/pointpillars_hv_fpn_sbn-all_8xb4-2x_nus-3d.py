"""PointPillars with a feature pyramid on nuScenes.

Published score: mAP 39.7, NDS 53.2, by the original on 8 GPUs with 16.3 GB each.

    python -m raydet3d.data.prepare nuscenes data/nuscenes --version v1.0-trainval
    python -m raydet3d.train configs/pointpillars/pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py --workers 8
"""

_base_ = [
    '../_base_/models/pointpillars_hv_fpn_nus.py',
    '../_base_/datasets/nus-3d.py', '../_base_/schedules/schedule-2x.py',
    '../_base_/default_runtime.py'
]

train_cfg = dict(val_interval=24)
