"""PointPillars with SECOND's neck on nuScenes, in half precision. Published score: mAP 35.19, NDS 50.27.

    python -m raydet3d.train configs/pointpillars/pointpillars_hv_secfpn_sbn-all_8xb2-amp-2x_nus-3d.py --workers 8
"""

_base_ = './pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d.py'

train_dataloader = dict(batch_size=2, num_workers=2)
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=4096.)
