"""SECOND on KITTI: pedestrians, cyclists and cars.

Published score (moderate, AP11, mean of the three classes in 3D): 65.3, by the original on 8 V100 with 5.4 GB each and
about 40 samples/s, so 80 passes over 3,712 frames in some 125 minutes.

    python -m raydet3d.data.prepare kitti data/kitti
    python -m raydet3d.train configs/second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py --workers 8
"""

_base_ = [
    '../_base_/models/second_hv_secfpn_kitti.py',
    '../_base_/datasets/kitti-3d-3class.py',
    '../_base_/schedules/cyclic-40e.py', '../_base_/default_runtime.py'
]
