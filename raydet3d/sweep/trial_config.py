"""Configs of trials: a setting's overrides applied to the config, and digests that identify equal runs."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from raydet3d.config import Config
from raydet3d.config.cfg_options import set_key, split_key
from raydet3d.config.config_dict import DELETE, to_plain, walk
from raydet3d.config.section_schemas import KNOWN_KEYS
from raydet3d.config.type_check import check_value
from raydet3d.errors import InputError, nearest
from raydet3d.sweep.domains import Alternatives, Value
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
    options: Mapping[str, Value]

    def build(self, setting: Mapping[str, Value]) -> Config:
        """Build the config of a setting.

        Raises:
            InputError: A key of the setting is not in the config, or an override cannot be applied.
        """
        space = self.sweep.space
        overrides = space.overrides(setting, extra=self.sweep.mutate)
        whole = {key for key in setting if key in space and isinstance(space[key], Alternatives)}
        variables: dict[str, Value] = {}
        later: list[tuple[str, Value, bool]] = []
        for key, value in {**self.options, **overrides}.items():
            is_known = len(split_key(key)) > 1 or isinstance(value, Mapping) or has_expression(value)
            if is_known or (key in whole and key in KNOWN_KEYS):
                later.append((key, value, key in overrides))
            else:
                variables[key] = value
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "config option")  # the sweep is checked for keys that change nothing
            cfg = Config.fromfile(self.config, options=variables, import_custom_modules=False)
        values = cfg.to_dict()
        for key in overrides:
            if key in variables and key not in values:
                raise self._unknown(key, values)
        # Shorter keys first: a whole optimizer before its learning rate.
        for key, value, must_exist in sorted(later, key=lambda item: len(split_key(item[0]))):
            if must_exist and not find_values(values, key):
                raise self._unknown(key, values)
            filled = fill(value, values, where=key)
            if key in whole and isinstance(filled, Mapping):
                filled = {**filled, DELETE: True}
            values = set_key(values, key, filled)
        return Config(values, filename=cfg.filename, origin=cfg.origin)

    def _unknown(self, key: str, values: Mapping[str, Value]) -> InputError:
        near = nearest(key, all_keys(values))
        return InputError(
            f"{self.sweep.file}: space.{key}: {self.config.name} has no such key{near}"
            + ("" if near else "; put it there first with cfg_options, with a value that the class takes")
        )


def find_values(values: Value, key: str) -> list[Value]:
    """Return the value at a dotted key in a list, which is empty where there is no such key."""
    here = values
    for step in split_key(key):
        if isinstance(here, Mapping):
            by_name = cast("Mapping[str | int, Value]", here)  # a config may have numbers as keys
            name = step if step in by_name else str(step)
            if name not in by_name:
                return []
            here = by_name[name]
        elif isinstance(here, list | tuple) and isinstance(step, int) and -len(here) <= step < len(here):
            here = here[step]
        else:
            return []
    return [here]


def all_keys(values: Mapping[str, Value]) -> list[str]:
    """Return the dotted keys of a config."""
    places = [place for place, _ in walk(values) if place]
    return [".".join(f'"{step}"' if "." in str(step) else str(step) for step in place) for place in places]


def digest(cfg: Config) -> str:
    """Return a digest of the keys that determine what a run computes.

    The config's own variables do not count: a value that reaches only a variable changes nothing.
    """
    read = {key: to_plain(value) for key, value in cfg.items() if key in KNOWN_KEYS and key not in _PLACES}
    text = json.dumps(read, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_length(cfg: Mapping[str, Value]) -> tuple[str, float, float]:
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
    by_epoch = "Iter" not in kind if kind else bool(train.get("by_epoch", True))
    numbers = []
    defaults = {"max_epochs": None, "val_interval": 1} if by_epoch else {"max_iters": None, "val_interval": 1000}
    for name, default in defaults.items():
        value = train.get(name, default)
        check_value(float, value, f"train_cfg.{name}")
        numbers.append(float(cast("float", value)))
    return "epoch" if by_epoch else "iter", numbers[0], numbers[1]
