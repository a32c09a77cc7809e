"""Build a runner for test-time augmentation (TTA) from the config's `tta_model` and `tta_pipeline`."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Unpack

from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg
from raydet3d.hooks.prepare_tta import PrepareTTAHook
from raydet3d.runtime.assemble import assemble
from raydet3d.runtime.build import LaunchArgs
from raydet3d.runtime.runner import Runner


def build_runner_with_tta(cfg: PartCfg, **launch: Unpack[LaunchArgs]) -> Runner:
    """Build a runner whose `test()` predicts on the augmented views of `tta_pipeline` and merges them by `tta_model`.

    Args:
        cfg: Config with `tta_model`, `tta_pipeline` and `test_dataloader`; it is not modified.
        **launch: What the launcher decides.

    Raises:
        InputError: The config lacks one of these keys.
    """
    for key in ("tta_model", "tta_pipeline", "test_dataloader"):
        if cfg.get(key) is None:
            raise InputError(f"test-time augmentation needs {key} in the config")
    cfg = copy.deepcopy(cfg)
    dataset = cfg["test_dataloader"]["dataset"]
    while isinstance(dataset.get("dataset"), MutableMapping):  # the pipeline is a setting of the wrapped dataset
        dataset = dataset["dataset"]
    dataset["pipeline"] = cfg["tta_pipeline"]
    runner = assemble(cfg, **launch)
    runner.register_hook(PrepareTTAHook(tta_cfg=cfg["tta_model"]))
    return runner
