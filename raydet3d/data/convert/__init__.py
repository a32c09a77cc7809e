"""Convert recordings in other layouts to the folder of own recordings that `data.prepare custom` reads."""

from raydet3d.data.convert.kitti_tracking import convert_kitti_tracking
from raydet3d.data.convert.layout_writer import CONVERTERS, CustomLayoutWriter, ObjectLabel, split_sequences
from raydet3d.data.convert.scene_tables import convert_scene_tables

__all__ = [
    "CONVERTERS",
    "CustomLayoutWriter",
    "ObjectLabel",
    "convert_kitti_tracking",
    "convert_scene_tables",
    "split_sequences",
]
