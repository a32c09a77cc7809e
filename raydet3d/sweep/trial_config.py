"""Configs of trials: a setting's overrides applied to the config, and digests that identify equal runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet3d.config import Config
from raydet3d.config.config_dict import DELETE, to_plain
from raydet3d.config.overrides import set_key, split_key
from raydet3d.config.section_schemas import KNOWN_KEYS
from raydet3d.errors import InputError, nearest
from raydet3d.sweep.domains import Alternatives
from raydet3d.sweep.expression import fill, has_expression
from raydet3d.sweep.spec import Sweep

_PLACES = ("work_dir", "experiment_name", "ray", "launcher")  # keys that do not change what a run computes


@dataclass(frozen=True, kw_only=True)
class TrialConfigBuilder:
    """Builds the resolved config of each setting.

    Args:
        config: The config file.
        sweep: The sweep.
        options: Overrides for all trials: those of the command line over the sweep's own.
    """

    config: Path
    sweep: Sweep
    options: Mapping[str, Any]

    def build(self, setting: Mapping[str, Any]) -> Config:
        """Build the config of a setting.

        Raises:
            InputError: A key of the setting is not in the config, or an override cannot be applied.
        """
        space = self.sweep.space
        overrides = space.overrides(setting, extra=self.sweep.scheduler.mutate)
        whole = {key for key in setting if key in space and isinstance(space[key], Alternatives)}
        variables: dict[str, Any] = {}
        later: list[tuple[str, Any, bool]] = []
        for key, value in {**self.options, **overrides}.items():
            is_known = len(split_key(key)) > 1 or isinstance(value, Mapping) or has_expression(value)
            if is_known or (key in whole and key in KNOWN_KEYS):
                later.append((key, value, key in overrides))
            else:
                variables[key] = value
        cfg = Config.fromfile(self.config, options=variables, import_custom_modules=False)
        values = cfg.to_dict()
        for key in overrides:
            if key in variables and key not in values:
                raise self._unknown(key, values)
        # Shorter keys first: a whole optimizer before its learning rate.
        for key, value, must_exist in sorted(later, key=lambda item: len(split_key(item[0]))):
            if must_exist and not has_key(values, key):
                raise self._unknown(key, values)
            filled = fill(value, values, where=key)
            if key in whole and isinstance(filled, Mapping):
                filled = {**filled, DELETE: True}
            values = set_key(values, key, filled)
        return Config(values, filename=cfg.filename, origin=cfg.origin)

    def _unknown(self, key: str, values: Mapping[str, Any]) -> InputError:
        near = nearest(key, list(all_keys(values)))
        return InputError(
            f"{self.sweep.file}: space.{key}: {self.config.name} has no such key{near}"
            + ("" if near else "; put it there first with cfg_options, with a value that the class takes")
        )


def has_key(values: Any, key: str) -> bool:
    """Whether a dotted key exists."""
    return _look(values, key)[0]


def value_at(values: Any, key: str, default: Any = None) -> Any:
    """Return the value at a dotted key."""
    found, value = _look(values, key)
    return value if found else default


def _look(here: Any, key: str) -> tuple[bool, Any]:
    for step in split_key(key):
        if isinstance(here, Mapping):
            name: Any = step if step in here else str(step)
            if name not in here:
                return False, None
            here = here[name]
        elif isinstance(here, list | tuple) and isinstance(step, int) and -len(here) <= step < len(here):
            here = here[step]
        else:
            return False, None
    return True, here


def all_keys(values: Any, prefix: str = "") -> Iterator[str]:
    """Iterate over the dotted keys of a config."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for name, value in items:
        step = f'"{name}"' if isinstance(name, str) and "." in name else str(name)
        path = f"{prefix}.{step}" if prefix else step
        yield path
        if isinstance(value, Mapping | list | tuple) and not isinstance(value, str):
            yield from all_keys(value, path)


def digest(cfg: Mapping[str, Any]) -> str:
    """Return a digest of the keys that determine what a run computes.

    The config's own variables do not count: a value that reaches only a variable changes nothing.
    """
    read = {key: to_plain(value) for key, value in cfg.items() if key in KNOWN_KEYS and key not in _PLACES}
    text = json.dumps(read, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_length(cfg: Mapping[str, Any]) -> tuple[str, float, float]:
    """Return the unit of a run's length, its length and its validation interval.

    Returns:
        `epoch` or `iter`, the number of them, and the validation interval in the same unit.

    Raises:
        InputError: The config has no valid train_cfg.
    """
    train = cfg.get("train_cfg")
    if not isinstance(train, Mapping):
        raise InputError("the config has no train_cfg, so there is nothing to sweep over")
    kind = str(train.get("type", ""))
    by_epoch = bool(train.get("by_epoch", "Iter" not in kind)) if not kind else "Iter" not in kind
    name = "max_epochs" if by_epoch else "max_iters"
    length = train.get(name)
    if not isinstance(length, int | float) or isinstance(length, bool):
        raise InputError(f"train_cfg.{name} must be a number, got {length!r}")
    interval = train.get("val_interval", 1 if by_epoch else 1000)
    return ("epoch" if by_epoch else "iter"), float(length), float(interval)
