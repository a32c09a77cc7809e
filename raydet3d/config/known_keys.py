"""The top-level keys that the runtime reads, and how a misspelt one is told from a variable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_DICT = (dict,)
_DICTS = (dict, list, tuple)
_TEXT = (str,)

# Each key that the runtime reads, with the types its value may have. Everything else at the top level of a config is
# a variable of the config's own (`lr`, `class_names`, `train_pipeline`).
KNOWN_KEYS: Mapping[str, tuple[type, ...]] = {
    "activation_checkpointing": (list, tuple),
    "auto_scale_lr": _DICT,
    "compile": (bool, dict),
    "custom_hooks": (list, tuple),
    "custom_imports": _DICT,
    "data_preprocessor": _DICT,
    "default_hooks": _DICT,
    "default_scope": _TEXT,
    "env_cfg": _DICT,
    "experiment_name": _TEXT,
    "find_unused_parameters": (bool,),
    "launcher": _TEXT,
    "load_from": (str, type(None)),
    "log_level": (str, int),
    "log_processor": _DICT,
    "model": _DICT,
    "model_wrapper_cfg": _DICT,
    "optim_wrapper": _DICT,
    "param_scheduler": _DICTS,
    "randomness": _DICT,
    "ray": _DICT,
    "resume": (bool, str),
    "runner_type": _TEXT,
    "sync_bn": (str, bool),
    "test_cfg": _DICT,
    "test_dataloader": _DICTS,
    "test_evaluator": _DICTS,
    "train_cfg": _DICT,
    "train_dataloader": _DICT,
    "tta_model": _DICT,
    "tta_pipeline": (list, tuple),
    "val_cfg": _DICT,
    "val_dataloader": _DICTS,
    "val_evaluator": _DICTS,
    "visualizer": _DICT,
    "work_dir": _TEXT,
}


# Names that published configs use for variables of their own, though they look like slips of a known key.
OWN_NAMES = frozenset({"eval_dataloader"})


def misspelt(key: str, value: Any, present: Iterable[str]) -> str | None:
    """The known key that ``key`` was meant to be, or None where it is a name of the config's own.

    A key of 5 letters or more is a misspelling when it is one edit away (two from 8 letters on) from a known key that
    is absent, and holds the type of value that the known key holds.

    Args:
        key: A top-level key.
        value: What the config holds under it.
        present: The top-level keys that are there.
    """
    if key in KNOWN_KEYS or key in OWN_NAMES:
        return None
    there = set(present)
    for known, types in KNOWN_KEYS.items():
        if known not in there and isinstance(value, types) and is_slip(key, known):
            return known
    return None


def is_slip(written: str, meant: str) -> bool:
    """Whether ``written`` is so near to ``meant`` that it must be a slip of the keys."""
    allowed = 0 if len(written) < 5 else 1 if len(written) < 8 else 2
    return written != meant and abs(len(written) - len(meant)) <= allowed and distance(written, meant) <= allowed


def distance(a: str, b: str) -> int:
    """Levenshtein distance: the least number of letters to insert, drop or change that makes ``a`` into ``b``."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (letter != other))
    return row[-1]
