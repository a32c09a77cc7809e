"""Prepare data sets: from the downloaded layout to info files, reduced clouds and the ground-truth database."""

from raydet3d.data.prepare.kitti import prepare_kitti
from raydet3d.data.prepare.preparers import PREPARERS
from raydet3d.data.prepare.progress_bar import ProgressBar

__all__ = ["PREPARERS", "ProgressBar", "prepare_kitti"]
