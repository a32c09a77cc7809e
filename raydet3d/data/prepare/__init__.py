"""Prepare data sets: from the downloaded layout to info files, reduced clouds and the ground-truth database."""

from raydet3d.data.prepare.custom import prepare_custom
from raydet3d.data.prepare.kitti import prepare_kitti
from raydet3d.data.prepare.nuscenes import prepare_nuscenes
from raydet3d.data.prepare.preparers import PREPARERS

__all__ = ["PREPARERS", "prepare_custom", "prepare_kitti", "prepare_nuscenes"]
