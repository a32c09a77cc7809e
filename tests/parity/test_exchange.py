"""Checkpoints both ways with MMEngine: its own files (stored), and the two programs side by side where it is installed.

``mmengine_*.pth.xz`` were written by MMEngine 0.10.7: ``exchange.py --side train`` after its first and second epoch,
without and with an average of the weights. Ours goes on from the first and must arrive at the second.
"""

from __future__ import annotations

import lzma
import os
import shutil
from pathlib import Path

import pytest
import torch

from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.registry import HOOKS
from tests.parity.exchange import compare, rows, train_ours

HERE = Path(__file__).parent
# Another processor may sum in another order: the last digits of a float32 after six steps.
CLOSE = 1e-6


def unpacked(name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(lzma.decompress((HERE / f"{name}.xz").read_bytes()))
    return path


@pytest.mark.parametrize("kind", ["plain", "average"])
def test_a_run_of_theirs_goes_on_here(tmp_path: Path, kind: str) -> None:
    start = unpacked(f"mmengine_{kind}_epoch_1.pth", tmp_path / "theirs")
    train_ours(tmp_path / "ours", start, average=kind == "average", optimizer="AdamW")
    expected = read_checkpoint(unpacked(f"mmengine_{kind}_epoch_2.pth", tmp_path / "theirs"))
    apart = compare(read_checkpoint(tmp_path / "ours" / "epoch_2.pth"), expected)
    assert all(value <= CLOSE for value in apart.values()), apart
    assert (expected["meta"]["epoch"], expected["meta"]["iter"]) == (2, 12)


def test_their_file_is_read_without_its_objects(tmp_path: Path) -> None:
    """Their history objects are left out by the restricted reader; torch's safe reader refuses the file (I1, I5)."""
    path = unpacked("mmengine_plain_epoch_1.pth", tmp_path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    content = read_checkpoint(path)
    assert set(content) >= {"meta", "state_dict", "optimizer", "param_schedulers"}
    assert content["meta"]["mmengine_version"] == "0.10.7"
    assert "base_param_settings" in content["optimizer"]


def test_both_programs_go_on_with_each_others_checkpoints(tmp_path: Path) -> None:
    python = os.environ.get("RAYDET3D_MMENGINE_PYTHON")
    if not python or shutil.which(python) is None:
        pytest.skip("RAYDET3D_MMENGINE_PYTHON names no python that has MMEngine 0.10")
    averages = (False, True) if "EMAHook" in HOOKS else (False,)
    for title, apart in rows(python, tmp_path, averages=averages):
        assert all(value <= CLOSE for value in apart.values()), (title, apart)
