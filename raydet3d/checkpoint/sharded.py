"""Checkpoints whose tensors are sharded over the ranks: written and read by `torch.distributed.checkpoint`.

A sharded checkpoint is a folder: `<serial>/` with torch's own files (`.metadata` and one `.distcp` a rank) and
`state.pth`, everything that is not sharded, in which a small dict stands for each sharded tensor. It can be read on
any number of ranks: shards are cut anew. Nothing in it is unpickled freely.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
import torch.distributed as torch_dist
from torch import Tensor
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.api import CheckpointException  # no Exception, but a BaseException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor import zeros as sharded_zeros

from raydet3d.checkpoint.safe_load import read_stored_checkpoint
from raydet3d.checkpoint.storage import LocalStorage, ObjectStorage, Storage, digest_of, read
from raydet3d.errors import InputError

REST = "state.pth"
MARK = "sharded"


# -- writing ----------------------------------------------------------------------------------------------------


class Ranks:
    """What the ranks' writer threads say to each other, apart from the training's own collectives.

    Every rank makes one, from its main thread.
    """

    def __init__(self) -> None:
        self._group = torch_dist.new_group(backend="gloo")

    @property
    def rank(self) -> int:
        """This process's rank."""
        return torch_dist.get_rank()

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return torch_dist.get_world_size()

    def agree(self, value: int | None) -> int | None:
        """Rank 0's value."""
        box: list[int | None] = [value]
        torch_dist.broadcast_object_list(box, 0, group=self._group)
        return box[0]

    def write(self, state: dict[str, Any], place: Storage, name: str, folder: str) -> dict[str, list[Any]]:
        """Write this rank's shards into `name/folder/`.

        Returns:
            Digest and size of each file of all ranks, by its path in `name/`.

        Raises:
            OSError: On every rank, if one of them could not write.
        """
        tensors: dict[str, Tensor] = {}
        rest = take_out(state, tensors)
        failure = None
        files: dict[str, list[Any]] = {}
        try:
            with ExitStack() as stack:
                try:
                    path = stack.enter_context(_local(place, f"{name}/{folder}"))
                    problem = None
                except OSError as error:
                    path, problem = Path(), _told(error)
                self._raise_together(problem)  # torch's writing is a matter of all ranks: none begins it without one
                writer = FileSystemWriter(path, overwrite=True)
                save(tensors, storage_writer=writer, process_group=self._group)
                mine = [f"__{self.rank}_0.distcp", *([".metadata"] if self.rank == 0 else [])]
                if isinstance(place, ObjectStorage):
                    for file in mine:
                        place.send(f"{name}/{folder}/{file}", path / file)
            inner = [f"{folder}/{file}" for file in mine]
            if self.rank == 0:
                whole = f"{name}/{folder}/{REST}"
                place.prepare(whole, lambda file: torch.save(rest, cast("Any", file)))
                place.commit(whole)
                inner.append(f"{folder}/{REST}")
            files = {file: list(digest_of(place, f"{name}/{file}")) for file in inner}
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - the others must hear of it
            failure = _told(error)
        all_files = self._gather((failure, files))
        failures = [text for text, _ in all_files if text]
        if failures:
            raise OSError(failures[0])
        return {file: facts for _, some in all_files for file, facts in some.items()}

    def _raise_together(self, problem: str | None) -> None:
        """Fail on every rank, where one has a problem."""
        found = [text for text in self._gather(problem) if text]
        if found:
            raise OSError(found[0])

    def _gather(self, value: Any) -> list[Any]:
        """Every rank's value."""
        out: list[Any] = [None] * self.world_size
        torch_dist.all_gather_object(out, value, group=self._group)
        return out


def take_out(value: Any, tensors: dict[str, Tensor], key: str = "") -> Any:
    """Nested containers with a mark in place of each sharded tensor; the tensors go to `tensors` by their path."""
    if isinstance(value, DTensor):
        tensors[key] = value
        return {MARK: key}
    if isinstance(value, Mapping):
        return {k: take_out(item, tensors, f"{key}/{k}" if key else str(k)) for k, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([take_out(item, tensors, f"{key}/{i}") for i, item in enumerate(value)])
    return value


@contextmanager
def _local(place: Storage, name: str) -> Iterator[Path]:
    """A folder of this machine to write to: the place's own, or one whose files are then sent."""
    if isinstance(place, LocalStorage):
        path = place.location(name)
        path.mkdir(parents=True, exist_ok=True)
        yield path
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _told(error: BaseException) -> str:
    """What went wrong; torch wraps the ranks' errors in one of its own."""
    inner = getattr(error, "failures", None)
    if isinstance(inner, Mapping) and inner:
        first = next(iter(inner.values()))
        error = first[0] if isinstance(first, tuple) else first
    return str(getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0])


# -- reading ----------------------------------------------------------------------------------------------------


def read_rest(place: Storage, name: str) -> dict[str, Any]:
    """What of a sharded checkpoint is not sharded, with marks for what is."""
    serial = _newest(place, name)
    whole = f"{name}/{serial}/{REST}"
    try:
        return read_stored_checkpoint(place, whole, title=str(place.location(name)))
    except OSError as error:
        raise InputError(f"cannot read checkpoint {place.location(name)}: {error.strerror or error}") from None


