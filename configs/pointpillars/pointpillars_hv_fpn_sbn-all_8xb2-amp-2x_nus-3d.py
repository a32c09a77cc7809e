"""PointPillars with a feature pyramid on nuScenes, in half precision. Published score: mAP 39.26, NDS 53.26, 8.4 GB.

    python -m raydet3d.train configs/pointpillars/pointpillars_hv_fpn_sbn-all_8xb2-amp-2x_nus-3d.py --workers 8
"""

_base_ = './pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py'

train_dataloader = dict(batch_size=2, num_workers=2)
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=4096.)
