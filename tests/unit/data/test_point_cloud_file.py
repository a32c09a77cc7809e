"""Point cloud files whose size does not fit are refused, also by a single byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raydet3d.data.point_cloud_file import read_cloud
from raydet3d.errors import InputError


def test_a_truncated_cloud_is_named_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "000003.bin"
    np.arange(40, dtype=np.float32).tofile(path)
    assert read_cloud(path).shape == (10, 4)
    for cut, whole in ((6, 144), (2, 144)):
        path.write_bytes(path.read_bytes()[:-cut] if path.stat().st_size == 160 else path.read_bytes()[:150])
        with pytest.raises(InputError, match=f"{path.stat().st_size} bytes, not a multiple of the 16 .* {whole} bytes"):
            read_cloud(path)
    whole = np.arange(40, dtype=np.float32).tobytes()
    for extra in range(1, 16):
        path.write_bytes(whole + bytes(extra))
        with pytest.raises(InputError, match=f"{160 + extra} bytes, not a multiple"):
            read_cloud(path)
    path.write_bytes(b"abc")
    with pytest.raises(InputError, match="3 bytes"):
        read_cloud(path)
    path.write_bytes(b"")
    assert read_cloud(path).shape == (0, 4)
    with pytest.raises(InputError, match="No such file"):
        read_cloud(tmp_path / "9.bin")
