"""Reading checkpoints without running what is in them: ours, and MMEngine's with their history objects left out."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from raydet3d.errors import InputError

_PLAIN = {("collections", "OrderedDict"), ("torch", "Size"), ("torch", "device")}
_REBUILD = {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter", "_rebuild_parameter_with_state"}


def read_checkpoint(source: Path | bytes, *, name: str | None = None) -> dict[str, Any]:
    """A checkpoint's content, on the host.

    Args:
        source: A file, or its bytes.
        name: What to call it in messages; the path by default.

    Returns:
        The dict; one that holds weights only is put under ``state_dict``.

    Raises:
        InputError: It is no checkpoint, is damaged, or does not exist.
    """
    title = name or str(source)
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise InputError(f"cannot read checkpoint {title}: {error.strerror}") from None
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        content = _read_foreign(data, title)
    except Exception as error:  # noqa: BLE001 - whatever a file that is no checkpoint makes torch trip over
        raise InputError(f"checkpoint {title} is damaged or no checkpoint: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {title} holds a {type(content).__name__}, not a dict")
    if "state_dict" not in content:
        if not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise InputError(f"checkpoint {title} has no 'state_dict'; it holds {', '.join(map(str, content))}")
        content = {"state_dict": content}
    return content


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


def _read_foreign(data: bytes, title: str) -> Any:
    """Read a file that holds objects of other classes, without them."""
    # Torch reads older layouts by `load`, newer ones by `Unpickler`: neither may be pickle's own.
    module = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="restricted")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", pickle_module=module, weights_only=False)
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
