"""Reading checkpoints: plain ones, MMEngine-like ones with objects inside, malicious and broken ones."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.errors import InputError


class Buffer:
    """Stands for a class of another package whose objects lie in its checkpoints."""

    def __init__(self) -> None:
        self.values = np.arange(4.0)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_objects_of_other_classes_are_dropped(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.rand(3, 2).half())
    content = {
        "state_dict": {"w": weight, "v": weight.data[1:]},
        "meta": {"epoch": 3, "seed": np.int64(1), "list": [1, Buffer()]},
        "message_hub": {"log_scalars": {"loss": Buffer()}, "runtime_info": {"iter": 5}},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2, dtype=torch.float64)}}, "param_groups": [{"lr": 0.1}]},
    }
    torch.save(content, tmp_path / "foreign.pth")
    read = read_checkpoint(tmp_path / "foreign.pth")
    assert torch.equal(read["state_dict"]["w"], weight)
    assert torch.equal(read["state_dict"]["v"], weight[1:])
    assert read["message_hub"] == {"log_scalars": {}, "runtime_info": {"iter": 5}}
    assert read["optimizer"]["state"][0]["exp_avg"].dtype is torch.float64
    assert (read["meta"]["epoch"], read["meta"]["list"]) == (3, [1])


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    # I5
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": Bomb(tmp_path / "boom")}, tmp_path / "bomb.pth")
    read = read_checkpoint(tmp_path / "bomb.pth")
    assert set(read) == {"state_dict"}
    assert not (tmp_path / "boom").exists()
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(InputError, match=r"bare.pth"):
        read_checkpoint(tmp_path / "bare.pth")
    assert not (tmp_path / "boom").exists()


def test_bare_weights_are_read_as_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth")["state_dict"]["w"].sum() == 2


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read checkpoint .*none.pth: No such file"):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text.pth"):
        read_checkpoint(tmp_path / "text.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty.pth is damaged or no checkpoint"):
        read_checkpoint(tmp_path / "empty.pth")
    (tmp_path / "last_checkpoint").write_text("epoch_8.pth")
    with pytest.raises(InputError, match=r"last_checkpoint is damaged or no checkpoint"):
        read_checkpoint(tmp_path / "last_checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"holds a list"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"meta": {}}, tmp_path / "meta.pth")
    with pytest.raises(InputError, match=r"has no 'state_dict'; it holds meta"):
        read_checkpoint(tmp_path / "meta.pth")
    torch.save({"state_dict": {"w": torch.rand(1000)}}, tmp_path / "half.pth")
    os.truncate(tmp_path / "half.pth", 2000)
    with pytest.raises(InputError, match=r"half.pth is damaged"):
        read_checkpoint(tmp_path / "half.pth")
