"""CenterPoint on pillars of 20 cm, nuScenes, with circle NMS. Published score: mAP 48.70, NDS 59.62.

    python -m raydet3d.train configs/centerpoint/centerpoint_pillar02_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py --workers 8
"""

_base_ = './centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py'

model = dict(test_cfg=dict(pts=dict(nms_type='circle')))
