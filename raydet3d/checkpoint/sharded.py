"""Checkpoints whose tensors are sharded over the ranks: written and read by `torch.distributed.checkpoint`.

A sharded checkpoint is a folder: `<serial>/` with torch's own files (`.metadata` and one `.distcp` a rank) and
`state.pth`, everything that is not sharded, in which a small dict stands for each sharded tensor. It can be read on
any number of ranks: the tensors are sharded again for them. Metadata is read by a restricted unpickler.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

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

from raydet3d.checkpoint.completeness import shard_folder
from raydet3d.checkpoint.nested import Keys, Nested, map_leaves
from raydet3d.checkpoint.safe_load import read_stored_checkpoint
from raydet3d.checkpoint.storage import LocalStorage, ObjectStorage, Storage, digest_of, reason_of, sync_folder
from raydet3d.errors import InputError

REST = "state.pth"
MARK = "sharded"
Files = dict[str, tuple[str, int]]
"""Digest and size of files, by their paths."""
T = TypeVar("T")

# -- writing ----------------------------------------------------------------------------------------------------


class Ranks:
    """Exchange between the ranks' writer threads, apart from the training's own collectives.

    Every rank makes one, from its main thread.
    """

    def __init__(self) -> None:
        self._group = torch_dist.new_group(backend="gloo")
        self.rank = torch_dist.get_rank()
        self.world_size = torch_dist.get_world_size()

    def agree(self, value: int | None) -> int | None:
        """Return rank 0's value."""
        box: list[int | None] = [value]
        torch_dist.broadcast_object_list(box, 0, group=self._group)
        return box[0]

    def write(self, state: Mapping[str, Nested], place: Storage, name: str, folder: str) -> Files:
        """Write this rank's shards into `name/folder/`.

        Returns:
            Digest and size of each file of all ranks, by its path in `name/`.

        Raises:
            OSError: On every rank, if one of them could not write.
        """
        failure: str | None = None
        files: Files = {}
        try:
            files = self._write_own(state, place, name, folder)
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - the other ranks must be informed
            failure = _describe(error)
        self._raise_together(failure)
        return {file: facts for own in self._gather(files) for file, facts in own.items()}

    def _write_own(self, state: Mapping[str, Nested], place: Storage, name: str, folder: str) -> Files:
        with ExitStack() as stack:
            path, failure = Path(), None
            try:
                path = stack.enter_context(_local_folder(place, f"{name}/{folder}"))
            except OSError as error:
                failure = reason_of(error)
            self._raise_together(failure)  # torch writes on all ranks together: none begins without a folder
            tensors: dict[str, Tensor] = {}
            rest = _take_out(state, tensors)
            save(tensors, storage_writer=FileSystemWriter(path, overwrite=True), process_group=self._group)
            written = [f"__{self.rank}_0.distcp", *([".metadata"] if self.rank == 0 else [])]
            if isinstance(place, ObjectStorage):
                for file in written:
                    place.send(f"{name}/{folder}/{file}", path / file)
        if self.rank == 0:
            place.prepare(f"{name}/{folder}/{REST}", lambda file: torch.save(rest, cast("IO[bytes]", file)))
            place.commit(f"{name}/{folder}/{REST}")
            written.append(REST)
        return {f"{folder}/{file}": digest_of(place, f"{name}/{folder}/{file}") for file in written}

    def _raise_together(self, failure: str | None) -> None:
        """Fail on every rank where one has failed."""
        found = [text for text in self._gather(failure) if text]
        if found:
            raise OSError(found[0])

    def _gather(self, value: T) -> list[T]:
        out: list[T] = [value] * self.world_size
        torch_dist.all_gather_object(out, value, group=self._group)
        return out


def _take_out(state: Mapping[str, Nested], tensors: dict[str, Tensor]) -> Nested:
    """Return a state with a mark in place of each sharded tensor; the tensors go to `tensors`, by their keys."""

    def take(value: Nested, keys: Keys) -> Nested:
        if not isinstance(value, DTensor):
            return value
        key = "/".join(map(str, keys))
        tensors[key] = value
        return {MARK: key}

    return map_leaves(state, take)


@contextmanager
def _local_folder(place: Storage, name: str) -> Iterator[Path]:
    """Make a folder of this machine to write to: the place's own, or one whose files are then sent."""
    if not isinstance(place, LocalStorage):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    path = place.location(name)
    path.mkdir(parents=True, exist_ok=True)
    yield path
    sync_folder(path)


def _describe(error: BaseException) -> str:
    """Say what went wrong; torch wraps the ranks' errors in one of its own."""
    inner = getattr(error, "failures", None)
    if isinstance(inner, Mapping) and inner:
        first = next(iter(inner.values()))
        error = first[0] if isinstance(first, tuple) else first
    return reason_of(error)


# -- reading ----------------------------------------------------------------------------------------------------


def read_rest(place: Storage, name: str) -> dict[str, Any]:
    """Read what of a sharded checkpoint is not sharded, with marks for what is."""
    title = str(place.location(name))
    try:
        return read_stored_checkpoint(place, f"{shard_folder(place, name)}/{REST}", title=title)
    except OSError as error:
        raise InputError(f"cannot read checkpoint {title}: {reason_of(error)}") from None


