"""Container of boxes as rows of a float32 tensor: indexing, concatenation, copies, devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BoxData = Tensor | NDArray[Any] | Sequence[Sequence[float]]
BoxIndex = int | slice | list[int] | list[bool] | Tensor | NDArray[Any]


class BoxRows:
    """(K, box_dim) rows; base class of `Boxes3D`, which adds the geometry.

    Args:
        tensor: (K, box_dim) values; a tensor (shared, never written to), an array or nested lists (copied).
        box_dim: Values of a box.
    """

    with_yaw = True

    def __init__(self, tensor: BoxData, box_dim: int = 7) -> None:
        rows = tensor.to(torch.float32) if isinstance(tensor, Tensor) else torch.from_numpy(_floats(tensor))
        if rows.numel() == 0:
            rows = rows.reshape(-1, box_dim)
        if rows.ndim != 2 or rows.shape[1] != box_dim:
            raise ValueError(f"{type(self).__name__} needs (K, {box_dim}) values, got {tuple(rows.shape)}")
        self.tensor: Tensor = rows
        self.box_dim = box_dim

    def new_box(self, data: BoxData) -> Self:
        """Create boxes of the same class on the same device from other values."""
        boxes = type(self)(data, box_dim=self.box_dim)
        boxes.tensor = boxes.tensor.to(self.device)
        boxes.with_yaw = self.with_yaw
        return boxes

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __getitem__(self, index: BoxIndex) -> Self:
        """Select boxes by an index, a slice, a list, a mask or indices."""
        if isinstance(index, np.ndarray | list):
            index = torch.as_tensor(np.asarray(index, dtype=np.int64 if len(index) == 0 else None))
        if isinstance(index, Tensor):
            index = index.to(self.tensor.device)
        chosen = self.tensor[index]
        if chosen.ndim not in (1, 2) or chosen.shape[-1] != self.box_dim:
            raise IndexError(f"{type(self).__name__} is indexed along its boxes only, got {index!r}")
        return self.new_box(chosen.reshape(-1, self.box_dim))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n{self.tensor})"

    @classmethod
    def cat(cls, boxes: Sequence[BoxRows]) -> Self:
        """Concatenate boxes of one class; an empty sequence gives no boxes."""
        if not boxes:
            return cls(torch.empty(0, 7))
        wrong = [box for box in boxes if not isinstance(box, cls)]
        if wrong:
            raise TypeError(f"{cls.__name__}.cat got a {type(wrong[0]).__name__}; use convert_to first")
        first = boxes[0]
        assert isinstance(first, cls)
        return first.new_box(torch.cat([box.tensor for box in boxes]))

    def clone(self) -> Self:
        """Copy the boxes."""
        return self.new_box(self.tensor.clone())

    def detach(self) -> Self:
        """Detach the boxes from the autograd graph."""
        return self.new_box(self.tensor.detach())

    def to(self, device: torch.device | str | int, *args: Any, **kwargs: Any) -> Self:
        """Move the boxes to a device; they stay float32."""
        boxes = self.new_box(self.tensor[:0])
        boxes.tensor = self.tensor.to(device, *args, **kwargs).float()
        return boxes

    def pin_memory(self) -> Self:
        """Copy the boxes to pinned memory."""
        return self.new_box(self.tensor.pin_memory())

    def cpu(self) -> Self:
        """Copy the boxes to host memory."""
        return self.to("cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """Copy the boxes to the current GPU."""
        return self.to("cuda", *args, **kwargs)

    def numpy(self) -> NDArray[np.float32]:
        """Return the rows as an array, which shares memory with a tensor on the host."""
        return self.tensor.detach().cpu().numpy()

    @property
    def device(self) -> torch.device:
        """Device of the rows."""
        return self.tensor.device

    @property
    def shape(self) -> torch.Size:
        """(K, box_dim)."""
        return self.tensor.shape


def _floats(values: BoxData) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)
