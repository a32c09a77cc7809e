"""Read a checkpoint, from a path or a URI, a file or a folder of shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from raydet3d.checkpoint.nested import is_sharded
from raydet3d.checkpoint.safe_load import BareWeights, read_checkpoint, read_stored_checkpoint
from raydet3d.checkpoint.storage import Location, Storage, open_storage, reason_of
from raydet3d.config import is_uri
from raydet3d.errors import InputError

SHARDS = "shards"


def load_metadata(location: Location) -> dict[str, Any]:
    """Read a checkpoint except its shards; `load_shards` adds them once the model exists.

    Args:
        location: Its path or URI.

    Raises:
        InputError: It is no checkpoint, is damaged, or does not exist.
    """
    place, name = _split(location)
    if isinstance(location, Path) and not location.is_dir():
        return read_checkpoint(location)
    if not isinstance(location, Path):
        try:
            return read_stored_checkpoint(place, name, title=str(location))
        except OSError as error:
            if not place.names(name):
                raise InputError(f"cannot read checkpoint {location}: {reason_of(error)}") from None
    from raydet3d.checkpoint.sharded import read_rest  # imports torch.distributed.checkpoint

    return {**read_rest(place, name), SHARDS: True}


def load_shards(head: dict[str, Any], location: Location, like: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the shards of a checkpoint, cut as the model's parameters are.

    Args:
        head: What `load_metadata` returned.
        location: Where the checkpoint lies.
        like: The model's parameters by name.
    """
    content = {key: value for key, value in head.items() if key != SHARDS}
    if SHARDS not in head and not is_sharded(like):
        return head if isinstance(head, BareWeights) else content
    from raydet3d.checkpoint.sharded import fill_in, spread

    return spread(fill_in(content, *_split(location), like) if SHARDS in head else content, like)


def locate(given: str | Path) -> Location:
    """Return a checkpoint's location: a URI as it is, anything else as a path."""
    return given if isinstance(given, str) and is_uri(given) else Path(given)


def exists(location: Location) -> bool:
    """Return whether the file or folder exists."""
    place, name = _split(location)
    return place.exists(name)


def _split(location: Location) -> tuple[Storage, str]:
    if isinstance(location, Path):
        return open_storage(location.parent), location.name
    parent, _, name = location.rstrip("/").rpartition("/")
    return open_storage(parent), name
