"""Base class of the data sets: from an info file to samples."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from raydet3d.config import ConfigDict, ConfigValue, PartCfg
from raydet3d.data.paths import inside, join, require
from raydet3d.data.pipeline import Compose, Sample, TransformLike
from raydet3d.dist import is_main_process
from raydet3d.errors import InputError
from raydet3d.info_file import FrameInfo, InfoFrames, InfoRecord, check_backend, open_infos
from raydet3d.log import get_logger
from raydet3d.registry import DATASETS, check_constructor
from raydet3d.structures import Boxes3D, get_box_type

Item = TypeVar("Item")

# Key in an info file -> key in a sample's annotation, and dtype. Other keys keep their name.
_ANNOTATION = {
    "bbox_3d": ("gt_bboxes_3d", np.float32),
    "bbox_label_3d": ("gt_labels_3d", np.int64),
    "bbox": ("gt_bboxes", np.float32),
    "bbox_label": ("gt_bboxes_labels", np.int64),
    "depth": ("depths", np.float32),
    "center_2d": ("centers_2d", np.float32),
    "attr_label": ("attr_labels", np.int64),
    "velocity": ("velocities", np.float32),
}


class Samples(Protocol):
    """Samples before the pipeline."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Sample:
        """Return a new copy of a sample; a negative index counts from the end."""


class SerializedList:
    """A list in one buffer of pickles, which forked loader workers share without touching reference counts.

    Args:
        items: Picklable items; each access returns a new copy.
    """

    def __init__(self, items: Iterable[Sample]) -> None:
        blobs = [pickle.dumps(item, protocol=5) for item in items]
        self._ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
        self._buffer = b"".join(blobs)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Sample:
        size = len(self._ends)
        if not -size <= index < size:
            raise IndexError(f"sample {index} of a data set of {size}")
        index %= size
        begin = self._ends[index - 1] if index else 0
        sample: Sample = pickle.loads(memoryview(self._buffer)[begin : self._ends[index]])
        return sample


class ParsedFrames:
    """Frames of an info file, read and parsed when they are accessed.

    Args:
        frames: The frames.
        parse: Turns the frame with a number into a sample.
        kept: Numbers of the frames that are samples.
    """

    def __init__(self, frames: InfoFrames, parse: Callable[[int, FrameInfo], Sample], kept: Sequence[int]) -> None:
        self._frames = frames
        self._parse = parse
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self._parse(self._number(index), self.frame(index))

    def frame(self, index: int) -> FrameInfo:
        """Return the frame of a sample, before it is parsed."""
        frame: FrameInfo = self._frames[self._number(index)]
        return frame

    def _number(self, index: int) -> int:
        if not -len(self._kept) <= index < len(self._kept):
            raise IndexError(f"sample {index} of a data set of {len(self._kept)}")
        return self._kept[index]


class Det3DDatasetArguments(TypedDict, total=False):
    """Arguments of `Det3DDataset` besides the first two, for subclasses that hand them on."""

    metainfo: Mapping[str, ConfigValue] | None
    data_prefix: Mapping[str, str] | None
    pipeline: Sequence[PartCfg | TransformLike]
    modality: Mapping[str, bool] | None
    default_cam_key: str | None
    box_type_3d: str
    filter_empty_gt: bool
    test_mode: bool
    load_eval_anns: bool
    indices: int | Sequence[int] | None
    lazy_init: bool
    serialize_data: bool
    max_refetch: int
    backend_args: PartCfg | None
    load_type: str
    pcd_limit_range: Sequence[float] | None
    show_ins_var: bool
    filter_cfg: PartCfg | None


