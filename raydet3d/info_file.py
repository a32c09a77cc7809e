"""Read info files (the index of a data set) without running their code, in one layout.

An info file is a pickle, and a pickle may name any function to be called. The reader accepts plain containers, numpy
arrays and numpy scalars, and refuses everything else by name.

The layout is MMDetection3D's v2: `{metainfo: {categories, dataset, info_version}, data_list: [one dict per frame]}`.
Older layouts differ between data sets: each data set registers an `InfoFormat` that converts its own.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from numpy._core.multiarray import scalar as _numpy_scalar
from numpy.typing import NDArray

from raydet3d import __version__
from raydet3d.array_cache import ArrayWriter, CachedArrays, open_cached
from raydet3d.errors import InputError
from raydet3d.registry import Registry


class CameraInfo(TypedDict, total=False):
    """A camera of a frame; matrices as nested lists or arrays."""

    img_path: str
    height: int
    width: int
    cam2img: npt.ArrayLike
    lidar2cam: npt.ArrayLike
    lidar2img: npt.ArrayLike


class LidarInfo(TypedDict, total=False):
    """The point cloud of a frame."""

    lidar_path: str
    num_pts_feats: int


class Instance(TypedDict, total=False):
    """An object of a frame; data sets add keys of their own."""

    bbox: list[float]
    bbox_label: int
    bbox_3d: list[float]
    bbox_label_3d: int
    depth: float
    center_2d: list[float]
    num_lidar_pts: int
    difficulty: int
    truncated: float
    occluded: int
    alpha: float
    score: float
    index: int
    group_id: int


class FrameInfo(TypedDict, total=False):
    """A frame of an info file; data sets add keys of their own."""

    sample_idx: int | str
    images: Mapping[str, CameraInfo]
    lidar_points: LidarInfo
    lidar_sweeps: list[Any]
    instances: list[Instance] | None
    plane: npt.ArrayLike | None


class Infos(TypedDict):
    """Content of an info file in the v2 layout."""

    metainfo: dict[str, Any]
    data_list: list[Any]
    """Frames: each a `FrameInfo` with keys of its data set."""


InfoRecord = Mapping[str, Any]
"""A frame of an info file, or a part of one."""

INFO_FORMATS = Registry("info format", home="raydet3d.data.datasets")
"""Formats by the name of their data set. A registry, because metrics read info files too and must not import `data`."""


class AnnotatedObjects(TypedDict):
    """Annotated objects of many frames, in the global frame: K rows.

    `frame`: (K,) index of the frame; `name`: (K,) class; `translation`: (K, 3) centre, metres; `size`: (K, 3) width,
    length, height; `rotation`: (K, 4) quaternion w, x, y, z; `velocity`: (K, 2) metres a second, NaN where it is not
    known; `attribute`: (K,) name, empty without one; `num_points`: (K,) points of all sensors.
    """

    frame: NDArray[np.int64]
    name: NDArray[np.str_]
    translation: NDArray[np.float64]
    size: NDArray[np.float64]
    rotation: NDArray[np.float64]
    velocity: NDArray[np.float64]
    attribute: NDArray[np.str_]
    num_points: NDArray[np.int64]


class InfoFormat:
    """What is specific to the info files of one data set."""

    categories: ClassVar[tuple[str, ...]] = ()
    """Names in the order of their numbers in an info file."""

    @staticmethod
    def is_older_layout(content: object) -> bool:
        """Return whether a file's content is an older layout of this data set, which `convert` understands."""
        return False

    @classmethod
    def convert(cls, content: Any, path: str | Path) -> Infos:
        """Convert an older layout to v2.

        Args:
            content: What `read_infos` returned; not changed.
            path: Its file, for messages.

        Raises:
            InputError: A frame lacks a key or is malformed; the message names file, frame and key.
        """
        raise NotImplementedError

    @classmethod
    def read_ground_truth(cls, root: Path, version: str, frame_tokens: Sequence[str]) -> AnnotatedObjects:
        """Read what a metric needs and the info files lack, from the data set's own files.

        Args:
            root: The data set's folder.
            version: Version of the data.
            frame_tokens: Tokens of the frames.

        Raises:
            InputError: Files are missing or damaged, or are not those of the frames.
        """
        raise NotImplementedError


