"""CenterPoint on voxels of 10 cm, nuScenes, with circle NMS. Published score: mAP 56.11, NDS 64.61.

    python -m raydet3d.train configs/centerpoint/centerpoint_voxel01_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py --workers 8
"""

_base_ = './centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py'

model = dict(test_cfg=dict(pts=dict(nms_type='circle')))
