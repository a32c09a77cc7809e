"""Images become a normalized batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raydet3d.models.data_preprocessors.image import ImgDataPreprocessor, stack_batch
from raydet3d.registry import MODELS


def test_images_of_different_sizes_are_padded_at_the_end() -> None:
    small, large = torch.ones(3, 2, 5), torch.full((3, 3, 4), 2.0)
    batch = stack_batch([small, large], pad_size_divisor=4, pad_value=7)
    assert batch.shape == (2, 3, 4, 8)
    assert torch.equal(batch[0, :, :2, :5], small)
    assert batch[0, 0, 2, 0] == batch[1, 0, 0, 4] == 7
    with pytest.raises(AssertionError):
        stack_batch([])


def test_channels_are_swapped_and_normalized() -> None:
    preprocessor = MODELS.build(
        dict(type="ImgDataPreprocessor", mean=[0, 1, 2], std=[1, 2, 4], bgr_to_rgb=True, pad_size_divisor=2)
    )
    image = torch.stack([torch.full((3, 3), value, dtype=torch.uint8) for value in (10, 20, 30)])
    for inputs in ([image, image], torch.stack([image, image])):
        data = preprocessor({"inputs": inputs}, training=True)
        assert data["data_samples"] is None
        assert data["inputs"].shape == (2, 3, 4, 4)
        assert data["inputs"].dtype == torch.float32
        assert data["inputs"][0, :, 0, 0].tolist() == [30, 9.5, 2]
        assert data["inputs"][0, 0, 3, 3] == 0
    assert not preprocessor.state_dict()


def test_wrong_settings_and_inputs() -> None:
    wrong: list[dict[str, Any]] = [
        {"bgr_to_rgb": True, "rgb_to_bgr": True},
        {"mean": [1]},
        {"mean": [1, 2], "std": [1, 2]},
    ]
    for settings in wrong:
        with pytest.raises(AssertionError):
            ImgDataPreprocessor(**settings)
    with pytest.raises(TypeError):
        ImgDataPreprocessor()({"inputs": "image"})
    with pytest.raises(AssertionError):
        ImgDataPreprocessor(mean=[1, 2, 3], std=[1, 1, 1])({"inputs": [torch.ones(1, 2, 2)]})
