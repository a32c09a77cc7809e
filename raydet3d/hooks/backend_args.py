"""Validate `backend_args` of hooks that write files: only local or mounted folders are supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydet3d.errors import InputError


def only_local(owner: str, backend_args: Any, file_client_args: Any = None) -> None:
    """Check that a hook's config selects the local file backend.

    Args:
        owner: The hook's name, for the error message.
        backend_args: None, or `dict(backend='local')`.
        file_client_args: Deprecated name of `backend_args`.

    Raises:
        InputError: Another backend is configured.
    """
    for name, given in (("backend_args", backend_args), ("file_client_args", file_client_args)):
        if given is None:
            continue
        backend = given.get("backend", "local") if isinstance(given, Mapping) else given
        if backend not in ("local", "disk", "LocalBackend", "HardDiskBackend"):
            raise InputError(f"{owner}: {name} asks for {backend!r}; files go to folders: only backend='local' exists")
