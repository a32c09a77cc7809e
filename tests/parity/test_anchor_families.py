"""RegNet, FreeAnchor and SSN against MMDetection3D's numbers, which `anchor_families.py` stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.models.backbones.regnet import NoStemRegNet
from raydet3d.registry import MODELS
from raydet3d.structures import InstanceData, LiDARInstance3DBoxes
from tests.parity import anchor_families as families

STORED = np.load(Path(__file__).with_name("anchor_families.npz"))


def numbers_of(cfg: dict[str, Any], *sizes: tuple[int, int]) -> dict[str, np.ndarray]:
    tensor, labels = families.boxes(5, 12)
    truth = InstanceData(bboxes_3d=LiDARInstance3DBoxes(tensor, box_dim=9), labels_3d=labels)
    return families.head_numbers(MODELS.build(cfg), families.maps(3, 16, *sizes), truth, families.flatten_losses)


@pytest.mark.parametrize(
    ("name", "cfg", "sizes"),
    [("free", families.FREE_ANCHOR, ((12, 16), (6, 8))), ("ssn", families.SHAPE_AWARE, ((24, 32),))],
)
def test_outputs_losses_and_gradients_of_a_head(name: str, cfg: dict[str, Any], sizes: Any) -> None:
    numbers = numbers_of(cfg, *sizes)
    keys = {key.split(" ", 1)[1] for key in STORED.files if key.startswith(f"{name} ") and not key.endswith(" norm")}
    assert set(numbers) == keys
    for key, value in families.compress(numbers).items():
        expected = STORED[f"{name} {key}"]
        tolerance = 1e-3 if key.startswith("grad") else 1e-4 if key.startswith("out") else 1e-5
        scale = max(float(np.abs(expected).max()), 1e-6)
        np.testing.assert_allclose(value / scale, expected / scale, atol=tolerance, err_msg=key)


def test_regnet_has_the_published_names_shapes_and_maps() -> None:
    net = NoStemRegNet(**families.REGNET)
    shapes = [f"{name} {tuple(value.shape)}" for name, value in net.state_dict().items()]
    assert shapes == STORED["regnet shapes"].tolist()
    families.fill(net, 2)
    for i, out in enumerate(net.eval()(families.maps(4, 16, (16, 12))[0])):
        expected = STORED[f"regnet {i}"]
        np.testing.assert_allclose(families._first(out), expected, atol=1e-4 * float(np.abs(expected).max()))
