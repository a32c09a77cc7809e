"""Reading info files (the index of a data set) without trusting them, and the old layout turned into the new.

An info file is a pickle. A pickle may name any function and have it called, so this reader knows a short list
of names: plain containers, numpy arrays and numpy scalars. Everything else is refused by name.

Layouts: v2 is ``{metainfo: {categories, dataset, info_version}, data_list: [one dict per frame]}``; v1, from
before MMDetection3D 1.0, is a list of dicts with ``image``, ``point_cloud``, ``calib`` and ``annos``.
``KittiMetric`` and the data sets work with v2; what they read passes ``to_v2`` first.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy._core.multiarray import scalar as _numpy_scalar

from raydet3d.errors import InputError

KITTI_CATEGORIES = ("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc")
"""Names in the order of their numbers in a KITTI info file; DontCare is -1."""


def read_infos(path: str | Path) -> Any:
    """The content of an info file, as it was written (see ``to_v2``).

    Args:
        path: A pickle of plain containers, strings, numbers, numpy arrays and numpy scalars.

    Returns:
        Usually a dict (v2) or a list (v1).

    Raises:
        InputError: The file is not there, is damaged, or holds anything else; the message names the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such info file; make it with 'python -m raydet3d.data.prepare kitti {Path(path).parent}'"
        ) from None
    except _RefusedName as error:
        raise InputError(
            f"{path}: holds {error}, which is neither a plain container nor a numpy array; "
            "an info file with other objects is not read because loading it could run code"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: the info file cannot be read: {error.strerror or error}") from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        MemoryError,
        RecursionError,
        ImportError,
    ) as error:
        size = path.stat().st_size
        raise InputError(f"{path}: the info file is damaged ({size} bytes: {error}); prepare it again") from None


def to_v2(infos: Any, path: str | Path = "info file") -> dict[str, Any]:
    """Info content in the v2 layout; v2 comes back as it is, KITTI's v1 is converted.

    Names that are none of KITTI's eight categories (nor DontCare) get numbers after them, as they appear,
    so that a data set with classes of its own keeps them.

    Args:
        infos: What ``read_infos`` returned; left unchanged.
        path: Where it came from, for messages.

    Returns:
        A dict with ``metainfo`` and ``data_list``.

    Raises:
        InputError: It is neither layout, or a v1 frame lacks a key; the message names file, frame and key.
    """
    if isinstance(infos, Mapping):
        if "data_list" in infos:
            if not isinstance(infos["data_list"], list):
                raise InputError(f"{path}: 'data_list' must be a list, got {type(infos['data_list']).__name__}")
            return {"metainfo": {}, **infos}
        raise InputError(
            f"{path}: not a v2 info file (no 'data_list'; keys: {', '.join(map(str, list(infos)[:8]))}); "
            "only KITTI's v1 infos, a list, are converted"
        )
    if not isinstance(infos, list):
        raise InputError(f"{path}: an info file holds a dict (v2) or a list (v1), got {type(infos).__name__}")
    categories = {name: number for number, name in enumerate(KITTI_CATEGORIES)} | {"DontCare": -1}
    data_list = []
    for number, frame in enumerate(infos):
        try:
            data_list.append(_frame_to_v2(frame, categories))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            what = f"has no key {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
            raise InputError(f"{path}: frame {number} of a v1 KITTI info list {what}") from None
    return {
        "metainfo": {"categories": categories, "dataset": "kitti", "info_version": "1.1"},
        "data_list": data_list,
    }


def check_backend(backend_args: Mapping[str, Any] | None) -> None:
    """Refuse a storage that is not the local one; ``backend_args=None`` is."""
    name = (backend_args or {}).get("backend", "local")
    if str(name).lower() not in ("local", "disk", "harddisk", "localbackend"):
        raise InputError(
            f"backend_args: backend {name!r} is not known here; files are read from local or mounted paths"
        )


class _RefusedName(Exception):
    """A global that the reader does not know."""


def _new_array(_kind: object, _shape: object, _typecode: object) -> np.ndarray[Any, Any]:
    """An empty array to be filled by its pickled state, whatever subclass the file asked for."""
    return np.ndarray((0,), np.int8)


def _array_from_buffer(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> np.ndarray[Any, Any]:
    """An array from raw bytes, as protocol 5 writes it."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order).copy(order=order)


def _scalar(dtype: np.dtype[Any], raw: bytes) -> Any:
    """A numpy number or string from its bytes."""
    if dtype.hasobject:
        raise _RefusedName("a numpy scalar of Python objects")
    return _numpy_scalar(dtype, raw)


def _dtype(code: str, *_flags: bool) -> np.dtype[Any]:
    """A dtype from its short code; a fresh one, since its byte order is set on it afterwards."""
    return np.dtype(code, False, True)


def _encode(text: str, codec: str = "latin1") -> bytes:
    """Bytes as protocols before 3 write them."""
    if codec not in ("latin1", "latin-1"):
        raise _RefusedName(f"an encoding by {codec!r}")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler whose world is ``KNOWN``."""

    KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
        ("builtins", "set"): set,
        ("builtins", "frozenset"): frozenset,
        ("builtins", "bytes"): bytes,
        ("builtins", "bytearray"): bytearray,
        ("builtins", "complex"): complex,
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "ndarray"): _new_array,
        ("numpy", "dtype"): _dtype,
        ("numpy.core.multiarray", "_reconstruct"): _new_array,
        ("numpy._core.multiarray", "_reconstruct"): _new_array,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _array_from_buffer,
        ("_codecs", "encode"): _encode,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """The thing of a name in the file, if it is a known one."""
        # Python 2 pickles name the builtins' old home.
        known = self.KNOWN.get(("builtins" if module == "__builtin__" else module, name))
        if known is None:
            raise _RefusedName(f"'{module}.{name}'")
        return known


