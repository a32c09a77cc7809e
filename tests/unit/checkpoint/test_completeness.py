"""Damaged manifests: recovered from a whole checkpoint, and not from a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet3d.checkpoint.store import CheckpointStore
from tests.kit.checkpoints import flip_a_bit, save_run


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff\xfe", b'{"name": 3}', b'{"name": "epoch_2.pth"}'])
def test_damaged_manifest_is_recovered_from_its_checkpoint(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    save_run(tmp_path, "a", 1.0, ("epoch_2.pth",))
    (tmp_path / "epoch_2.pth.json").write_bytes(text)
    store = CheckpointStore(tmp_path)
    assert store.latest() == tmp_path / "epoch_2.pth"
    (manifest,) = store.manifests()
    assert (manifest.run, manifest.step, manifest.group) == ("a", 1, "epoch")
    assert [record.message.count("is damaged") for record in caplog.records] == [1]
    assert (tmp_path / "epoch_2.pth.json.damaged").read_bytes() == text


def test_damaged_manifest_of_a_damaged_checkpoint_is_not_recovered(tmp_path: Path) -> None:
    save_run(tmp_path, "a", 1.0, ("epoch_2.pth",))
    (tmp_path / "epoch_2.pth.json").write_bytes(b"")
    flip_a_bit(tmp_path / "epoch_2.pth")
    assert CheckpointStore(tmp_path).latest() is None
