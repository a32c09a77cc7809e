"""`assemble`: from a config and what the launcher decides to a `Runner`."""

from __future__ import annotations

from typing import Unpack

from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg
from raydet3d.registry import RUNNERS, Registry
from raydet3d.runtime.build import LaunchArgs, launching
from raydet3d.runtime.runner import Runner


def assemble(cfg: PartCfg, **launch: Unpack[LaunchArgs]) -> Runner:
    """Make a run, of the class that the config's `runner_type` names, from its config.

    Works in a single process and in one of a process group that exists. The order in which a run is made is that of
    `RunParts.__init__`.

    Args:
        cfg: The config.
        **launch: What the launcher decides.
    """
    kind = RUNNERS.get(cfg.get("runner_type") or "Runner")
    if not (isinstance(kind, type) and issubclass(kind, Runner)):
        raise InputError(f"runner_type: {kind!r} is not a subclass of raydet3d.runtime.Runner")
    with launching(launch):
        return kind.from_cfg(cfg)


def build_runner(cfg: PartCfg, registry: Registry, default_args: PartCfg | None = None) -> Runner:
    """Make a run from a config, for `RUNNERS.build(cfg)`.

    Args:
        cfg: The config.
        registry: The registry of runners.
        default_args: Keys to use where the config has none.
    """
    return assemble({**default_args, **cfg} if default_args else cfg)
