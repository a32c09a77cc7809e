"""What is in a checkpoint, wherever it lies and whether it is a file or a folder of shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from raydet3d.checkpoint.safe_load import BareWeights, read_checkpoint, read_stored_checkpoint
from raydet3d.checkpoint.staging import is_sharded
from raydet3d.checkpoint.storage import Location, Storage, open_storage
from raydet3d.config import is_uri
from raydet3d.errors import InputError

SHARDS = "shards"


def load_metadata(location: Location) -> dict[str, Any]:
    """A checkpoint's content but for its shards, which ``load_shards`` adds once there is a model to take them.

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
                raise InputError(f"cannot read checkpoint {location}: {error.strerror or error}") from None
    from raydet3d.checkpoint.sharded import read_rest  # half of torch.distributed: for those who use it

    return {**read_rest(place, name), SHARDS: True}


def load_shards(head: Mapping[str, Any], location: Location, like: Mapping[str, Tensor]) -> dict[str, Any]:
    """A checkpoint's whole content, cut as a model's parameters are.

    Args:
        head: What ``load_metadata`` gave.
        location: Where the checkpoint lies.
        like: The model's parameters by name.
    """
    content = {key: value for key, value in head.items() if key != SHARDS}
    if SHARDS not in head and not is_sharded(like):
        return head if isinstance(head, BareWeights) else content
    from raydet3d.checkpoint.sharded import fill_in, spread

    if SHARDS in head:
        content = fill_in(content, *_split(location), like)
    state: dict[str, Any] = spread(content, like)
    return state


def locate(given: str | Path) -> Location:
    """A checkpoint's place as the user gave it: a URI stays one, anything else is a path."""
    return given if isinstance(given, str) and is_uri(given) else Path(given)


def exists(location: Location) -> bool:
    """Whether there is such a file or folder."""
    place, name = _split(location)
    return place.exists(name)


def _split(location: Location) -> tuple[Storage, str]:
    if isinstance(location, Path):
        return open_storage(location.parent), location.name
    parent, _, name = location.rstrip("/").rpartition("/")
    return open_storage(parent), name
