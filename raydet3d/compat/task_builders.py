"""Build assigners, samplers and box coders by MMDetection's function names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydet3d.registry import TASK_UTILS


def build_task_part(cfg: Mapping[str, object], **default_args: object) -> Any:
    """Build a part of `TASK_UTILS`.

    Args:
        cfg: `dict(type=..., **arguments)`.
        **default_args: Arguments to use where `cfg` gives none.
    """
    return TASK_UTILS.build(cfg, default_args=default_args)
