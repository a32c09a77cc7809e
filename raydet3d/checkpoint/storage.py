"""`Storage`: one interface over local folders and object stores behind a URI.

A local file is written beside its place, synced and renamed. An object store has no rename: an object appears when it
is whole, and a checkpoint when its manifest does.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast
from urllib.parse import unquote, urlsplit

from raydet3d.config import is_uri
from raydet3d.errors import InputError
from raydet3d.files import replace_file

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CHUNK = 1 << 22
Location = Path | str  # of a file: a path, or a URI


class HashingWriter:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes."""
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Pass on what is buffered."""
        self._file.flush()


Storage: TypeAlias = "LocalStorage | ObjectStorage"
"""Where checkpoints are stored: two classes with the same methods. Names may contain folders, with `/`."""


def open_storage(where: Location) -> Storage:
    """Open the storage of a path or a URI.

    Raises:
        InputError: No file system opens the URI.
    """
    if isinstance(where, Path) or not is_uri(where):
        return LocalStorage(Path(where))
    parts = urlsplit(where)
    if parts.scheme == "file":
        return LocalStorage(Path(unquote(parts.path)))
    return ObjectStorage.at(where)


def probe(uri: str) -> None:
    """Check that a URI can be written to, by writing and deleting an empty file.

    Raises:
        InputError: It cannot be opened.
        OSError: It cannot be written to.
    """
    place = open_storage(uri)
    name = f".probe-{uuid.uuid4().hex[:8]}"
    place.put(name, b"")
    place.remove(name)


def digest_of(place: Storage, name: str) -> tuple[str, int]:
    """Return the SHA-256 and the size of a file."""
    with place.open(name) as file:
        return hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest(), file.tell()


def read(place: Storage, name: str) -> bytes:
    """Return the bytes of a file."""
    with place.open(name) as file:
        return file.read()


def reason_of(error: BaseException) -> str:
    """Return why something failed in a few words: the system's, else the first line of the message."""
    return str(getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0])


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalStorage:
    """A local or mounted folder. Files appear whole or not at all: they are synced and then renamed.

    Args:
        path: The folder; made when the first file is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def location(self, name: str) -> Path:
        """Return the path of a file."""
        return self.path / name

    def names(self, folder: str = "") -> list[str]:
        """List the names of files and folders."""
        path = self.path / folder
        return sorted(os.listdir(path)) if path.is_dir() else []

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        return (self.path / name).open("rb")

    def prepare(self, name: str, fill: Callable[[HashingWriter], object]) -> tuple[str, int]:
        """Write a file under a temporary name in the same folder.

        Args:
            name: Its name.
            fill: Writes the content.

        Returns:
            Digest and size of what was written.
        """
        temporary = self._temporary(name)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            sink = HashingWriter(file)
            fill(sink)
            file.flush()
            os.fsync(file.fileno())
        return sink.digest.hexdigest(), sink.size

    def commit(self, name: str) -> None:
        """Rename a prepared file to its name, and sync the folder."""
        path = self.path / name
        replace_file(self._temporary(name), path)
        sync_folder(path.parent)

    def discard(self, name: str) -> None:
        """Delete a prepared file."""
        with suppress(OSError):  # a remnant takes room and does no more harm
            self._temporary(name).unlink(missing_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""
        try:
            self.prepare(name, lambda file: file.write(data))
            self.commit(name)
        except BaseException:
            self.discard(name)
            raise

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return (self.path / name).exists()

    def stat(self, name: str) -> tuple[int, int]:
        """Return size and modification time of a file."""
        stat = (self.path / name).stat()
        return stat.st_size, stat.st_mtime_ns

    def remove(self, name: str) -> None:
        """Delete a file, or a folder, if it is there."""
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def move(self, name: str, target: str) -> None:
        """Rename a file or folder, in place of what has the new name."""
        path = self.path / target
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        (self.path / name).replace(path)

    def leftovers(self) -> list[str]:
        """Return the temporary files, those of killed writers included."""
        return [name for name in self.names() if name.startswith(".") and name.endswith(".tmp")]

    def free(self) -> int | None:
        """Return the free bytes of the disk."""
        try:
            disk = os.statvfs(self.path)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize

    def _temporary(self, name: str) -> Path:
        path = self.path / name
        return path.with_name(f".{path.name}.tmp")


class ObjectStorage:
    """A folder behind a URI, through the file systems of pyarrow and fsspec. Objects appear when they are whole.

    Args:
        files: The file system.
        path: The folder in it.
        uri: The URI.
    """

    def __init__(self, files: FileSystem, path: str, uri: str) -> None:
        self.files = files
        self.path = path.rstrip("/")
        self.uri = uri.rstrip("/")
        self._spooled: dict[str, BinaryIO] = {}

    @classmethod
    def at(cls, uri: str) -> ObjectStorage:
        """Open a URI: pyarrow's own file systems (s3, gs, hdfs, ...) first, then fsspec's (az, memory, ...).

        Raises:
            InputError: Neither knows it, or it is malformed.
        """
        import pyarrow.fs as arrow  # here, not above: its import takes about 0.2 s

        try:
            files, path = arrow.FileSystem.from_uri(uri)
            return cls(files, path, uri)
        except (OSError, ValueError) as first:
            import fsspec

            try:
                files, path = fsspec.core.url_to_fs(uri)
            except (ValueError, ImportError):
                raise InputError(f"{uri} cannot be opened as a work dir: {reason_of(first)}") from None
            return cls(arrow.PyFileSystem(arrow.FSSpecHandler(files)), path, uri)

    def location(self, name: str) -> str:
        """Return the URI of a file."""
        return f"{self.uri}/{name}"

    def names(self, folder: str = "") -> list[str]:
        """List the names of objects and folders."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._at(folder), allow_not_found=True)
        return sorted(info.base_name for info in self.files.get_file_info(selector))

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading, with random access."""
        return cast("BinaryIO", self.files.open_input_file(self._at(name)))

    def prepare(self, name: str, fill: Callable[[HashingWriter], object]) -> tuple[str, int]:
        """Write a file on the local disk: a file that cannot be written whole never reaches the object store."""
        self.discard(name)
        file = self._spooled[name] = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by commit
        sink = HashingWriter(file)
        fill(sink)
        return sink.digest.hexdigest(), sink.size

    def commit(self, name: str) -> None:
        """Upload a prepared file."""
        self._spooled[name].seek(0)
        self._upload(self._spooled[name], name)
        self.discard(name)

    def discard(self, name: str) -> None:
        """Delete a prepared file."""
        if (file := self._spooled.pop(name, None)) is not None:
            file.close()

    def put(self, name: str, data: bytes) -> None:
        """Write a small object."""
        self._upload(io.BytesIO(data), name)

    def send(self, name: str, source: Path) -> None:
        """Upload a local file."""
        with source.open("rb") as file:
            self._upload(file, name)

    def exists(self, name: str) -> bool:
        """Whether there is such an object or folder."""
        return self._kind(name) != "NotFound"

    def stat(self, name: str) -> tuple[int, int]:
        """Return size and modification time of an object."""
        (info,) = self.files.get_file_info([self._at(name)])
        if not info.is_file:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return int(info.size), int(info.mtime_ns or 0)

    def remove(self, name: str) -> None:
        """Delete an object, or a folder, if it is there."""
        kind = self._kind(name)
        if kind == "Directory":
            self.files.delete_dir(self._at(name))
        elif kind != "NotFound":
            self.files.delete_file(self._at(name))

    def move(self, name: str, target: str) -> None:
        """Copy an object, or a folder's objects, to another name, and delete it."""
        if self._kind(name) == "Directory":
            for inner in self.names(name):
                self.move(f"{name}/{inner}", f"{target}/{inner}")
        else:
            with self.open(name) as file:
                self._upload(file, target)
        self.remove(name)

    def leftovers(self) -> list[str]:
        """Return nothing: prepared files have no name and end with their process."""
        return []

    def free(self) -> int | None:
        """Return None: object stores do not report free space."""
        return None

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def _kind(self, name: str) -> str:
        (info,) = self.files.get_file_info([self._at(name)])
        return str(info.type.name)

    def _upload(self, source: BinaryIO, name: str) -> None:
        path = self._at(name)
        try:
            out = self.files.open_output_stream(path)
        except FileNotFoundError:  # where folders are more than a part of the name
            self.files.create_dir(path.rpartition("/")[0], recursive=True)
            out = self.files.open_output_stream(path)
        with out:
            shutil.copyfileobj(source, out, CHUNK)
