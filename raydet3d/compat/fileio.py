"""MMEngine's functions for small files: load, dump, lists, bytes and texts, on local paths and on fsspec's URLs.

Nothing that is loaded is executed: pickles are read by the reader of info files, which knows plain containers and
arrays only, and YAML is loaded safely.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import yaml
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from raydet3d.errors import InputError
from raydet3d.info_file import check_backend, read_infos

Backend: TypeAlias = Mapping[str, object] | None
FilePath: TypeAlias = str | os.PathLike[str]
File: TypeAlias = FilePath | IO[str] | IO[bytes]
FORMATS = ("json", "yaml", "yml", "pkl", "pickle")


def load(file: File, file_format: str | None = None, backend_args: Backend = None, **kwargs: Any) -> Any:
    """Return the content of a JSON, YAML or pickle file.

    Args:
        file: Its path, or a file object that is open for reading.
        file_format: `json`, `yaml`, `yml`, `pkl` or `pickle`; the path's suffix by default.
        backend_args: None or `dict(backend='local')`.
        **kwargs: For the reader of JSON.

    Raises:
        InputError: Another format, no such file, or a damaged one.
    """
    kind = _format(file, file_format)
    check_backend(backend_args)
    if kind in ("pkl", "pickle"):
        if not isinstance(file, str | os.PathLike):
            raise InputError("a pickle is loaded from its path, not from an open file")
        if not isfile(file):
            raise InputError(f"{file}: no such file")
        with get_local_path(file) as path:
            return read_infos(path)
    text = get_text(file) if isinstance(file, str | os.PathLike) else file.read()
    try:
        return json.loads(text, **kwargs) if kind == "json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from error


def dump(
    obj: object, file: File | None = None, file_format: str | None = None, backend_args: Backend = None, **kwargs: Any
) -> str | None:
    """Write plain data as JSON, YAML or a pickle.

    Args:
        obj: The data.
        file: A path, an open file, or None to get the text.
        file_format: As in `load`.
        backend_args: None or `dict(backend='local')`.
        **kwargs: For the writer of the format.

    Returns:
        The text where `file` is None.
    """
    kind = _format(file, file_format)
    check_backend(backend_args)
    data: str | bytes
    if kind in ("pkl", "pickle"):
        data = pickle.dumps(obj, **{"protocol": 2, **kwargs})
    elif kind == "json":
        data = json.dumps(obj, **{"default": _plain, **kwargs})
    else:
        data = yaml.safe_dump(obj, **kwargs)
    if file is None:
        return data if isinstance(data, str) else data.decode("latin1")
    if isinstance(file, str | os.PathLike):
        put(data.encode() if isinstance(data, str) else data, file)
    else:
        cast("IO[Any]", file).write(data)
    return None


def _locate(path: FilePath, backend_args: Backend) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or URL, and the path there."""
    check_backend(backend_args)
    found: tuple[AbstractFileSystem, str] = url_to_fs(str(path))
    return found


def get(filepath: FilePath, backend_args: Backend = None) -> bytes:
    """Return the bytes of a file."""
    system, path = _locate(filepath, backend_args)
    try:
        data: bytes = system.cat_file(path)
    except FileNotFoundError:
        raise InputError(f"{filepath}: no such file") from None
    return data


def get_text(filepath: FilePath, encoding: str = "utf-8", backend_args: Backend = None) -> str:
    """Return the text of a file."""
    return get(filepath, backend_args).decode(encoding)


def put(obj: bytes, filepath: FilePath, backend_args: Backend = None) -> None:
    """Write bytes; folders are made as needed."""
    system, path = _locate(filepath, backend_args)
    system.makedirs(system._parent(path), exist_ok=True)
    system.pipe_file(path, obj)


def put_text(obj: str, filepath: FilePath, encoding: str = "utf-8", backend_args: Backend = None) -> None:
    """Write a text; folders are made as needed."""
    put(obj.encode(encoding), filepath, backend_args)


def exists(filepath: FilePath, backend_args: Backend = None) -> bool:
    """Return whether there is a file or folder."""
    system, path = _locate(filepath, backend_args)
    return bool(system.exists(path))


def isfile(filepath: FilePath, backend_args: Backend = None) -> bool:
    """Return whether there is a file."""
    system, path = _locate(filepath, backend_args)
    return bool(system.isfile(path))


def isdir(filepath: FilePath, backend_args: Backend = None) -> bool:
    """Return whether there is a folder."""
    system, path = _locate(filepath, backend_args)
    return bool(system.isdir(path))


