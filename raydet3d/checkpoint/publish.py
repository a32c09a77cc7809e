"""Publish a checkpoint: its wanted keys only, under a name that ends in a digest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import torch

from raydet3d.checkpoint.load import load_metadata, load_shards
from raydet3d.checkpoint.storage import Location, Storage


def write_published(storage: Storage, name: str, keys: Sequence[str]) -> Location:
    """Write the wanted keys of a checkpoint beside it.

    Args:
        storage: Where the checkpoint lies.
        name: Its name.
        keys: The keys to keep.

    Returns:
        The new file's location.
    """
    location = storage.location(name)
    content = load_shards(load_metadata(location), location, {})
    buffer = io.BytesIO()
    torch.save({key: content[key] for key in keys if key in content}, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:8]
    published = f"{name.removesuffix('.pth')}-{digest}.pth"
    storage.put(published, buffer.getvalue())
    return storage.location(published)
