"""A small prepared data set, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet3d.data.prepare import prepare_kitti
from tests.kit.tiny_kitti import write_kitti


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and two validation frames with planes, and two test frames; prepared. Not to be written to."""
    root = write_kitti(tmp_path_factory.mktemp("data") / "tiny", planes=True, test=2)
    prepare_kitti(root)
    return root
