"""Read checkpoints without running their code: ours, and MMEngine's without their history objects."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from raydet3d.checkpoint.storage import CHUNK, LocalStorage, Storage
from raydet3d.errors import InputError

_PLAIN = {("collections", "OrderedDict"), ("torch", "Size"), ("torch", "device")}
_REBUILD = {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter", "_rebuild_parameter_with_state"}


class BareWeights(dict[str, Any]):
    """The content of a file that holds weights only, put under `state_dict`."""


def content_of_file(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint as its file holds it: of a file with weights only, the weights."""
    bare: dict[str, Any] = checkpoint["state_dict"] if isinstance(checkpoint, BareWeights) else checkpoint
    return bare


def read_checkpoint(source: Path, *, name: str | None = None) -> dict[str, Any]:
    """Read a checkpoint to the host.

    The file is mapped into memory: its tensors are read when they are used, and a process that copies them into a model
    needs no memory of its own for them. Who changes such a tensor changes its own copy and not the file.

    Args:
        source: The file.
        name: What to call it in messages; the path by default.

    Returns:
        The dict; one that holds only weights is put under `state_dict`.

    Raises:
        InputError: It is no checkpoint, is damaged, or does not exist.
    """
    title = name or str(source)
    try:
        is_zip = zipfile.is_zipfile(source)
        source.open("rb").close()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read checkpoint {title}: {getattr(error, 'strerror', None) or error}") from None
    try:  # torch maps files of its newer format only, which are zip files
        content = torch.load(str(source), map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        content = _read_foreign(source, title, mmap=is_zip)
    except Exception as error:  # noqa: BLE001 - whatever a file that is no checkpoint makes torch trip over
        raise InputError(f"checkpoint {title} is damaged or no checkpoint: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {title} holds a {type(content).__name__}, not a dict")
    if "state_dict" not in content:
        if not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise InputError(f"checkpoint {title} has no 'state_dict'; it holds {', '.join(map(str, content))}")
        return BareWeights(state_dict=content)
    return dict(content)


def read_stored_checkpoint(storage: Storage, name: str, *, title: str) -> dict[str, Any]:
    """Read a checkpoint of a storage; one that is not on this machine is copied once, to a file that is then mapped.

    Args:
        storage: The storage.
        name: Name of the file.
        title: What to call it in messages.

    Raises:
        OSError: It cannot be copied.
        InputError: It is no checkpoint, is damaged, or does not exist.
    """
    if isinstance(storage, LocalStorage):
        return read_checkpoint(storage.location(name), name=title)
    with tempfile.NamedTemporaryFile(suffix=".pth") as copy, storage.open(name) as file:
        shutil.copyfileobj(file, copy, CHUNK)
        copy.flush()
        return read_checkpoint(Path(copy.name), name=title)  # the mapping outlives the file's name


class _Inert:
    """Stands for an object of a class that is not read; takes whatever the file does to it, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Finds tensors and plain containers; every other name becomes an inert stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if (module, name) in _PLAIN or (module == "torch._utils" and name in _REBUILD):
            return super().find_class(module, name)
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _Inert


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


def _read_foreign(source: Path, title: str, *, mmap: bool) -> Any:
    """Read a file that holds objects of other classes, without them."""
    # Torch reads older layouts by `load`, newer ones by `Unpickler`: neither may be pickle's own.
    module = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="restricted")
    try:
        content = torch.load(str(source), map_location="cpu", pickle_module=module, weights_only=False, mmap=mmap)
    except Exception as error:  # noqa: BLE001 - whatever an arbitrary file makes the reader trip over
        raise InputError(f"checkpoint {title} is damaged or no checkpoint: {_first_line(error)}") from None
    return _without_inert(content)


def _without_inert(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: _without_inert(v) for k, v in value.items() if not isinstance(k, _Inert)}
        return {k: v for k, v in kept.items() if not isinstance(v, _Inert)}
    if isinstance(value, (list, tuple)):
        kept_list = [_without_inert(v) for v in value]
        return type(value)(v for v in kept_list if not isinstance(v, _Inert)) if type(value) in (list, tuple) else value
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
