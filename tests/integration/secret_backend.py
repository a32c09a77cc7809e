"""A backend that needs secrets, and toys by registered names, for a config file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from raydet3d.registry import DATASETS, METRICS, MODELS, VISBACKENDS
from raydet3d.visual.backends import BaseVisBackend
from tests.kit.toy import ToyData, ToyMetric, ToyModel

MODELS.register_module(name="SecretToy", module=ToyModel)
DATASETS.register_module(name="SecretData", module=ToyData)
METRICS.register_module(name="SecretMetric", module=ToyMetric)


@VISBACKENDS.register_module()
class NeedsSecrets(BaseVisBackend):
    """Writes down, where the test says, that it was given them."""

    def __init__(self, braces: str, code: str, api_key: str, login: Mapping[str, str], save_dir: Any = None) -> None:
        super().__init__(save_dir)
        with open(os.environ["SEEN"], "a") as file:
            file.write(f"{braces} {code} {api_key} {login['token']}\n")

    def add_scalars(self, scalar_dict: Any, step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        """Nothing."""
