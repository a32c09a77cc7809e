"""Data sets: one module each, with what is specific to it (categories, calibration, info file layouts, hints)."""

from raydet3d.data.datasets import kitti, kitti_infos, nuscenes, nuscenes_infos

__all__ = ["kitti", "kitti_infos", "nuscenes", "nuscenes_infos"]