@DATASETS.register_module()
class Det3DDataset(Dataset[Any]):
    """A 3D detection data set described by an info file in the v2 layout.

    A training sample without objects, before or after the pipeline, is replaced by another one, drawn from the
    generators seeded for the sample. `parse_data_info` and `parse_ann_info` may be overridden, as in MMDetection3D;
    instances whose boxes are in the LiDAR frame (bottom centre) need no subclass.

    Args:
        ann_file: Info file, relative to `data_root`.
        data_root: Folder of the data set; files named in the info file must be inside of it.
        metainfo: `classes` to train on, in the order of their labels (`CLASSES`, as configs before MMDetection3D 1.1
            spell it, is the same); the class's own by default.
        data_prefix: Folders of the clouds (`pts`) and images (`img`), relative to `data_root`.
        pipeline: Configs of the transforms.
        modality: `use_lidar`, `use_camera`: which sensors the pipeline may ask for.
        default_cam_key: Camera whose calibration each sample holds; the class's `DEFAULT_CAM_KEY` by default.
        box_type_3d: Frame of the boxes: LiDAR, Camera or Depth.
        filter_empty_gt: Replace training samples without objects.
        test_mode: Annotations go to `eval_ann_info`, nothing is replaced.
        load_eval_anns: Give `eval_ann_info` in test mode.
        indices: Use a part: the first so many (the last, if negative), or the samples of a list.
        lazy_init: Do not read the info file until it is needed.
        serialize_data: Accepted; frames are read from the info file's cache when they are needed.
        max_refetch: Replacements to try before giving up.
        backend_args: Where files are; None or the local disk.
        load_type: Accepted when it is `frame_based`.
        pcd_limit_range: Accepted; the metric has its own.
        show_ins_var: Accepted; objects are not counted while samples are made.
        filter_cfg: For a subclass whose `filter_data` reads it; else it must be empty.
    """

    METAINFO: ClassVar[dict[str, Any]] = {}
    DEFAULT_CAM_KEY: ClassVar[str | None] = None
    HINT: ClassVar[str] = "check data_root and ann_file of the config"
    """What to do when data is missing; `{root}` is the data root."""

    def __init__(
        self,
        ann_file: str = "",
        data_root: str = "",
        metainfo: Mapping[str, ConfigValue] | None = None,
        data_prefix: Mapping[str, str] | None = None,
        pipeline: Sequence[PartCfg | TransformLike] = (),
        modality: Mapping[str, bool] | None = None,
        default_cam_key: str | None = None,
        box_type_3d: str = "LiDAR",
        filter_empty_gt: bool = True,
        test_mode: bool = False,
        load_eval_anns: bool = True,
        indices: int | Sequence[int] | None = None,
        lazy_init: bool = False,
        serialize_data: bool = True,
        max_refetch: int = 1000,
        backend_args: PartCfg | None = None,
        load_type: str = "frame_based",
        pcd_limit_range: Sequence[float] | None = None,
        show_ins_var: bool = False,
        filter_cfg: PartCfg | None = None,
    ) -> None:
        check_backend(backend_args)
        if filter_cfg and type(self).filter_data is Det3DDataset.filter_data:
            raise InputError(f"{type(self).__name__}: filter_cfg={dict(filter_cfg)!r}: set filter_empty_gt instead")
        if load_type != "frame_based":
            raise InputError(f"{type(self).__name__}: load_type is {load_type!r}; only 'frame_based' is known")
        self.filter_cfg = filter_cfg
        self.pcd_limit_range = pcd_limit_range
        self.data_root = data_root or ""
        self.ann_file = join(self.data_root, ann_file) if ann_file else ""
        self.data_prefix = {key: join(self.data_root, folder) for key, folder in (data_prefix or {}).items() if folder}
        self.modality = {"use_lidar": True, "use_camera": False, **(modality or {})}
        for key in self.modality:
            if not key.startswith("use_"):
                raise InputError(f"{type(self).__name__}: modality has no {key!r}; known: use_lidar, use_camera")
        self.default_cam_key = default_cam_key or self.DEFAULT_CAM_KEY
        self.box_type_3d, self.box_mode_3d = get_box_type(box_type_3d)
        self.filter_empty_gt = filter_empty_gt
        self.test_mode = test_mode
        self.load_eval_anns = load_eval_anns
        self.indices = indices
        self.max_refetch = max_refetch
        old = {"CLASSES": "classes", "PALETTE": "palette"}
        self._metainfo = {**self.METAINFO, **{old.get(key, key): value for key, value in (metainfo or {}).items()}}
        for key in old.values():
            if key in self._metainfo:
                self._metainfo[key] = tuple(self._metainfo[key])
        self._label_of: dict[int, int] = {}
        self.data_list: list[Sample] = []
        self._data: Samples | None = None
        self._reported: set[str] = set()
        self.pipeline = Compose(pipeline)
        if not lazy_init:
            self.full_init()

    @classmethod
    def check_data(cls, cfg: ConfigDict) -> None:
        """Check before a run that the files and folders of a config exist.

        Args:
            cfg: The data set's config.

        Raises:
            InputError: Root, info file or a folder does not exist (the message says how to make it), or an argument is
                unknown.
        """
        check_constructor(DATASETS, cls, {key: value for key, value in cfg.items() if key not in ("type", "_scope_")})
        root = cfg.get("data_root") or ""
        hint = cls.HINT.format(root=root or ".")
        if root:
            require(root, what=f"{cls.__name__}: data_root", hint=hint)
        if cfg.get("ann_file"):
            require(join(root, cfg["ann_file"]), what=f"{cls.__name__}: ann_file", hint=hint)
        for kind, folder in (cfg.get("data_prefix") or {}).items():
            if folder:
                require(join(root, folder), what=f"{cls.__name__}: data_prefix[{kind!r}]", hint=hint)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Return a copy of the meta information: `classes`, and what class, config and info file add."""
        return dict(self._metainfo)

    def __len__(self) -> int:
        return len(self._loaded())

    def full_init(self) -> None:
        """Read the info file and let the pipeline load what loader workers share; only the first call does anything."""
        if self._data is None:
            if self._has_own_parsing():
                self.data_list = self.load_data_list()
                self._data = SerializedList(map(self._without_box_objects, self._subset(self.filter_data())))
                self.data_list = []
            else:
                frames = self._open_frames()
                self._data = ParsedFrames(frames, self._parse_one, self._subset(range(len(frames))))
            self.pipeline.warm_up(self.get_data_info(0) if len(self._data) else None)

    def _has_own_parsing(self) -> bool:
        """Return whether a subclass loads or filters all frames, or one outside of this package parses them."""
        kind = type(self)
        base = Det3DDataset
        if kind.load_data_list is not base.load_data_list or kind.filter_data is not base.filter_data:
            return True
        return not all(m.__module__.startswith("raydet3d.") for m in (kind.parse_data_info, kind.parse_ann_info))

    def disable_transform(self, type_name: str, from_epoch: int) -> int:
        """Skip the transforms of a type from an epoch on (counted from 0); return how many there are."""
        return self.pipeline.disable_transform(type_name, from_epoch)

    def _loaded(self) -> Samples:
        self.full_init()
        assert self._data is not None
        return self._data

    def _subset(self, items: Sequence[Item]) -> Sequence[Item]:
        if self.indices is None:
            return items
        if isinstance(self.indices, int):
            return items[: self.indices] if self.indices >= 0 else items[self.indices :]
        return [items[index] for index in self.indices]

    def filter_data(self) -> list[Sample]:
        """Return the parsed frames (`self.data_list`) to keep: all of them; for subclasses."""
        return self.data_list

    def _without_box_objects(self, sample: Sample) -> Sample:
        """Replace boxes of the data set's type by arrays, which are unpickled faster; `get_data_info` restores them."""
        for key in ("ann_info", "eval_ann_info"):
            annotation: dict[str, Any] = sample.get(key) or {}
            boxes = annotation.get("gt_bboxes_3d")
            if isinstance(boxes, Boxes3D) and type(boxes) is self.box_type_3d and boxes.with_yaw:
                annotation["gt_bboxes_3d"] = boxes.numpy()
        return sample

    def load_data_list(self) -> list[Sample]:
        """Read the info file and parse each frame."""
        samples: list[Sample] = []
        for number, info in enumerate(self._open_frames(check=False)):
            parsed = self._parse(number, info)
            samples += parsed if isinstance(parsed, list) else [parsed]
        return samples

    def _open_frames(self, *, check: bool = True) -> InfoFrames:
        """Open the info file and take its metainfo.

        Args:
            check: Parse all frames once where the file itself was read, so that damage is found before training.
        """
        frames = open_infos(self.ann_file, hint=self._hint)
        found = frames.metainfo
        self._add_metainfo(found)
        self.set_categories(found.get("categories"))
        for number, info in enumerate(frames if check and frames.is_new else ()):
            self._parse(number, info)
        return frames

    def _add_metainfo(self, found: Mapping[str, ConfigValue]) -> None:
        """Add what the info file says; the config and the class come first."""
        for key, value in found.items():
            self._metainfo.setdefault(key, value)

    def _parse(self, number: int, info: FrameInfo) -> Sample | list[Sample]:
        """Parse a frame; a malformed one is an `InputError`."""
        try:
            return self.parse_data_info(info)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            what = f"has no key {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
            raise InputError(f"{self.ann_file}: frame {number} of data_list {what}") from error

    def _parse_one(self, number: int, info: FrameInfo) -> Sample:
        parsed = self._parse(number, info)
        assert not isinstance(parsed, list)
        return self._without_box_objects(parsed)

    def set_categories(self, categories: Mapping[str, int] | Sequence[str] | None) -> None:
        """Map an info file's category numbers to labels, from here on; objects of other categories are left out.

        Args:
            categories: Number of each name, or the names in the order of their numbers; None: the class's own.

        Raises:
            InputError: One of `metainfo.classes` is no category.
        """
        if categories is None:
            categories = self.METAINFO.get("classes", self._metainfo.get("classes", ()))
        if not isinstance(categories, Mapping):
            categories = {name: number for number, name in enumerate(categories or ())}
        classes = self._metainfo.setdefault("classes", tuple(name for name, n in categories.items() if n >= 0))
        known = {*categories, *self.METAINFO.get("classes", ())}
        for name in classes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known))}"
                raise InputError(f"metainfo.classes: {self.ann_file} has no class {name!r}; {hint}")
            if name not in categories and is_main_process():
                get_logger().warning(
                    "%s: its categories lack %r, so no object of that class is read", self.ann_file, name
                )
        self._label_of = {
            categories[name]: label for label, name in enumerate(classes) if categories.get(name, -1) >= 0
        }

    def parse_data_info(self, info: FrameInfo) -> Sample | list[Sample]:
        """Turn a frame of the info file into the pipeline's first sample."""
        sample: Sample = dict(info)
        for key in ("instances", "cam_instances"):
            sample.pop(key, None)
        if self.modality["use_lidar"]:
            points = dict(info["lidar_points"])
            path = inside(self._folder("pts"), str(points["lidar_path"]), source=self.ann_file)
            points["lidar_path"] = path
            sample |= {"lidar_points": points, "lidar_path": path, "num_pts_feats": points.get("num_pts_feats")}
            if "lidar_sweeps" in info:
                sample["lidar_sweeps"] = [self._parse_sweep(sweep) for sweep in info["lidar_sweeps"]]
        camera = (info.get("images") or {}).get(str(self.default_cam_key))
        if isinstance(camera, Mapping):
            for key in ("lidar2cam", "cam2img", "lidar2img"):
                if key in camera:
                    sample[key] = np.array(camera[key], dtype=np.float64)  # type: ignore[literal-required]
            if camera.get("img_path") and "img" in self.data_prefix:
                sample["img_path"] = inside(self._folder("img"), str(camera["img_path"]), source=self.ann_file)
            if "height" in camera and "width" in camera:
                sample["ori_shape"] = (int(camera["height"]), int(camera["width"]))
        elif views := {name: one for name, one in (info.get("images") or {}).items() if name in self.data_prefix}:
            # All cameras, for drawing.
            sample["img_path"] = [
                inside(self._folder(name), str(one["img_path"]), source=self.ann_file) for name, one in views.items()
            ]
            for key in ("lidar2cam", "cam2img"):
                sample[key] = [np.array(one[key], dtype=np.float64) for one in views.values()]  # type: ignore[literal-required]
        if not self.test_mode:
            sample["ann_info"] = self.parse_ann_info(info)
        elif self.load_eval_anns and info.get("instances") is not None:
            sample["eval_ann_info"] = self.parse_ann_info(info)
        return sample

    def _parse_sweep(self, sweep: InfoRecord) -> Sample:
        """Return a sweep with the path of its cloud: by file name, in the folder of sweeps or in that of keyframes."""
        points = dict(sweep["lidar_points"])
        *folders, name = str(points["lidar_path"]).replace("\\", "/").split("/")
        folder = self._folder("pts" if folders[-2:-1] == ["samples"] else "sweeps")
        points["lidar_path"] = inside(folder, name, source=self.ann_file)
        return {**sweep, "lidar_points": points}

    def parse_ann_info(self, info: FrameInfo) -> dict[str, Any]:
        """Turn a frame's instances into arrays, without those of classes that are not trained."""
        instances = info.get("instances") or []
        annotation: dict[str, NDArray[Any]] = {
            "gt_bboxes_3d": np.zeros((0, 7), np.float32),
            "gt_labels_3d": np.zeros(0, np.int64),
            "gt_bboxes": np.zeros((0, 4), np.float32),
            "gt_bboxes_labels": np.zeros(0, np.int64),
        }
        for key in instances[0] if instances else ():
            name, dtype = _ANNOTATION.get(key, (key, None))
            column = np.array([instance[key] for instance in instances], dtype=dtype)  # type: ignore[literal-required]
            if key in ("bbox_label_3d", "bbox_label"):
                column = np.array([self._label_of.get(int(label), -1) for label in column], dtype=np.int64)
            annotation[name] = column
        keep = annotation["gt_labels_3d"] >= 0
        # One such box would make every loss of its frame infinite or NaN.
        boxes = annotation["gt_bboxes_3d"]
        bad = keep & ~((boxes[:, 3:6] > 0).all(1) & np.isfinite(boxes).all(1))
        if bad.any():
            frame = str(info.get("sample_idx"))
            if frame not in self._reported:  # frames are parsed whenever they are accessed
                self._reported.add(frame)
                get_logger().warning(
                    "%s: frame %s has %d boxes whose size is not above 0 or that are not finite; they are left out",
                    self.ann_file,
                    frame,
                    bad.sum(),
                )
            keep &= ~bad
        return {name: column[keep] for name, column in annotation.items() if len(column) == len(keep)}

    @property
    def _hint(self) -> str:
        return self.HINT.format(root=self.data_root or ".")

    def _folder(self, kind: str) -> str:
        return self.data_prefix.get(kind, self.data_root)

    def get_cat_ids(self, index: int) -> set[int]:
        """Return the labels of a training sample's objects."""
        samples = self._loaded()
        if isinstance(samples, ParsedFrames):  # without its clouds and cameras
            annotation = self.parse_ann_info(samples.frame(int(index)))
        else:
            annotation = samples[int(index)]["ann_info"]
        return {int(label) for label in annotation["gt_labels_3d"]}

    def get_data_info(self, index: int) -> Sample:
        """Return a new copy of the pipeline's first sample, boxes as an object of `box_type_3d`."""
        sample: Sample = self._loaded()[int(index)]
        for key in ("ann_info", "eval_ann_info"):
            annotation = sample.get(key)
            if annotation is not None and isinstance(annotation.get("gt_bboxes_3d"), np.ndarray):
                boxes: NDArray[np.float32] = annotation["gt_bboxes_3d"]
                annotation["gt_bboxes_3d"] = self.box_type_3d(boxes, box_dim=boxes.shape[-1])
        sample["box_type_3d"] = self.box_type_3d
        sample["box_mode_3d"] = self.box_mode_3d
        return sample

    def prepare_data(self, index: int) -> Any:
        """Run a sample through the pipeline; None if it is a training sample without objects."""
        sample = self.get_data_info(index)
        if self.test_mode or not self.filter_empty_gt:
            return self.pipeline(sample)
        if not len(sample["ann_info"]["gt_labels_3d"]):
            return None
        made = self.pipeline(sample)
        return None if made is None or _is_empty(made) else made

    def __getitem__(self, index: int) -> Any:
        """Return a sample; a training sample without objects is replaced."""
        made = self.prepare_data(index)
        if made is not None:
            return made
        if self.test_mode:
            raise InputError(f"{type(self).__name__}: the test pipeline returned no sample for index {index}")
        for _ in range(self.max_refetch):
            made = self.prepare_data(int(np.random.randint(len(self))))
            if made is not None:
                return made
        raise InputError(
            f"{type(self).__name__}: no training sample with an object in {self.max_refetch} draws from "
            f"{self.ann_file}; check metainfo.classes={list(self._metainfo.get('classes', ()))} and the ranges of the "
            "filters, or set filter_empty_gt=False"
        )


def _is_empty(made: Sample | list[Sample]) -> bool:
    """Return whether a packed sample has ground truth without any object."""
    packed = made.get("data_samples") if isinstance(made, Mapping) else None
    instances = packed.get("gt_instances_3d") if packed is not None else None
    labels = instances.get("labels_3d") if instances is not None else None
    return labels is not None and len(labels) == 0


def check_dataset(cfg: PartCfg) -> None:
    """Let the data set of a config check, or generate, its data; a type without `check_data` has nothing to check.

    Args:
        cfg: Config of a data set or of a wrapper around some.
    """
    kind = cfg.get("type")
    found = DATASETS.get(kind) if isinstance(kind, str) else kind
    if found is not None and hasattr(found, "check_data"):
        found.check_data(cfg)
