"""Data structures that the packages exchange: boxes in their frames, instances, data samples."""

from raydet3d.structures.boxes import (
    BOX_TYPES,
    Box3DMode,
    Boxes3D,
    CameraInstance3DBoxes,
    DepthInstance3DBoxes,
    LiDARInstance3DBoxes,
    get_box_type,
)
from raydet3d.structures.data_element import DataElement
from raydet3d.structures.data_sample import Det3DDataSample
from raydet3d.structures.instances import InstanceData

__all__ = [
    "BOX_TYPES",
    "Box3DMode",
    "Boxes3D",
    "CameraInstance3DBoxes",
    "DataElement",
    "DepthInstance3DBoxes",
    "Det3DDataSample",
    "InstanceData",
    "LiDARInstance3DBoxes",
    "get_box_type",
]
