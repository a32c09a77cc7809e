"""A run that tests with test-time augmentation: the config's ``tta_model`` and ``tta_pipeline`` put in place."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Any

from raydet3d.errors import InputError
from raydet3d.hooks.prepare_tta import PrepareTTAHook
from raydet3d.runtime.assemble import assemble
from raydet3d.runtime.runner import Runner


def build_runner_with_tta(cfg: Any, **kwargs: Any) -> Runner:
    """A runner whose ``test()`` predicts on the views that ``tta_pipeline`` makes and merges with ``tta_model``.

    Args:
        cfg: A config with both; it is not changed.
        **kwargs: Of ``assemble``.
    """
    for key in ("tta_model", "tta_pipeline", "test_dataloader"):
        if cfg.get(key) is None:
            raise InputError(f"test-time augmentation needs {key} in the config")
    cfg = copy.deepcopy(cfg)
    dataset = cfg["test_dataloader"]["dataset"]
    while isinstance(dataset.get("dataset"), MutableMapping):  # the pipeline belongs to what a wrapper holds
        dataset = dataset["dataset"]
    dataset["pipeline"] = cfg["tta_pipeline"]
    runner = assemble(cfg, **kwargs)
    runner.register_hook(PrepareTTAHook(tta_cfg=cfg["tta_model"]))
    return runner
