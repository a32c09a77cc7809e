"""Paths from configs and info files; those from info files must stay inside their folder."""

from __future__ import annotations

import os
from pathlib import Path

from raydet3d.errors import InputError


def join(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """Return a path of the config: unchanged if absolute, else below `root`."""
    joined = os.path.join(root, path)
    if "\0" in joined:
        raise InputError(f"the path {joined!r} holds a NUL character")
    return joined


def inside(folder: str, path: str, *, source: str) -> str:
    """Join a path from a file to the folder that it must stay in.

    Only its text is checked: a symbolic link inside of the folder may lead elsewhere, because the user made it.

    Args:
        folder: The folder.
        path: Relative to `folder`, or absolute and inside of it.
        source: File that the path comes from, for the message.

    Raises:
        InputError: It leads outside, or holds a NUL character.
    """
    if "\0" in path:
        raise InputError(f"{source}: the path {path!r} holds a NUL character")
    joined = os.path.normpath(os.path.join(folder, path))
    if ".." in path or os.path.isabs(path):
        root = os.path.abspath(folder)
        if os.path.commonpath([root, os.path.abspath(joined)]) != root:
            raise InputError(f"{source}: the path {path!r} leads outside of {folder!r}; only files in it are read")
    return joined


def require(path: str, *, what: str, hint: str) -> None:
    """Refuse a path that does not exist, naming its nearest parent that does."""
    if os.path.exists(path):
        return
    parent = next((str(p) for p in Path(os.path.abspath(path)).parents if p.exists()), "/")
    raise InputError(f"{what} {path!r} does not exist (there is {parent!r}); {hint}")
