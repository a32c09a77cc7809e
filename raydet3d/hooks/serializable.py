"""Convert hook states to plain data and tensors, which are loaded without executing code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydet3d.errors import InputError


def to_plain(value: object, owner: str, where: str = "state_dict()") -> Any:
    """Convert a hook's state to containers, numbers, strings and tensors.

    NumPy scalars become Python numbers, numeric arrays tensors, paths strings, and mappings dicts.

    Args:
        value: The state, or a part of it.
        owner: The hook's name, for the error message.
        where: Path of the part within the state, for the error message.

    Raises:
        InputError: The state contains a value of another type.
    """
    if value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        return to_plain(value.item(), owner, where)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value))
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key, owner, where): to_plain(item, owner, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item, owner, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise InputError(
        f"hook {owner}: {where} is a {type(value).__name__}, which a checkpoint cannot hold; use numbers, strings, "
        "tensors, lists and dicts"
    )


def _key(key: object, owner: str, where: str) -> str | int:
    plain = to_plain(key, owner, f"a key of {where}")
    if type(plain) not in (str, int, bool):
        raise InputError(f"hook {owner}: {where} has the key {key!r}; a checkpoint's keys are strings and integers")
    return plain  # type: ignore[no-any-return]
