"""Make a lost manifest anew from what a checkpoint says of itself."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

from raydet3d.checkpoint.manifest import Manifest, text_digest
from raydet3d.checkpoint.storage import Storage, digest_of
from raydet3d.errors import InputError


def recover_manifest(storage: Storage, name: str, others: Sequence[Manifest]) -> Manifest | None:
    """Make a manifest from a checkpoint whose own is damaged. The CRCs of its zip file tell whether it is whole.

    Args:
        storage: Where the checkpoint lies.
        name: Its name.
        others: The manifests beside it, by which it gets its place in the order of saves.

    Returns:
        The manifest; None where the checkpoint is not whole, or is no file of a run's.
    """
    from raydet3d.checkpoint.load import load_metadata  # imports torch

    try:
        with storage.open(name) as file, zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                return None
        state = load_metadata(storage.location(name))
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
