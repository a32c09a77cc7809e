"""Small things that plug-ins import from MMEngine and MMDetection3D: type aliases, checks of sequences, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any, TypeAlias, TypeVar

from packaging.version import InvalidVersion, Version

T = TypeVar("T")
Kinds: TypeAlias = type | tuple[type, ...]

# For annotations only; they are not checked.
ConfigType = dict[str, Any]
OptConfigType = ConfigType | None
MultiConfig = ConfigType | list[ConfigType]
OptMultiConfig = MultiConfig | None
InstanceList = list[Any]
OptInstanceList = InstanceList | None
SampleList = list[Any]
OptSampleList = SampleList | None
ForwardResults = dict[str, Any] | list[Any] | tuple[Any, ...]


def is_str(value: object) -> bool:
    """Return whether a value is a string."""
    return isinstance(value, str)


def is_seq_of(values: object, expected_type: Kinds, seq_type: Kinds | None = None) -> bool:
    """Return whether a value is a sequence whose items are all of a type.

    Args:
        values: The value.
        expected_type: A type, or a tuple of types.
        seq_type: The type of the sequence; any by default.
    """
    kind = (list, tuple) if seq_type is None else seq_type
    if not isinstance(values, kind) or not isinstance(values, Iterable):
        return False
    return all(isinstance(value, expected_type) for value in values)


def is_list_of(values: object, expected_type: Kinds) -> bool:
    """Return whether a value is a list whose items are all of a type."""
    return is_seq_of(values, expected_type, list)


def is_tuple_of(values: object, expected_type: Kinds) -> bool:
    """Return whether a value is a tuple whose items are all of a type."""
    return is_seq_of(values, expected_type, tuple)


def digit_version(version: str) -> tuple[int, ...]:
    """Return a version as numbers that compare as they should; a pre-release is less than its release.

    Args:
        version: `1.4.0`, `0.11.0rc0`, `2.10.0+cpu`.
    """
    try:
        parsed = Version(version)
    except InvalidVersion:
        raise ValueError(f"not a version: {version!r}") from None
    numbers = (*parsed.release[:4], 0, 0, 0, 0)[:4]
    if parsed.pre is not None:
        return (*numbers, {"rc": -1, "b": -2, "a": -3}[parsed.pre[0]], parsed.pre[1])
    return (*numbers, 0, 0) if parsed.dev is None else (*numbers, -4, parsed.dev)


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, or a distribution of this name is installed."""
    if find_spec(package.replace("-", "_")) is not None:
        return True
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def mmcv_full_available() -> bool:
    """Return False: raydet3d has no compiled operators of mmcv's."""
    return False


def is_unsupported_device() -> bool:
    """Return False: kinds of devices that MMEngine knows and raydet3d does not support."""
    return False


def multi_apply(func: Callable[..., Iterable[T]], *args: Iterable[object], **kwargs: object) -> tuple[list[T], ...]:
    """Call a function for each tuple of arguments, and return one list for each of its results.

    Args:
        func: Returns a tuple.
        *args: Sequences of one length.
        **kwargs: The same for every call.

    Returns:
        For each item of the tuple, the list of its values.
    """
    return tuple(map(list, zip(*map(partial(func, **kwargs), *args), strict=True)))


def register_all_modules(init_default_scope: bool = True) -> None:
    """Do nothing: registries fill themselves, and there are no scopes to set.

    Args:
        init_default_scope: Ignored.
    """


IS_SPCONV2_AVAILABLE = False
"""Whether sparse convolution is spconv 2's: it is raydet3d's own."""


def replace_ceph_backend(cfg: T) -> T:
    """Return a config as it is: files are read from local and mounted paths."""
    return cfg
