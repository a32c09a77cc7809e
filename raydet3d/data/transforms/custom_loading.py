"""Load clouds of own recordings as the recorder wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from raydet3d.config import PartCfg
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
        coord_type: As in `LoadPointsFromFile`.
        load_dim: As in `LoadPointsFromFile`.
        use_dim: As in `LoadPointsFromFile`.
        norm_intensity: As in `LoadPointsFromFile`.
        norm_elongation: As in `LoadPointsFromFile`.
        backend_args: As in `LoadPointsFromFile`.
    """

    def __init__(
        self,
        data_root: str,
        coord_type: str = "LIDAR",
        load_dim: int = 6,
        use_dim: int | Sequence[int] = (0, 1, 2),
        norm_intensity: bool = False,
        norm_elongation: bool = False,
        backend_args: PartCfg | None = None,
    ) -> None:
        super().__init__(
            coord_type,
            load_dim,
            use_dim,
            norm_intensity=norm_intensity,
            norm_elongation=norm_elongation,
            backend_args=backend_args,
        )
        self._root = Path(data_root)
        self.conventions = read_conventions(self._root)

    @override
    def read(self, path: str) -> NDArray[np.float32]:
        if CLOUDS in Path(path).parts:
            return super().read(path)
        if not self._root.is_dir():
            raise InputError(f"{path}: its axes and units are not known: data_root {self._root} does not exist")
        points = self.conventions.read_points(Path(path), with_time=self.load_dim > 4)
        if points.shape[1] != self.load_dim:
            raise InputError(
                f"{path}: read with load_dim={self.load_dim}, but dataset.json keeps {points.shape[1]} numbers a point"
            )
        return points
