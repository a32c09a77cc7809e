"""Small files by MMEngine's function names: load, dump, lists, bytes and texts.

Paths are local ones; `backend_args` may name the local backend. What is loaded is never run: pickles are read by the
reader of info files, which knows plain containers and arrays only, and YAML is loaded safely.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from raydet3d.errors import InputError
from raydet3d.info_file import check_backend, read_infos

Backend = Mapping[str, Any] | None
FORMATS = ("json", "yaml", "yml", "pkl", "pickle")


def load(file: Any, file_format: str | None = None, backend_args: Backend = None, **kwargs: Any) -> Any:
    """The content of a JSON, YAML or pickle file.

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
        if hasattr(file, "read"):
            raise InputError("a pickle is loaded from its path, not from an open file")
        if not Path(file).is_file():
            raise InputError(f"{file}: no such file")
        return read_infos(file)
    text = file.read() if hasattr(file, "read") else get_text(file)
    try:
        return json.loads(text, **kwargs) if kind == "json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from error


def dump(
    obj: Any, file: Any = None, file_format: str | None = None, backend_args: Backend = None, **kwargs: Any
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
    if kind in ("pkl", "pickle"):
        data: str | bytes = pickle.dumps(obj, **{"protocol": 2, **kwargs})
    elif kind == "json":
        data = json.dumps(obj, **{"default": _plain, **kwargs})
    else:
        data = yaml.safe_dump(obj, **kwargs)
    if file is None:
        return data if isinstance(data, str) else data.decode("latin1")
    if hasattr(file, "write"):
        file.write(data)
    elif isinstance(data, str):
        put_text(data, file)
    else:
        put(data, file)
    return None


def get(filepath: str | Path, backend_args: Backend = None) -> bytes:
    """The bytes of a file."""
    check_backend(backend_args)
    data: bytes = _reading(filepath, Path.read_bytes)
    return data


def get_text(filepath: str | Path, encoding: str = "utf-8", backend_args: Backend = None) -> str:
    """The text of a file."""
    check_backend(backend_args)
    text: str = _reading(filepath, lambda path: path.read_text(encoding=encoding))
    return text


def put(obj: bytes, filepath: str | Path, backend_args: Backend = None) -> None:
    """Write bytes; folders are made as needed."""
    check_backend(backend_args)
    path = Path(filepath)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(obj)


def put_text(obj: str, filepath: str | Path, backend_args: Backend = None) -> None:
    """Write a text; folders are made as needed."""
    put(obj.encode("utf-8"), filepath, backend_args)


def exists(filepath: str | Path, backend_args: Backend = None) -> bool:
    """Whether there is a file or folder."""
    check_backend(backend_args)
    return Path(filepath).exists()


def isfile(filepath: str | Path, backend_args: Backend = None) -> bool:
    """Whether there is a file."""
    check_backend(backend_args)
    return Path(filepath).is_file()


def isdir(filepath: str | Path, backend_args: Backend = None) -> bool:
    """Whether there is a folder."""
    check_backend(backend_args)
    return Path(filepath).is_dir()


def remove(filepath: str | Path, backend_args: Backend = None) -> None:
    """Remove a file, or a folder with all that is in it."""
    check_backend(backend_args)
    path = Path(filepath)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def join_path(filepath: str | Path, *filepaths: str | Path, backend_args: Backend = None) -> str:
    """Paths joined."""
    check_backend(backend_args)
    return os.path.join(filepath, *filepaths)


@contextmanager
def get_local_path(filepath: str | Path, backend_args: Backend = None) -> Iterator[str]:
    """A local path of a file, for as long as the `with` block: the path itself."""
    check_backend(backend_args)
    yield str(filepath)


def list_dir_or_file(
    dir_path: str | Path,
    list_dir: bool = True,
    list_file: bool = True,
    suffix: str | tuple[str, ...] | None = None,
    recursive: bool = False,
    backend_args: Backend = None,
) -> Iterator[str]:
    """Paths in a folder, relative to it, sorted; hidden ones are left out.

    Args:
        dir_path: The folder.
        list_dir: Whether folders are listed.
        list_file: Whether files are.
        suffix: Only files that end so.
        recursive: Whether folders in it are looked into.
        backend_args: None or `dict(backend='local')`.
    """
    check_backend(backend_args)
    root = Path(dir_path)
    for path in sorted(root.rglob("*") if recursive else root.iterdir()):
        inner = path.relative_to(root)
        if any(part.startswith(".") for part in inner.parts):
            continue
        if (
            (list_dir and suffix is None)
            if path.is_dir()
            else (list_file and (not suffix or path.name.endswith(suffix)))
        ):
            yield str(inner)


def list_from_file(
    filename: str | Path,
    prefix: str = "",
    offset: int = 0,
    max_num: int = 0,
    encoding: str = "utf-8",
    backend_args: Backend = None,
) -> list[str]:
    """The lines of a text file.

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
    filename: str | Path,
    key_type: Callable[[str], Any] = str,
    encoding: str = "utf-8",
    backend_args: Backend = None,
) -> dict[Any, str | list[str]]:
    """A text file with a key and its values, apart by blanks, on each line.

    Args:
        filename: The file.
        key_type: Makes the key of its text.
        encoding: Of the text.
        backend_args: None or `dict(backend='local')`.
    """
    found: dict[Any, str | list[str]] = {}
    for line in list_from_file(filename, encoding=encoding, backend_args=backend_args):
        key, *values = line.split()
        found[key_type(key)] = values[0] if len(values) == 1 else values
    return found


class LocalBackend:
    """The functions of this module as what MMEngine calls a backend."""

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


def get_file_backend(uri: str | Path | None = None, *, backend_args: Backend = None, **kwargs: Any) -> LocalBackend:
    """The backend of a path: the local one.

    Args:
        uri: The path.
        backend_args: None or `dict(backend='local')`.
        **kwargs: Accepted for MMEngine's sake.
    """
    check_backend(backend_args)
    return LocalBackend()


def _format(file: Any, given: str | None) -> str:
    kind = given or Path(str(getattr(file, "name", file))).suffix.lstrip(".")
    if kind not in FORMATS:
        raise InputError(f"{file}: a file to load or dump is one of {', '.join(FORMATS)}, not {kind!r}")
    return kind


def _reading(filepath: str | Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(Path(filepath))
    except FileNotFoundError:
        raise InputError(f"{filepath}: no such file") from None


def _plain(value: Any) -> Any:
    """What JSON does not know as plain data: arrays, numpy's numbers, sets."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset, range)):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
