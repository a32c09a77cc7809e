"""A transform that ends its process at one cloud, as a lack of memory does; imported by ``custom_imports``."""

import os
from typing import Any

from raydet3d.data import Transform
from raydet3d.registry import TRANSFORMS


@TRANSFORMS.register_module(force=True)
class DieAt(Transform):
    """Ends the process without a word.

    Args:
        name: `sample_idx` of the cloud.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if results["sample_idx"] == self.name:
            os._exit(1)
        return results
