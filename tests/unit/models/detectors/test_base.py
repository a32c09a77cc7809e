"""`BaseModel` and `Base3DDetector`: losses that are added up, a whole run with a model of a user, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydet3d.models import Base3DDetector, BaseModel
from raydet3d.runtime import Runner
from raydet3d.structures import Det3DDataSample, InstanceData
from tests.kit.toy import toy_cfg


class UserModel(BaseModel):
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


def test_a_model_derived_from_base_model_trains_and_validates(tmp_path: Path) -> None:
    cfg = toy_cfg(
        tmp_path, model={"type": UserModel}, data_preprocessor={"type": "BaseDataPreprocessor", "non_blocking": True}
    )
    runner = Runner.from_cfg(cfg)
    result = runner.train()
    runner.close()
    assert result["metrics"]["toy/count"] == 9
    assert set(runner.message_hub.log_scalars) >= {"train/loss", "train/loss_a", "train/loss_b", "train/n"}
    assert runner.message_hub.get_scalar("train/loss").current() < 1


def test_parse_losses_adds_lists_and_leaves_out_what_is_not_a_loss() -> None:
    total, log = Base3DDetector.parse_losses(
        {
            "loss_a": torch.tensor([1.0, 3.0]),
            "a_losses": [torch.tensor(1.0), torch.tensor([2.0, 4.0])],
            "accuracy": torch.tensor(0.5),
        }
    )
    assert total.item() == 6
    assert {name: value.item() for name, value in log.items()} == {
        "loss": 6,
        "loss_a": 2,
        "a_losses": 4,
        "accuracy": 0.5,
    }


def test_add_pred_to_datasample_fills_missing_predictions_with_empty_ones() -> None:
    found = InstanceData(scores_3d=torch.ones(2))
    (sample,) = Base3DDetector().add_pred_to_datasample([Det3DDataSample()], [found])
    assert sample.pred_instances_3d is found
    assert len(sample.pred_instances) == 0
