"""SECOND on KITTI in half precision, cars only. Published score (moderate, AP11 in 3D): 78.72.

    python -m raydet3d.train configs/second/second_hv_secfpn_8xb6-amp-80e_kitti-3d-car.py --workers 8
"""

_base_ = './second_hv_secfpn_8xb6-80e_kitti-3d-car.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=4096.)
