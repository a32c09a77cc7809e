"""`ImgDataPreprocessor`: moves images to the model's device, normalizes and stacks them.

Shapes: B images of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from raydet3d.errors import InputAssertionError, InputTypeError
from raydet3d.models.data_preprocessors.base import BaseDataPreprocessor
from raydet3d.registry import MODELS


def stack_batch(tensor_list: list[Tensor], pad_size_divisor: int = 1, pad_value: float = 0) -> Tensor:
    """Stack tensors of different sizes, padded at the end of each dimension but the first.

    Args:
        tensor_list: (C, H, W) each, or any other number of dimensions.
        pad_size_divisor: Sizes of the result are multiples of this.
        pad_value: Value of the padding.

    Returns:
        (B, C, H, W), with the largest H and W of the tensors, rounded up.

    Raises:
        InputAssertionError: There is no list of tensors with equal numbers of dimensions.
    """
    if not isinstance(tensor_list, list) or not tensor_list or len({tensor.ndim for tensor in tensor_list}) != 1:
        raise InputAssertionError("stack_batch needs a list of tensors that have the same number of dimensions")
    largest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensor_list), strict=True)]
    target = [largest[0], *(-(-size // pad_size_divisor) * pad_size_divisor for size in largest[1:])]
    padded = []
    for tensor in tensor_list:
        missing = [want - size for want, size in zip(target[1:], tensor.shape[1:], strict=True)]
        pads = [end for size in reversed(missing) for end in (0, size)]  # torch lists the last dimension first
        padded.append(F.pad(tensor, pads, value=pad_value) if any(missing) else tensor)
    return torch.stack(padded)


@MODELS.register_module()
class ImgDataPreprocessor(BaseDataPreprocessor):
    """Moves a batch of images to the device, swaps color channels, normalizes, pads and stacks.

    Args:
        mean: Mean of each channel (after the swap), or one for all; None does not normalize.
        std: Standard deviation of each channel, or one for all; given together with `mean`.
        pad_size_divisor: Height and width of the batch are multiples of this.
        pad_value: Value of the padding, after normalization.
        bgr_to_rgb: Reverse the order of three channels.
        rgb_to_bgr: The same, for images in RGB.
        non_blocking: Copy asynchronously from pinned memory.

    Raises:
        InputAssertionError: Both swaps, or only one of `mean` and `std`, or neither 1 nor 3 numbers.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        non_blocking: bool | None = False,
    ) -> None:
        super().__init__(non_blocking)
        if bgr_to_rgb and rgb_to_bgr:
            raise InputAssertionError("ImgDataPreprocessor: give bgr_to_rgb or rgb_to_bgr, not both")
        if (mean is None) != (std is None):
            raise InputAssertionError(f"ImgDataPreprocessor: give mean and std or neither, got {mean!r} and {std!r}")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) not in (1, 3):
                raise InputAssertionError(f"ImgDataPreprocessor: {name} must be 1 or 3 numbers, got {values!r}")
            if values is not None:
                self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self._normalizes = mean is not None
        self._swaps_channels = bgr_to_rgb or rgb_to_bgr
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value

    @override
    def forward(self, data: dict[str, object], training: bool = False) -> Any:
        """Prepare a batch.

        Args:
            data: `inputs`: a list of images (C, H, W), or a tensor (B, C, H, W); `data_samples`, if there are any.
            training: Whether the batch is for training.

        Returns:
            The batch, with `inputs` of (B, C, H, W), float32.

        Raises:
            InputTypeError: `inputs` is something else.
        """
        batch: dict[str, Any] = self.cast_data(data)
        inputs = batch["inputs"]
        is_list = isinstance(inputs, (list, tuple)) and all(isinstance(image, Tensor) for image in inputs)
        if not (is_list or isinstance(inputs, Tensor)):
            raise InputTypeError(f"inputs must be images as a list of tensors or as one, got {type(inputs).__name__}")
        batch["inputs"] = stack_batch([self._prepare(image) for image in inputs], self.pad_size_divisor, self.pad_value)
        batch.setdefault("data_samples", None)
        return batch

    def _prepare(self, image: Tensor) -> Tensor:
        """Return a normalized image (C, H, W), float32.

        Raises:
            InputAssertionError: The image does not have three channels, and the settings do.
        """
        colored = self._swaps_channels or (self._normalizes and len(self.mean) == 3)
        if image.ndim != 3 or (colored and image.shape[0] != 3):
            raise InputAssertionError(f"an image must have the shape (3, H, W) or (C, H, W), got {tuple(image.shape)}")
        if self._swaps_channels:
            image = image.flip(0)
        image = image.float()
        return (image - self.mean) / self.std if self._normalizes else image
