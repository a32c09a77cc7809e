"""SECOND on KITTI in half precision. Published score (moderate, AP11, 3D): 67.4, with 2.9 GB on each of 8 V100."""

_base_ = './second_hv_secfpn_8xb6-80e_kitti-3d-3class.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=4096.)
