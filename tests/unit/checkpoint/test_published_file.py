"""Published checkpoints: what is in them, and their names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.checkpoint.published_file import config_in_checkpoint, publish
from raydet3d.config import Config
from raydet3d.errors import InputError

CFG = Config({"model": {"type": "VoxelNet", "n": 3}, "lr": 0.1})


def write(path: Path, **further: Any) -> Path:
    state = {
        "meta": {"cfg": CFG.pretty_text, "epoch": 3, "dataset_meta": {"classes": ["Car"]}, "seed": 5, "threads": 1},
        "state_dict": {"w": torch.arange(4.0)},
        "optimizer": {"state": torch.zeros(10_000)},
        **further,
    }
    torch.save(state, path)
    return path


def test_weights_config_and_classes_are_in_a_file_named_by_its_hash(tmp_path: Path) -> None:
    file, is_average = publish(str(write(tmp_path / "epoch_3.pth")), tmp_path / "mine")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    assert file == tmp_path / f"mine-{digest}.pth"
    assert not is_average
    content = torch.load(file, weights_only=True)
    assert set(content) == {"meta", "state_dict"}
    assert torch.equal(content["state_dict"]["w"], torch.arange(4.0))
    assert content["meta"] == {"cfg": CFG.pretty_text, "epoch": 3, "dataset_meta": {"classes": ["Car"]}}
    assert file.stat().st_size < 10_000
    assert config_in_checkpoint(file) == CFG


def test_the_same_checkpoint_gives_the_same_file(tmp_path: Path) -> None:
    source = str(write(tmp_path / "a.pth"))
    assert publish(source, tmp_path / "x.pth")[0] == publish(source, tmp_path / "x")[0]


def test_a_folder_takes_the_checkpoints_name(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    file, _ = publish(str(write(tmp_path / "epoch_3.pth")), tmp_path / "models")
    assert file.parent == tmp_path / "models"
    assert file.name.startswith("epoch_3-")


def test_averaged_weights_are_those_of_state_dict(tmp_path: Path) -> None:
    """A run with EMAHook saves the average as `state_dict`, and training's weights as `ema_state_dict`."""
    source = write(tmp_path / "a.pth", ema_state_dict={"module.w": torch.zeros(4), "steps": torch.tensor(3)})
    file, is_average = publish(str(source), tmp_path / "x")
    assert is_average
    assert torch.equal(torch.load(file, weights_only=True)["state_dict"]["w"], torch.arange(4.0))


def test_bare_weights_get_a_config_and_lose_the_wrappers_prefix(tmp_path: Path) -> None:
    torch.save({"module.w": torch.ones(2)}, tmp_path / "bare.pth")
    file, _ = publish(str(tmp_path / "bare.pth"), tmp_path / "x", cfg=CFG)
    assert list(torch.load(file, weights_only=True)["state_dict"]) == ["w"]
    assert config_in_checkpoint(file) == CFG


@pytest.mark.parametrize("text", [None, "", "import os\nos.system('x')\n"])
def test_a_config_that_is_not_plain_data_is_not_read(tmp_path: Path, text: str | None) -> None:
    torch.save({"meta": {"cfg": text}, "state_dict": {"w": torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="config"):
        config_in_checkpoint(tmp_path / "a.pth")
