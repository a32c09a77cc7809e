"""Read checkpoints without running their code: ours, and MMEngine's without their history objects."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from raydet3d.checkpoint.nested import Nested
from raydet3d.checkpoint.storage import CHUNK, LocalStorage, Storage, reason_of
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
        raise InputError(f"cannot read checkpoint {title}: {reason_of(error)}") from None
    try:  # torch maps files of its newer format only, which are zip files
        content = torch.load(str(source), map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        content = _read_foreign(source, title, mmap=is_zip)
    except Exception as error:  # noqa: BLE001 - whatever a file that is no checkpoint makes torch trip over
        raise InputError(f"checkpoint {title} is damaged or no checkpoint: {reason_of(error)}") from None
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
    """Placeholder for an object of a class that is not read; accepts any call and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return self

    __setitem__ = __setstate__ = append = extend = __call__


class _Unpickler(pickle.Unpickler):
    """Finds tensors and plain containers; every other name becomes an inert stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        is_storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_rebuild = module == "torch._utils" and name in _REBUILD  # how torch writes a tensor, in all its versions
        if is_storage or is_type or is_rebuild or (module, name) in _PLAIN:
            return super().find_class(module, name)
        return _Inert


def _load(file: BinaryIO, **kwargs: Any) -> Nested:
    content: Nested = _Unpickler(file, **kwargs).load()
    return content


def _read_foreign(source: Path, title: str, *, mmap: bool) -> Nested:
    """Read a file that holds objects of other classes, without them."""
    # Torch reads older layouts by `load`, newer ones by `Unpickler`: neither may be pickle's own.
    module = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="restricted")
    try:
        content = torch.load(str(source), map_location="cpu", pickle_module=module, weights_only=False, mmap=mmap)
    except Exception as error:  # noqa: BLE001 - whatever an arbitrary file makes the reader trip over
        raise InputError(f"checkpoint {title} is damaged or no checkpoint: {reason_of(error)}") from None
    return _without_inert(content)


def _without_inert(value: Nested) -> Nested:
    if isinstance(value, dict):
        inert = [key for key, item in value.items() if isinstance(key, _Inert) or isinstance(item, _Inert)]
        return {key: _without_inert(item) for key, item in value.items() if key not in inert}
    if type(value) is list:
        return [_without_inert(item) for item in value if not isinstance(item, _Inert)]
    if type(value) is tuple:
        return tuple(_without_inert(item) for item in value if not isinstance(item, _Inert))
    return value
