"""Publish a checkpoint: a file of its wanted keys under a name that ends in a digest; read its config."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from raydet3d.checkpoint.load import load_metadata, load_shards, locate
from raydet3d.checkpoint.load_weights import rename_weights
from raydet3d.checkpoint.nested import Nested
from raydet3d.checkpoint.storage import Location, Storage
from raydet3d.config import Config
from raydet3d.config.differences import read_dump
from raydet3d.download import fetch
from raydet3d.errors import InputError
from raydet3d.files import write_output

META = ("cfg", "dataset_meta", "CLASSES", "epoch", "iter", "experiment_name", "raydet3d_version", "mmengine_version")
"""Entries of `meta` that describe the weights; the others are of the machine and the run that made them."""


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
    data, digest = _packed({key: content[key] for key in keys if key in content})
    published = f"{name.removesuffix('.pth')}-{digest}.pth"
    storage.put(published, data)
    return storage.location(published)


def publish(checkpoint: str, out: Path, *, cfg: Config | None = None) -> tuple[Path, bool]:
    """Write the weights and the config of a checkpoint to `OUT-DIGEST.pth`, with 8 hex digits of the file's SHA-256.

    Of a run with `EMAHook`, these are the averaged weights: a checkpoint has them as `state_dict`.

    Args:
        checkpoint: A checkpoint of ours or of MMEngine's: a file, a folder of shards, or a URL.
        out: Name of the new file, with or without `.pth`; in a folder that exists, the checkpoint's name is used.
        cfg: Config to put in; by default the checkpoint's.

    Returns:
        The new file, and whether its weights are averages.
    """
    location = locate(fetch(checkpoint))
    content = load_shards(load_metadata(location), location, {})
    given = content.get("meta") or {}
    meta = {key: given[key] for key in META if key in given}
    if cfg is not None:
        meta["cfg"] = cfg.pretty_text
    weights = rename_weights(content["state_dict"], [(r"^module\.", "")])
    data, digest = _packed({"meta": meta, "state_dict": weights})
    target = out / Path(str(location)).name if out.is_dir() else out
    file = target.with_name(f"{target.name.removesuffix('.pth')}-{digest}.pth")
    write_output(file, data)
    return file, "ema_state_dict" in content


def config_in_checkpoint(checkpoint: str | Path) -> Config:
    """Return the config that a checkpoint holds; it is read without being run.

    Raises:
        InputError: It holds none.
    """
    meta = load_metadata(locate(fetch(str(checkpoint)))).get("meta") or {}
    text = meta.get("cfg")
    try:
        if not text or not isinstance(text, str):
            raise ValueError("it has no meta.cfg")
        return Config(read_dump(text))
    except ValueError as error:
        raise InputError(
            f"the config of checkpoint {checkpoint} cannot be read from it ({error}); name the config file as well"
        ) from None


def _packed(content: Mapping[str, Nested]) -> tuple[bytes, str]:
    """Return a checkpoint as bytes, and 8 hex digits of their SHA-256."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    data = buffer.getvalue()
    return data, hashlib.sha256(data).hexdigest()[:8]
