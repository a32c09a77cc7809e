"""`BaseDataPreprocessor`: moves nested data to its device."""

from __future__ import annotations

from collections import namedtuple

import torch

from raydet3d.models import BaseDataPreprocessor


def test_nested_data_move_and_containers_keep_their_type() -> None:
    pair = namedtuple("pair", "x y")
    preprocessor = BaseDataPreprocessor().to("meta")
    assert preprocessor.device.type == "meta"
    data = {"a": [torch.zeros(1), "text"], "b": pair(torch.zeros(1), 3), "c": (torch.zeros(1),)}
    moved = preprocessor(data)
    assert moved["a"][0].device.type == moved["b"].x.device.type == moved["c"][0].device.type == "meta"
    assert (moved["a"][1], moved["b"].y, type(moved["b"]), type(moved["c"])) == ("text", 3, pair, tuple)