def remove(filepath: FilePath, backend_args: Backend = None) -> None:
    """Remove a file, or a folder with all that is in it."""
    system, path = _locate(filepath, backend_args)
    system.rm(path, recursive=True)


def join_path(filepath: FilePath, *filepaths: FilePath, backend_args: Backend = None) -> str:
    """Return paths joined."""
    check_backend(backend_args)
    return os.path.join(filepath, *filepaths)


@contextmanager
def get_local_path(filepath: FilePath, backend_args: Backend = None) -> Iterator[str]:
    """Yield a local path of a file: the path itself, or that of a copy that lasts as long as the `with` block."""
    system, path = _locate(filepath, backend_args)
    if isinstance(system, LocalFileSystem):
        yield str(filepath)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, path.lstrip("/"))  # what reads it may look at its folders' names
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        system.get_file(path, copy)
        yield copy


def list_dir_or_file(
    dir_path: FilePath,
    list_dir: bool = True,
    list_file: bool = True,
    suffix: str | tuple[str, ...] | None = None,
    recursive: bool = False,
    backend_args: Backend = None,
) -> Iterator[str]:
    """Yield paths in a folder, relative to it, sorted; hidden ones are left out.

    Args:
        dir_path: The folder.
        list_dir: Whether folders are listed.
        list_file: Whether files are.
        suffix: Only files that end so.
        recursive: Whether folders in it are looked into.
        backend_args: None or `dict(backend='local')`.
    """
    system, root = _locate(dir_path, backend_args)
    found = system.find(root, maxdepth=None if recursive else 1, withdirs=True, detail=True)
    for path, info in sorted(found.items()):
        inner = path[len(root) :].strip("/")
        if not inner or any(part.startswith(".") for part in inner.split("/")):
            continue
        is_wanted_file = list_file and (not suffix or inner.endswith(suffix))
        if list_dir and suffix is None if info["type"] == "directory" else is_wanted_file:
            yield inner


def list_from_file(
    filename: FilePath,
    prefix: str = "",
    offset: int = 0,
    max_num: int = 0,
    encoding: str = "utf-8",
    backend_args: Backend = None,
) -> list[str]:
    """Return the lines of a text file.

    Args:
        filename: The file.
        prefix: Put before each line.
        offset: How many lines to leave out.
        max_num: How many to read; all for 0.
        encoding: Of the text.
        backend_args: None or `dict(backend='local')`.
    """
    lines = get_text(filename, encoding, backend_args).splitlines()[offset:]
    return [prefix + line for line in (lines[:max_num] if max_num > 0 else lines)]


def dict_from_file(
    filename: FilePath,
    key_type: Callable[[str], Hashable] = str,
    encoding: str = "utf-8",
    backend_args: Backend = None,
) -> dict[Hashable, str | list[str]]:
    """Return a text file with a key and its values, separated by blanks, on each line.

    Args:
        filename: The file.
        key_type: Makes the key of its text.
        encoding: Of the text.
        backend_args: None or `dict(backend='local')`.
    """
    found: dict[Hashable, str | list[str]] = {}
    for line in list_from_file(filename, encoding=encoding, backend_args=backend_args):
        key, *values = line.split()
        found[key_type(key)] = values[0] if len(values) == 1 else values
    return found


class LocalBackend:
    """The functions of this module as a backend of MMEngine."""

    get = staticmethod(get)
    get_text = staticmethod(get_text)
    put = staticmethod(put)
    put_text = staticmethod(put_text)
    exists = staticmethod(exists)
    isfile = staticmethod(isfile)
    isdir = staticmethod(isdir)
    remove = rmtree = staticmethod(remove)
    join_path = staticmethod(join_path)
    get_local_path = staticmethod(get_local_path)
    list_dir_or_file = staticmethod(list_dir_or_file)


def get_file_backend(uri: FilePath | None = None, *, backend_args: Backend = None, **kwargs: object) -> LocalBackend:
    """Return the backend of a path.

    Args:
        uri: The path.
        backend_args: None or `dict(backend='local')`.
        **kwargs: Ignored; MMEngine has them.
    """
    check_backend(backend_args)
    return LocalBackend()


def _format(file: File | None, given: str | None) -> str:
    kind = given or Path(str(getattr(file, "name", file))).suffix.lstrip(".")
    if kind not in FORMATS:
        raise InputError(f"{file}: a file to load or dump is one of {', '.join(FORMATS)}, not {kind!r}")
    return kind


def _plain(value: object) -> object:
    """Return arrays, numpy's numbers and sets as data that JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset, range)):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
