"""Functions on paths that scripts import from `mmengine.utils`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def is_filepath(value: object) -> bool:
    """Return whether a value is a text or a `Path`."""
    return isinstance(value, (str, Path))


def fopen(filepath: str | Path, mode: str = "r", encoding: str | None = None) -> IO[Any]:
    """Open a file.

    Raises:
        ValueError: `filepath` is neither a text nor a `Path`.
    """
    if not is_filepath(filepath):
        raise ValueError(f"filepath must be a text or a Path, got {filepath!r}")
    opened: IO[Any] = Path(filepath).open(mode, encoding=encoding)  # noqa: SIM115 - the caller closes it
    return opened


def is_abs(path: str) -> bool:
    """Return whether a path is absolute, or a URL."""
    return os.path.isabs(path) or path.startswith(("http://", "https://", "s3://"))


def check_file_exist(filename: str | Path, msg_tmpl: str = 'file "{}" does not exist') -> None:
    """Raise a `FileNotFoundError` unless a file exists.

    Args:
        filename: The file.
        msg_tmpl: The message, with `{}` for the file.
    """
    if not Path(filename).is_file():
        raise FileNotFoundError(msg_tmpl.format(filename))


def mkdir_or_exist(dir_name: str | Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it, where it does not exist."""
    if str(dir_name):
        Path(dir_name).expanduser().mkdir(mode=mode, parents=True, exist_ok=True)


def symlink(src: str | Path, dst: str | Path, overwrite: bool = True, target_is_directory: bool = False) -> None:
    """Make a symbolic link.

    Args:
        src: What it points to.
        dst: The link.
        overwrite: Replace a file or link that exists.
        target_is_directory: See `os.symlink`.
    """
    if overwrite and os.path.lexists(dst):
        os.remove(dst)
    os.symlink(src, dst, target_is_directory)


def scandir(
    dir_path: str | Path,
    suffix: str | tuple[str, ...] | None = None,
    recursive: bool = False,
    case_sensitive: bool = True,
) -> Iterator[str]:
    """Return the paths of the files in a folder, relative to it; hidden files are left out.

    Args:
        dir_path: The folder.
        suffix: Only files that end so.
        recursive: Whether to look into folders inside.
        case_sensitive: Whether the case of suffixes counts.

    Raises:
        TypeError: An argument has another type.
    """
    if not is_filepath(dir_path):
        raise TypeError(f"dir_path must be a text or a Path, got {dir_path!r}")
    if suffix is not None and not isinstance(suffix, (str, tuple)):
        raise TypeError(f"suffix must be a text or a tuple of texts, got {suffix!r}")
    endings = (suffix,) if isinstance(suffix, str) else suffix
    return _files(Path(dir_path), endings, recursive=recursive, case_sensitive=case_sensitive)


def _files(root: Path, endings: tuple[str, ...] | None, *, recursive: bool, case_sensitive: bool) -> Iterator[str]:
    if endings is not None and not case_sensitive:
        endings = tuple(map(str.lower, endings))
    for path in sorted(root.rglob("*") if recursive else root.iterdir()):
        name = str(path.relative_to(root))
        if path.name.startswith(".") or not path.is_file():
            continue
        if endings is None or (name if case_sensitive else name.lower()).endswith(endings):
            yield name
