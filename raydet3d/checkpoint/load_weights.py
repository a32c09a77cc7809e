"""Load weights into a model and report what does not fit."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.checkpoint.nested import with_versions
from raydet3d.checkpoint.safe_load import content_of_file, read_checkpoint
from raydet3d.errors import InputError, some_of
from raydet3d.log import get_logger

SHOWN = 8  # names in a message; the rest are counted


def rename_weights(weights: Mapping[str, Any], patterns: Iterable[tuple[str, str]]) -> OrderedDict[str, Any]:
    """Rename weights by `re.sub` for each (pattern, replacement), and with them their modules' versions."""
    out, versions = OrderedDict(weights), OrderedDict(getattr(weights, "_metadata", None) or {})
    for pattern, replacement in patterns:
        out = OrderedDict((re.sub(pattern, replacement, name), value) for name, value in out.items())
        versions = OrderedDict(
            (re.sub(pattern, replacement, f"{name}." if name else "").removesuffix("."), version)
            for name, version in versions.items()
        )
    return with_versions(out, versions)


def load_weights(model: nn.Module, weights: Mapping[str, Any], *, strict: bool, title: str) -> str:
    """Copy weights into a model by name; modules convert the weights of their older versions.

    Args:
        model: The model, without its wrapper.
        weights: Tensors by name.
        strict: Refuse names or shapes that differ; else what fits is taken and the rest stays as it is.
        title: What to call the weights in messages.

    Returns:
        One line that says what was loaded and what was not.

    Raises:
        InputError: With `strict`, the first difference; without, that nothing fits.
    """
    versions = getattr(weights, "_metadata", None)
    weights = _adapt_layouts(model, weights)
    mine = model.state_dict()
    shapes = {name: (_shape(weights[name]), tuple(mine[name].shape)) for name in mine if name in weights}
    reshaped = [name for name, (theirs, ours) in shapes.items() if theirs != ours]
    same_shape = {name: value for name, value in weights.items() if name not in reshaped}
    loaded = model.load_state_dict(with_versions(same_shape, versions), strict=False)
    found = {
        "missing": [name for name in loaded.missing_keys if name not in reshaped],
        "not in the model": loaded.unexpected_keys,
        "of another shape": [f"{name} {shapes[name][0]} for {shapes[name][1]}" for name in reshaped],
    }
    faults = [f"{len(names)} {what}: {some_of(names, SHOWN)}" for what, names in found.items() if names]
    if strict and faults:
        raise InputError(f"{title} does not fit the model: {'; '.join(faults)}")
    count = len(same_shape) - len(loaded.unexpected_keys)
    if not count:
        raise InputError(
            f"{title} does not fit the model at all: it has {some_of(list(weights), SHOWN)}, "
            f"the model {some_of(list(mine), SHOWN)}"
        )
    done = f"loaded {count} of {len(mine)} tensors of the model from {title}"
    return f"{done}; {'; '.join(faults)}" if faults else done


def _adapt_layouts(model: nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Bring weights into the layout of the layers that know another one (`adapt_weight`)."""
    out = dict(weights)
    for name, module in model.named_modules():
        adapt = getattr(module, "adapt_weight", None)
        key = f"{name}.weight" if name else "weight"
        if adapt is not None and isinstance(out.get(key), Tensor):
            out[key] = adapt(out[key])
    return out


def _shape(value: Tensor | float | None) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def load_checkpoint(
    model: nn.Module,
    filename: str | Path,
    map_location: str | torch.device | None = None,
    strict: bool = False,
    logger: logging.Logger | str | None = None,
    revise_keys: Iterable[tuple[str, str]] = ((r"^module\.", ""),),
) -> dict[str, Any]:
    """Load a checkpoint's weights into a model, outside of a run.

    Args:
        model: The model.
        filename: The checkpoint, ours or MMEngine's.
        map_location: Accepted as in MMEngine; the file is read to the host first.
        strict: Refuse a checkpoint whose names or shapes differ.
        logger: Where to say what does not fit; the package's by default.
        revise_keys: (pattern, replacement) pairs for the names.

    Returns:
        The checkpoint.
    """
    checkpoint = read_checkpoint(Path(filename))
    weights = rename_weights(checkpoint["state_dict"], revise_keys)
    said = load_weights(model, weights, strict=strict, title=str(filename))
    (logger if isinstance(logger, logging.Logger) else get_logger()).info("%s", said)
    return content_of_file(checkpoint)
