"""Load clouds of own recordings as the recorder wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from raydet3d.data.datasets.custom_conventions import CLOUDS, read_conventions
from raydet3d.data.transforms.loading import LoadPointsFromFile
from raydet3d.errors import InputError
from raydet3d.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadCustomPointsFromFile(LoadPointsFromFile):
    """Read a prepared cloud, or one as the recorder wrote it, which `dataset.json` says how to convert.

    With it, a test pipeline takes new recordings of the same recorder as they are.

    Args:
        data_root: Folder with `dataset.json`.
        **kwargs: Arguments of `LoadPointsFromFile`.
    """

    def __init__(self, data_root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conventions = read_conventions(Path(data_root))

    @override
    def read(self, path: str) -> NDArray[np.float32]:
        if CLOUDS in Path(path).parts:
            return super().read(path)
        points = self.conventions.read_points(Path(path), with_time=self.load_dim > 4)
        if points.shape[1] != self.load_dim:
            raise InputError(
                f"{path}: read with load_dim={self.load_dim}, but dataset.json keeps {points.shape[1]} numbers a point"
            )
        return points