def fill_in(rest: Mapping[str, Any], place: Storage, name: str, like: Mapping[str, Tensor] | None = None) -> Any:
    """A sharded checkpoint's content.

    Args:
        rest: What `read_rest` gave.
        place: Where the checkpoint lies.
        name: Its name.
        like: Parameters by name: what belongs to a sharded one comes back with its sharding. Anything else comes
            back whole, on the host.

    Raises:
        InputError: A file is damaged or missing.
    """
    path = f"{name}/{_newest(place, name)}"
    try:
        reader = _Reader(place, path)
        found = reader.read_metadata().state_dict_metadata
        tensors: dict[str, Tensor] = {}
        for key, owner in _marks(rest):
            about = found[key]
            assert isinstance(about, TensorStorageMetadata)
            param = (like or {}).get(owner)
            if isinstance(param, DTensor) and param.shape == about.size:
                mesh, placements = param.device_mesh, param.placements
                tensors[key] = sharded_zeros(
                    about.size, dtype=about.properties.dtype, device_mesh=mesh, placements=placements
                )
            else:
                tensors[key] = torch.zeros(about.size, dtype=about.properties.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that every rank reads for itself is meant
            load(tensors, storage_reader=reader, no_dist=True)
    except InputError:
        raise
    except (Exception, CheckpointException) as error:  # noqa: BLE001 - whatever a damaged file does
        raise InputError(f"checkpoint {place.location(name)} is damaged: {_told(error)}") from None
    return _put_in(rest, tensors)


def spread(state: Any, like: Mapping[str, Tensor]) -> Any:
    """A state whose whole tensors are cut into shards where they belong to a sharded parameter.

    Args:
        state: A checkpoint's content.
        like: Parameters by name.
    """

    def cut(value: Any, owner: str | None) -> Any:
        param = like.get(owner or "")
        if not isinstance(param, DTensor) or isinstance(value, DTensor) or value.shape != param.shape:
            return value
        device = param.device_mesh.device_type
        return distribute_tensor(value.to(device), param.device_mesh, param.placements, src_data_rank=None)

    return _map_owned(state, cut)


def _put_in(rest: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(rest, Mapping):
        if set(rest) == {MARK}:
            return tensors[rest[MARK]]
        return {key: _put_in(item, tensors) for key, item in rest.items()}
    return type(rest)([_put_in(item, tensors) for item in rest]) if isinstance(rest, (list, tuple)) else rest


def _marks(rest: Any) -> Iterator[tuple[str, str]]:
    """The key of each sharded tensor, and the name of the parameter that it belongs to."""
    found: list[tuple[str, str]] = []

    def note(value: Any, owner: str | None) -> Any:
        if isinstance(value, Mapping):
            found.append((value[MARK], owner or ""))
        return value

    _map_owned(rest, note)
    yield from found


def _map_owned(value: Any, function: Any, owner: str | None = None) -> Any:
    """Apply `function(tensor or mark, name of its parameter)` throughout a state.

    Weights are named by their own key; what an optimizer keeps, by the names that its param groups list.
    """
    if isinstance(value, Tensor):
        return function(value, owner)
    if isinstance(value, Mapping):
        if set(value) == {MARK}:
            return function(value, owner)
        if "state" in value and "param_groups" in value:
            groups = value["param_groups"]
            pairs = [(g["params"], g.get("param_names") or []) for g in groups]
            names = {i: name for params, some in pairs for i, name in zip(params, some, strict=False)}
            state = {i: _map_owned(item, _of(function, names.get(i))) for i, item in value["state"].items()}
            return {**{k: _map_owned(v, function) for k, v in value.items() if k != "state"}, "state": state}
        return {key: _map_owned(item, function, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_map_owned(item, function, owner) for item in value])
    return value


def _of(function: Any, owner: str | None) -> Any:
    return lambda value, _: function(value, owner)


def _newest(place: Storage, name: str) -> str:
    """The part of a sharded checkpoint that counts: the one its manifest lists, else the last."""
    try:
        files = json.loads(read(place, f"{name}.json"))["files"]
        return str(next(iter(files)).partition("/")[0])
    except (OSError, ValueError, KeyError, StopIteration):
        parts = [part for part in place.names(name) if part.isdigit()]
    if not parts:
        raise InputError(f"{place.location(name)} is a folder and no checkpoint")
    return max(parts, key=int)


class _Streams(FileSystem):
    """Files of a place, as torch's reader asks for them."""

    def __init__(self, place: Storage) -> None:
        self.place = place

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[BinaryIO]:  # type: ignore[override]
        """A file to read."""
        assert mode == "rb"
        with self.place.open(str(path)) as file:
            yield file


class _Reader(FileSystemReader):
    """Reads from a place, and takes no object but torch's own out of the metadata."""

    def __init__(self, place: Storage, path: str) -> None:
        super().__init__(path)
        self.fs = _Streams(place)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What tensors there are, and in which file each part of them lies."""
        with self.fs.create_stream(self._get_metadata_path(), "rb") as file:
            metadata = _Plain(cast("Any", file)).load()
        assert isinstance(metadata, Metadata)
        return metadata


class _Plain(pickle.Unpickler):
    """Finds the classes that torch's metadata is made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_record = module == Metadata.__module__ and isinstance(getattr(dcp_metadata, name, None), type)
        if is_type or is_record or (module, name) in PLAIN or (module.split(".")[0], name) == ("pathlib", "PosixPath"):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):  # how Python up to 3.11.3 writes a member of an enum
            return _member
        raise pickle.UnpicklingError(f"its metadata holds a {module}.{name}")


def _member(kind: Any, name: str) -> Enum:
    """A member of an enum, and no other attribute of anything."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        raise pickle.UnpicklingError(f"its metadata takes {name} of a {kind}")
    return kind[name]


PLAIN = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}
