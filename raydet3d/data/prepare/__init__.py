"""From a data set as it is downloaded to what training reads: info files, reduced clouds, the object database."""

from raydet3d.data.prepare.kitti import prepare_kitti
from raydet3d.data.prepare.progress_bar import Bar

__all__ = ["Bar", "prepare_kitti"]
