"""Data sets: one module each, with what is specific to it (categories, calibration, info file layouts, hints)."""

from raydet3d.data.datasets import custom, kitti, kitti_infos, nuscenes, nuscenes_infos

__all__ = ["custom", "kitti", "kitti_infos", "nuscenes", "nuscenes_infos"]
