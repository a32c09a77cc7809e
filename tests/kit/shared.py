"""Where the real frames lie beside a checkout; tests that use them are skipped where they are absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
KITTI = SHARED / "data" / "kitti"
NUSCENES = SHARED / "data" / "nuscenes"

needs_shared = pytest.mark.skipif(not KITTI.is_dir(), reason="the real KITTI frames (../shared/data) are not here")
needs_nuscenes = pytest.mark.skipif(
    not NUSCENES.is_dir(), reason="the real nuScenes frame (../shared/data) is not here"
)