def _frame_to_v2(frame: Mapping[str, Any], categories: dict[str, int]) -> dict[str, Any]:
    """One frame of a v1 list; names that are new are entered into ``categories``."""
    image, cloud = frame["image"], frame["point_cloud"]
    calib = {name: _square(matrix) for name, matrix in frame["calib"].items()}
    lidar2cam = calib["R0_rect"] @ calib["Tr_velo_to_cam"]
    images: dict[str, Any] = {}
    for number in range(4):
        if f"P{number}" in calib:
            projection = calib[f"P{number}"]
            images[f"CAM{number}"] = {
                "cam2img": projection.tolist(),
                "lidar2img": (projection @ lidar2cam).tolist(),
            }
    height, width = (int(side) for side in image["image_shape"][:2])
    images["CAM2"] |= {
        "img_path": Path(str(image["image_path"])).name,
        "height": height,
        "width": width,
        "lidar2cam": lidar2cam.tolist(),
    }
    images["R0_rect"] = calib["R0_rect"].tolist()
    lidar = {
        "num_pts_feats": int(cloud.get("num_features", 4)),
        "lidar_path": Path(str(cloud["velodyne_path"])).name,
        "Tr_velo_to_cam": calib["Tr_velo_to_cam"].tolist(),
    }
    if "Tr_imu_to_velo" in calib:
        lidar["Tr_imu_to_velo"] = calib["Tr_imu_to_velo"].tolist()
    out: dict[str, Any] = {"sample_idx": int(image["image_idx"]), "images": images, "lidar_points": lidar}
    if frame.get("plane") is not None:
        out["plane"] = frame["plane"]
    if frame.get("annos") is not None:
        out["instances"] = _instances_to_v2(frame["annos"], calib["P2"], categories)
    return out


def _instances_to_v2(
    annos: Mapping[str, Any], cam2img: np.ndarray[Any, Any], categories: dict[str, int]
) -> list[dict[str, Any]]:
    """The objects of a v1 frame; boxes stay in the camera's frame (x, y, z of the bottom, l, h, w, ry)."""
    count = len(annos["name"])
    location = np.asarray(annos["location"], float).reshape(count, 3)
    size = np.asarray(annos["dimensions"], float).reshape(count, 3)  # l, h, w
    centre = location - size * [0.0, 0.5, 0.0]
    u, v, depth = cam2img[:3, :3] @ centre.T + cam2img[:3, 3:4]
    depth = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    boxes = np.concatenate([location, size, np.asarray(annos["rotation_y"], float).reshape(count, 1)], 1)

    def column(name: str, default: list[Any]) -> list[Any]:
        return np.asarray(annos[name]).tolist() if annos.get(name) is not None else default

    index = column("index", list(range(count)))
    group = column("group_ids", list(range(count)))
    score = column("score", [0.0] * count)
    points = column("num_points_in_gt", [-1] * count)
    bbox, alpha = column("bbox", []), column("alpha", [])
    truncated, occluded = column("truncated", []), column("occluded", [])
    difficulty = column("difficulty", kitti_difficulty(bbox, truncated, occluded).tolist())
    out = []
    for i, name in enumerate(map(str, annos["name"])):
        label = categories.setdefault(name, sum(number >= 0 for number in categories.values()))
        out.append(
            {
                "bbox": [float(side) for side in bbox[i]],
                "bbox_label": label,
                "bbox_3d": boxes[i].tolist(),
                "bbox_label_3d": label,
                "depth": float(depth[i]),
                "center_2d": [float(u[i] / depth[i]), float(v[i] / depth[i])],
                "num_lidar_pts": int(points[i]),
                "difficulty": int(difficulty[i]),
                "truncated": float(truncated[i]),
                "occluded": int(occluded[i]),
                "alpha": float(alpha[i]),
                "score": float(score[i]),
                "index": int(index[i]),
                "group_id": int(group[i]),
            }
        )
    return out


def kitti_difficulty(bbox: Any, truncated: Any, occluded: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """KITTI's difficulty of labelled objects, by height in the image, occlusion and truncation.

    Args:
        bbox: (K, 4) boxes in the image, pixels.
        truncated: (K,) share that is cut off by the image's border.
        occluded: (K,) 0 visible, 1 partly, 2 largely hidden, 3 unknown.

    Returns:
        (K,) 0 easy, 1 moderate, 2 hard, -1 none of them.
    """
    bbox = np.asarray(bbox, float).reshape(-1, 4)
    truncated, occluded = np.asarray(truncated, float), np.asarray(occluded, float)
    height = bbox[:, 3] - bbox[:, 1]
    out = np.full(len(bbox), -1, np.int64)
    # From hard to easy, so that the easiest that fits stays.
    for level, tall, hidden, cut in ((2, 25, 2, 0.5), (1, 25, 1, 0.3), (0, 40, 0, 0.15)):
        out[(height > tall) & (occluded <= hidden) & (truncated <= cut)] = level
    return out


def _square(matrix: Any) -> np.ndarray[Any, Any]:
    """A 3x3 or 3x4 calibration matrix padded to 4x4."""
    matrix = np.asarray(matrix, float)
    out = np.eye(4)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out
