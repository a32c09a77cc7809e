"""``backend_args`` of hooks that write: files go to local or mounted folders, and another wish is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydet3d.errors import InputError


def only_local(owner: str, backend_args: Any, file_client_args: Any = None) -> None:
    """Check what a config says on where a hook's files go.

    Args:
        owner: The hook.
        backend_args: None, or ``dict(backend='local')``.
        file_client_args: The same under its old name.

    Raises:
        InputError: It asks for another backend.
    """
    for name, given in (("backend_args", backend_args), ("file_client_args", file_client_args)):
        if given is None:
            continue
        backend = given.get("backend", "local") if isinstance(given, Mapping) else given
        if backend not in ("local", "disk", "LocalBackend", "HardDiskBackend"):
            raise InputError(f"{owner}: {name} asks for {backend!r}; files go to folders: only backend='local' exists")
