"""Paths that come out of files: they must stay under the folder they belong to."""

from __future__ import annotations

import os
from pathlib import Path

from raydet3d.errors import InputError


def join(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """A path of the config: as it is where it is absolute, else under `root`."""
    return os.path.join(root, path)


def inside(folder: str, path: str, *, source: str) -> str:
    """A path out of a file, joined to the folder that it has to stay in.

    Judged by its text: a link inside of the folder may lead elsewhere, because the user made it.

    Args:
        folder: Where it has to stay.
        path: Relative to `folder`, or absolute and inside of it.
        source: File that the path comes from, for the message.

    Raises:
        InputError: It leads outside.
    """
    joined = os.path.normpath(os.path.join(folder, path))
    if ".." in path or os.path.isabs(path):
        root = os.path.abspath(folder)
        if os.path.commonpath([root, os.path.abspath(joined)]) != root:
            raise InputError(f"{source}: the path {path!r} leads outside of {folder!r}; only files in it are read")
    return joined


def require(path: str, *, what: str, hint: str) -> None:
    """Refuse a path where there is nothing, naming its nearest parent that exists."""
    if os.path.exists(path):
        return
    parent = next((str(p) for p in Path(os.path.abspath(path)).parents if p.exists()), "/")
    raise InputError(f"{what} {path!r} does not exist (there is {parent!r}); {hint}")
