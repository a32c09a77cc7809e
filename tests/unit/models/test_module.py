"""The base for models of one's own: a whole run with it, and where its data go."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydet3d.models.module import BaseDataPreprocessor, BaseModel
from raydet3d.runtime import Runner
from tests.kit.toy import toy_cfg


class Own(BaseModel):
    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor, init_cfg={"type": "Constant", "layer": "Linear", "val": 0.1})
        self.head = nn.Linear(6, 1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        out = self.head(torch.stack(inputs)).squeeze(1)
        if mode == "loss":
            target = torch.stack([sample.target for sample in data_samples])
            return {"loss_a": (out - target).square(), "loss_b": [out.abs().mean() * 0, out.sum() * 0], "n": out.mean()}
        for sample, value in zip(data_samples, out, strict=True):
            sample.prediction = value
        return data_samples


def test_a_run_with_it(tmp_path: Path) -> None:
    cfg = toy_cfg(
        tmp_path, model={"type": Own}, data_preprocessor={"type": "BaseDataPreprocessor", "non_blocking": True}
    )
    runner = Runner.from_cfg(cfg)
    result = runner.train()
    runner.close()
    assert result["metrics"]["toy/count"] == 9
    assert set(runner.message_hub.log_scalars) >= {"train/loss", "train/loss_a", "train/loss_b", "train/n"}
    assert runner.message_hub.get_scalar("train/loss").current() < 1


def test_data_move_and_containers_stay_what_they_are() -> None:
    pair = namedtuple("pair", "x y")
    mover = BaseDataPreprocessor().to("meta")
    assert mover.device.type == "meta"
    data = {"a": [torch.zeros(1), "text"], "b": pair(torch.zeros(1), 3), "c": (torch.zeros(1),)}
    moved = mover(data)
    assert moved["a"][0].device.type == moved["b"].x.device.type == moved["c"][0].device.type == "meta"
    assert (moved["a"][1], moved["b"].y, type(moved["b"]), type(moved["c"])) == ("text", 3, pair, tuple)
