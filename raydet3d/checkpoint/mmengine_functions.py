"""MMEngine's functions that read, write and load checkpoints outside of a run, for scripts and models."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydet3d.checkpoint.load_weights import load_weights, rename_weights
from raydet3d.checkpoint.nested import with_versions
from raydet3d.checkpoint.safe_load import content_of_file, read_checkpoint
from raydet3d.dist import is_model_wrapper
from raydet3d.download import fetch
from raydet3d.errors import InputAssertionError
from raydet3d.info_file import check_backend
from raydet3d.log import get_logger


def read_weights_file(filename: str | Path, map_location: object = None, logger: object = None) -> dict[str, Any]:
    """Return the content of a checkpoint file (MMEngine's `_load_checkpoint`).

    Args:
        filename: Path or `http(s)://` URL.
        map_location: Accepted as an argument of MMEngine's; files are always read to the host.
        logger: Accepted as an argument of MMEngine's.
    """
    return content_of_file(read_checkpoint(Path(fetch(str(filename))).expanduser()))


def read_weights_below(prefix: str, filename: str | Path, map_location: object = None) -> OrderedDict[str, Any]:
    """Return the weights of one part of a model in a checkpoint (MMEngine's `_load_checkpoint_with_prefix`).

    Args:
        prefix: Name of the part, such as `backbone`; it is removed from the weights' names.
        filename: Path or `http(s)://` URL.
        map_location: See `read_weights_file`.

    Raises:
        InputAssertionError: The checkpoint has no weights of the part.
    """
    content = read_weights_file(filename)
    weights: Mapping[str, Any] = content.get("state_dict", content)
    prefix = prefix.removesuffix(".") + "."
    found = OrderedDict((name.removeprefix(prefix), w) for name, w in weights.items() if name.startswith(prefix))
    if not found:
        raise InputAssertionError(f"{filename} has no weights below {prefix!r}")
    return found


class CheckpointLoader:
    """MMEngine's reader of checkpoints: local paths and `http(s)://` URLs."""

    load_checkpoint = staticmethod(read_weights_file)


def load_state_dict(
    module: nn.Module, state_dict: Mapping[str, torch.Tensor], strict: bool = False, logger: object = None
) -> None:
    """Copy weights into a module, and log what does not fit.

    Args:
        module: The module.
        state_dict: Weights by name.
        strict: Refuse names or shapes that differ.
        logger: Logger for what does not fit; the package's by default.
    """
    said = load_weights(module, state_dict, strict=strict, title="the state dict")
    if ";" in said:
        (logger if isinstance(logger, logging.Logger) else get_logger()).warning("%s", said)


def get_state_dict(
    module: nn.Module,
    destination: OrderedDict[str, torch.Tensor] | None = None,
    prefix: str = "",
    keep_vars: bool = False,
) -> OrderedDict[str, torch.Tensor]:
    """Return the weights of a module by their names without wrappers, which may be anywhere inside it.

    Args:
        module: The module, in a wrapper or not.
        destination: Dict to add to; a new one by default.
        prefix: Put before each name.
        keep_vars: Keep parameters attached to the graph.
    """
    while is_model_wrapper(module):
        inner = module.module
        assert isinstance(inner, nn.Module)
        module = inner
    wrappers = [f"{prefix}{name}." for name, part in module.named_modules() if is_model_wrapper(part)]
    inside_first = sorted(wrappers, key=len, reverse=True)
    weights = rename_weights(
        module.state_dict(prefix=prefix, keep_vars=keep_vars),
        [(rf"^{re.escape(path)}module\.", path) for path in inside_first],
    )
    if destination is None:
        return weights
    destination.update(weights)
    return destination


def weights_to_cpu(state_dict: Mapping[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Return weights on the host."""
    return with_versions(
        {name: value.cpu() for name, value in state_dict.items()}, getattr(state_dict, "_metadata", None)
    )


def save_checkpoint(
    checkpoint: Mapping[str, object],
    filename: str | Path,
    file_client_args: Mapping[str, object] | None = None,
    backend_args: Mapping[str, object] | None = None,
) -> None:
    """Write a checkpoint to a local file, which appears when it is complete.

    Args:
        checkpoint: Containers, numbers, texts and tensors.
        filename: Path of the file.
        file_client_args: None or `dict(backend='disk')`.
        backend_args: None or `dict(backend='local')`.
    """
    for args in (file_client_args, backend_args):
        check_backend(args)
    path = Path(filename)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    torch.save(checkpoint, part)
    part.replace(path)


def find_latest_checkpoint(path: str | Path) -> str | None:
    """Return the newest checkpoint of a work dir, as its `last_checkpoint` says; None where there is none."""
    pointer = Path(path) / "last_checkpoint"
    if not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8").strip()
    return str(Path(path) / name)