def info_format(dataset: str) -> type[InfoFormat]:
    """Return the info format of a data set ("kitti")."""
    found = INFO_FORMATS.get(dataset)
    assert isinstance(found, type)
    assert issubclass(found, InfoFormat)
    return found


def read_infos(path: str | Path, *, hint: str = "") -> Any:
    """Read an info file as it was written (`to_v2` converts it to the one layout).

    Args:
        path: A pickle of plain containers, strings, numbers, numpy arrays and numpy scalars.
        hint: What to do when there is no such file.

    Returns:
        Usually a dict (v2) or a list (KITTI's v1).

    Raises:
        InputError: The file does not exist, is damaged, or holds anything else; the message names the file.
    """
    path = Path(path)
    if "\0" in str(path):
        raise InputError(f"the path {str(path)!r} holds a NUL character")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except FileNotFoundError:
        hint = hint or "'python -m raydet3d.data.prepare --help' lists the data sets whose info files it makes"
        raise InputError(f"{path}: no such info file; {hint}") from None
    except _RefusedName as error:
        raise InputError(
            f"{path}: holds {error}, which is neither a plain container nor a numpy array; "
            "an info file with other objects is not read because loading it could run code"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: the info file cannot be read: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001 - reading damaged bytes may raise nearly anything
        size = path.stat().st_size
        raise InputError(f"{path}: the info file is damaged ({size} bytes: {error}); prepare it again") from None


def read_plain_pickle(data: bytes) -> Any:
    """Read a pickle of plain containers, strings, numbers, numpy arrays and numpy scalars.

    Raises:
        InputError: It holds anything else, or is damaged.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # noqa: BLE001 - reading damaged bytes may raise nearly anything
        raise InputError(f"a pickle cannot be read: {error}") from None


def to_v2(infos: object, path: str | Path = "info file") -> Infos:
    """Return info content in the v2 layout; an older layout is converted by its data set's `InfoFormat`.

    Args:
        infos: What `read_infos` returned; not changed.
        path: Its file, for messages.

    Raises:
        InputError: No known layout, or a malformed one; the message names the file.
    """
    if isinstance(infos, Mapping) and "data_list" in infos:
        if not isinstance(infos["data_list"], list):
            raise InputError(f"{path}: 'data_list' must be a list, got {type(infos['data_list']).__name__}")
        return {"metainfo": {}, **infos}  # type: ignore[typeddict-item]
    for name in INFO_FORMATS:
        known = info_format(name)
        if known.is_older_layout(infos):
            return known.convert(infos, path)
    if isinstance(infos, Mapping):
        raise InputError(
            f"{path}: not a v2 info file (no 'data_list'; keys: {', '.join(map(str, list(infos)[:8]))}), nor an older "
            f"layout of {', '.join(INFO_FORMATS)}"
        )
    raise InputError(f"{path}: an info file holds a dict with 'data_list', got {type(infos).__name__}")


class InfoFrames:
    """Frames of an info file in the v2 layout, each read when it is accessed: a new copy every time.

    Args:
        arrays: `frames`, bytes of a pickle for each frame; `ends`, where each ends; `rest`, the pickle of what else the
            file holds.
        path: The info file, for messages.
    """

    def __init__(self, arrays: CachedArrays, path: Path) -> None:
        self.path = path
        self._arrays = arrays

    @property
    def is_new(self) -> bool:
        """Whether this process has just read the info file itself, not its cache."""
        return self._arrays.is_new

    @property
    def metainfo(self) -> dict[str, Any]:
        """Return a copy of the file's `metainfo`."""
        return dict(self._unpickle(self._arrays["rest"]).get("metainfo") or {})

    def __len__(self) -> int:
        return len(self._arrays["ends"])

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Any:
        ends = self._arrays["ends"]
        if not -len(ends) <= index < len(ends):
            raise IndexError(f"frame {index} of {len(ends)}")
        index %= len(ends)
        return self._unpickle(self._arrays["frames"][ends[index - 1] if index else 0 : ends[index]])

    def _unpickle(self, data: NDArray[np.uint8]) -> Any:
        try:
            return _PlainUnpickler(io.BytesIO(data.data)).load()
        except Exception as error:  # noqa: BLE001 - reading damaged bytes may raise nearly anything
            raise InputError(
                f"{self._arrays.path}: the cache of the info file is damaged ({error}); delete it"
            ) from None


def open_infos(path: str | Path, *, hint: str = "") -> InfoFrames:
    """Open an info file through its cache, which the processes of a node share (see `raydet3d.array_cache`).

    Args:
        path: See `read_infos`; older layouts are converted.
        hint: What to do when there is no such file.

    Raises:
        InputError: See `read_infos` and `to_v2`.
    """

    def fill(writer: ArrayWriter) -> None:
        infos = to_v2(read_infos(path, hint=hint), path)
        ends: list[int] = []

        def pickles() -> Iterator[NDArray[np.uint8]]:
            for frame in infos["data_list"]:
                data = np.frombuffer(pickle.dumps(frame, protocol=5), np.uint8)
                ends.append((ends[-1] if ends else 0) + len(data))
                yield data

        byte = np.zeros(0, np.uint8)
        writer.add("frames", pickles(), like=byte)
        writer.add("ends", [np.array(ends, np.int64)], like=np.zeros(0, np.int64))
        rest = {key: value for key, value in infos.items() if key != "data_list"}
        writer.add("rest", [np.frombuffer(pickle.dumps(rest, protocol=5), np.uint8)], like=byte)

    path = Path(path)
    if "\0" in str(path) or not path.is_file():
        read_infos(path, hint=hint)  # raises
    return InfoFrames(open_cached(path, f"infos 1, raydet3d {__version__}", fill), path)


def check_backend(backend_args: Mapping[str, object] | None) -> None:
    """Refuse storage back ends other than the local one (`backend_args=None`)."""
    name = (backend_args or {}).get("backend", "local")
    if str(name).lower() not in ("local", "disk", "harddisk", "localbackend", "harddiskbackend"):
        raise InputError(
            f"backend_args: backend {name!r} is not known here; files are read from local or mounted paths"
        )


class _RefusedName(Exception):
    """A global that the reader refuses."""


def _new_array(_kind: object, _shape: object, _typecode: object) -> np.ndarray[Any, Any]:
    """Return an empty array for `__setstate__`, whatever subclass the file names."""
    return np.ndarray((0,), np.int8)


def _array_from_buffer(
    buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]
) -> np.ndarray[Any, Any]:
    """Return an array from raw bytes, as protocol 5 writes it."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order).copy(order=order)


def _scalar(dtype: np.dtype[Any], raw: bytes) -> Any:
    """Return a numpy number or string from its bytes."""
    if dtype.hasobject:
        raise _RefusedName("a numpy scalar of Python objects")
    return _numpy_scalar(dtype, raw)


def _dtype(code: str, *_flags: bool) -> np.dtype[Any]:
    """Return a dtype from its short code; a new object, because its state is set afterwards."""
    return np.dtype(code, False, True)


def _encode(text: str, codec: str = "latin1") -> bytes:
    """Return bytes as protocols before 3 write them."""
    if codec not in ("latin1", "latin-1"):
        raise _RefusedName(f"an encoding by {codec!r}")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """Unpickle only what `KNOWN` lists."""

    KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
        ("builtins", "set"): set,
        ("builtins", "frozenset"): frozenset,
        ("builtins", "bytes"): bytes,
        ("builtins", "bytearray"): bytearray,
        ("builtins", "complex"): complex,
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "ndarray"): _new_array,
        ("numpy", "dtype"): _dtype,
        ("numpy._core.multiarray", "_reconstruct"): _new_array,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("numpy._core.numeric", "_frombuffer"): _array_from_buffer,
        ("_codecs", "encode"): _encode,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement for a global that the file names, or refuse it."""
        # Python 2 and numpy 1 named the modules differently.
        current = {"__builtin__": "builtins"}.get(module, module.replace("numpy.core.", "numpy._core."))
        known = self.KNOWN.get((current, name))
        if known is None:
            raise _RefusedName(f"'{module}.{name}'")
        return known
