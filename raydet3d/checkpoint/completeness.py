"""Decide whether a checkpoint is complete: it has a manifest, and its files are what the manifest says.

A file without a manifest is no checkpoint. Where a manifest is damaged and its checkpoint is not, a new one is made.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from contextlib import suppress

from raydet3d.checkpoint.manifest import SUFFIX, Manifest, text_digest
from raydet3d.checkpoint.storage import Storage, digest_of, read, reason_of
from raydet3d.errors import InputError


def begun_mark(name: str) -> str:
    """Name of the file that exists while a checkpoint is written or deleted."""
    return f".{name}.begun"


def read_manifest(storage: Storage, name: str) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        OSError: There is none, or it cannot be read.
        ValueError: It is damaged.
    """
    return Manifest.from_json(read(storage, name + SUFFIX), name)


def read_manifests(storage: Storage, logger: logging.Logger) -> list[Manifest]:
    """Read the manifests of a folder, oldest save first.

    A damaged one is named and set aside; where its checkpoint is whole, a new one is made from that.
    """
    found: list[Manifest] = []
    damaged: dict[str, str] = {}
    for file in storage.names():
        if not file.endswith(".pth" + SUFFIX) or file.startswith("."):
            continue
        name = file.removesuffix(SUFFIX)
        try:
            found.append(read_manifest(storage, name))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            damaged[name] = reason_of(error)
    for name, reason in damaged.items():
        is_torn = storage.exists(begun_mark(name))  # by a kill, where writes are not atomic: no damage to keep
        if not is_torn:
            with suppress(OSError):
                storage.move(name + SUFFIX, f"{name}{SUFFIX}.damaged")
        recovered = _recover_manifest(storage, name, found)
        if recovered is not None:
            found.append(recovered)
            with suppress(OSError):
                storage.put(name + SUFFIX, recovered.to_json())
        if not is_torn:
            then = "its checkpoint is not used" if recovered is None else "a new one was made from its checkpoint"
            file = name + SUFFIX
            logger.warning("manifest %s is damaged (%s): it is kept as %s.damaged, and %s", file, reason, file, then)
    return sorted(found, key=lambda manifest: (manifest.serial, manifest.step))


def _recover_manifest(storage: Storage, name: str, others: Sequence[Manifest]) -> Manifest | None:
    """Make a manifest from a checkpoint whose own is damaged. The CRCs of its zip file tell whether it is whole.

    Args:
        storage: Where the checkpoint lies.
        name: Its name.
        others: The manifests beside it, by which it gets its place in the order of saves.

    Returns:
        The manifest; None where the checkpoint is not whole, or is no file of a run's.
    """
    from raydet3d.checkpoint.safe_load import read_stored_checkpoint  # imports torch

    try:
        with storage.open(name) as file, zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                return None
        state = read_stored_checkpoint(storage, name, title=name)
        digest, size = digest_of(storage, name)
        meta = state["meta"]
        step = int(meta["iter"])
        kind = name.partition("_")[0]
        return Manifest(
            name=name,
            sha256=[digest],
            size=size,
            step=step,
            serial=max((m.serial for m in others if m.step <= step), default=0),
            group="best_" if kind == "best" else kind,
            run=str(meta.get("run", "")),
            seed=meta.get("seed"),
            config=text_digest(str(meta.get("cfg", ""))),
            resumable="optimizer" in state,
        )
    except (OSError, ValueError, KeyError, TypeError, InputError, zipfile.BadZipFile):
        return None


def find_fault(storage: Storage, manifest: Manifest) -> str | None:
    """Say what is wrong with a checkpoint; None if it is complete.

    A file is read only where its size or its modification time leaves doubt: it has another size than the manifest
    says, or was changed after the manifest was written.
    """
    files = {f"{manifest.name}/{file}": ([sha], size) for file, (sha, size) in manifest.files.items()}
    for name, (digests, size) in (files or {manifest.name: (manifest.sha256, manifest.size)}).items():
        try:
            written = storage.stat(manifest.name + SUFFIX)[1]
            found, changed = storage.stat(name)
            if found == size and changed < written and len(digests) == 1:
                continue
            digest, found = digest_of(storage, name)
        except OSError as error:
            return f"{name} cannot be read ({reason_of(error)})"
        if digest not in digests:
            if found != size:
                return f"{name} has {found} bytes, its manifest says {size}"
            return f"{name} is damaged: its SHA-256 differs from its manifest's"
    return None


def shard_folder(storage: Storage, name: str) -> str:
    """Return the folder of a sharded checkpoint's newest complete save: the one its manifest lists, else the last.

    Raises:
        InputError: There is none.
    """
    parts = []
    with suppress(OSError, ValueError):
        parts = [file.partition("/")[0] for file in read_manifest(storage, name).files][:1]
    parts = parts or [part for part in storage.names(name) if part.isdigit()]
    if not parts:
        raise InputError(f"{storage.location(name)} is a folder and no checkpoint")
    return f"{name}/{max(parts, key=int)}"