def fill_in(rest: Mapping[str, Nested], place: Storage, name: str, like: Mapping[str, Tensor]) -> dict[str, Nested]:
    """Read the sharded tensors of a checkpoint.

    Args:
        rest: What `read_rest` returned.
        place: Where the checkpoint lies.
        name: Its name.
        like: Parameters by name: what belongs to a sharded one comes back with its sharding. Anything else comes
            back whole, on the host.

    Raises:
        InputError: A file is damaged or missing.
    """
    try:
        reader = _Reader(place, shard_folder(place, name))
        found = reader.read_metadata().state_dict_metadata
        tensors: dict[str, Tensor] = {}

        def allocate(value: Nested, keys: Keys) -> Nested:
            if not _is_mark(value):
                return value
            key = str(cast("Mapping[str, str]", value)[MARK])
            stored = found[key]
            assert isinstance(stored, TensorStorageMetadata)
            tensors[key] = _empty_like(stored, like.get(_owner(rest, keys)))
            return tensors[key]

        content = map_leaves(rest, allocate, is_leaf=_is_mark)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that every rank reads for itself is meant
            load(tensors, storage_reader=reader, no_dist=True)
    except InputError:
        raise
    except (Exception, CheckpointException) as error:  # noqa: BLE001 - whatever a damaged file does
        raise InputError(f"checkpoint {place.location(name)} is damaged: {_describe(error)}") from None
    return cast("dict[str, Nested]", content)


def _empty_like(stored: TensorStorageMetadata, param: Tensor | None) -> Tensor:
    """Allocate a stored tensor: sharded as the parameter that it belongs to, else whole."""
    dtype = stored.properties.dtype
    if isinstance(param, DTensor) and param.shape == stored.size:
        return sharded_zeros(stored.size, dtype=dtype, device_mesh=param.device_mesh, placements=param.placements)
    return torch.zeros(stored.size, dtype=dtype)


def spread(state: Mapping[str, Nested], like: Mapping[str, Tensor]) -> dict[str, Nested]:
    """Shard the whole tensors of a state that belong to a sharded parameter.

    Args:
        state: A checkpoint's content.
        like: Parameters by name.
    """

    def shard(value: Nested, keys: Keys) -> Nested:
        param = like.get(_owner(state, keys)) if isinstance(value, Tensor) and not isinstance(value, DTensor) else None
        if not isinstance(param, DTensor) or not isinstance(value, Tensor) or value.shape != param.shape:
            return value
        device = param.device_mesh.device_type
        return distribute_tensor(value.to(device), param.device_mesh, param.placements, src_data_rank=None)

    return cast("dict[str, Nested]", map_leaves(state, shard))


def _owner(state: Mapping[str, Any], keys: Keys) -> str:
    """Return the name of the parameter that a tensor of a state belongs to.

    Weights are named by their own key; what an optimizer keeps, by the names that its param groups list.
    """
    inner: Any = state
    for depth, key in enumerate(keys):
        if key == "state" and "param_groups" in inner:
            groups: Sequence[Mapping[str, Any]] = inner["param_groups"]
            pairs = [pair for g in groups for pair in zip(g["params"], g.get("param_names") or [], strict=False)]
            return str(dict(pairs).get(keys[depth + 1], ""))
        inner = inner[key]
    return str(next((key for key in reversed(keys) if isinstance(key, str)), ""))


def _is_mark(value: Nested) -> bool:
    return isinstance(value, Mapping) and set(value) == {MARK}


class _Streams(FileSystem):
    """Files of a place, as torch's reader asks for them."""

    def __init__(self, place: Storage) -> None:
        self.place = place

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[BinaryIO]:  # type: ignore[override]
        """Open a file for reading."""
        assert mode == "rb"
        with self.place.open(str(path)) as file:
            yield file


class _Reader(FileSystemReader):
    """Reads from a place, and takes no object but torch's own out of the metadata."""

    def __init__(self, place: Storage, path: str) -> None:
        super().__init__(path)
        self.fs = _Streams(place)
        self._metadata = f"{path}/.metadata"

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read which tensors there are, and in which file each part of them lies."""
        with self.fs.create_stream(self._metadata, "rb") as file:
            metadata = _MetadataUnpickler(file).load()
        assert isinstance(metadata, Metadata)
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Finds the classes that torch's metadata is made of, and nothing else."""

    # Two private names of torch 2.10 to 2.14 that its writer puts into the file. Where a later one writes another, the
    # checkpoint is refused by that name and nothing is unpickled.
    ALLOWED = frozenset(
        {
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_record = module == Metadata.__module__ and isinstance(getattr(dcp_metadata, name, None), type)
        is_path = (module.split(".")[0], name) == ("pathlib", "PosixPath")
        if is_type or is_record or is_path or (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):  # how Python up to 3.11.3 writes a member of an enum
            return enum_member
        raise pickle.UnpicklingError(f"its metadata holds a {module}.{name}")


def enum_member(kind: type, name: str) -> Enum:
    """Return a member of an enum, and no other attribute of anything."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        raise pickle.UnpicklingError(f"its metadata takes {name} of a {kind}")
    return kind[name]
