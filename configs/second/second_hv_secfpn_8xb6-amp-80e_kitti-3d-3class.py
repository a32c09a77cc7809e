"""SECOND on KITTI in half precision. Published score (moderate, AP11, 3D): 67.4, with 2.9 GB on each of 8 V100.

    python -m raydet3d.train configs/second/second_hv_secfpn_8xb6-amp-80e_kitti-3d-3class.py --workers 8
"""

_base_ = './second_hv_secfpn_8xb6-80e_kitti-3d-3class.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=4096.)
