"""`KittiMetric`: KITTI's average precision of a detector's predictions, a table, and result files."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch

from raydet3d.config import PartCfg
from raydet3d.errors import InputError
from raydet3d.info_file import CameraInfo, FrameInfo, InfoFrames, check_backend, info_format, open_infos
from raydet3d.metrics.base import BaseMetric
from raydet3d.metrics.kitti_analysis import analyse_kitti
from raydet3d.metrics.kitti_ap import KINDS, evaluate
from raydet3d.metrics.kitti_files import (
    found_annotation,
    found_annotation_2d,
    truth_annotation,
    write_results,
)
from raydet3d.metrics.kitti_objects import Annotation
from raydet3d.metrics.kitti_report import all_ignored, all_left_out, few_objects, table
from raydet3d.registry import METRICS
from raydet3d.structures.sample_types import PlainSample


@METRICS.register_module()
class KittiMetric(BaseMetric):
    """Compute KITTI's average precision: image boxes (2D), bird's eye view (BEV), 3D boxes, orientation (AOS).

    Ground truth and calibration come from each sample's `eval_ann_info` (`instances` and `images` as in an info
    file), or else from `ann_file`, which is read on first use. Only frames that were predicted count.

    Args:
        ann_file: Info file of the data set (v2, or KITTI's v1, which is converted).
        metric: `bbox` for everything that the predictions allow, `img_bbox` for 2D only; one or a list.
        pcd_limit_range: x0, y0, z0, x1, y1, z1 in the LiDAR frame, metres; predictions outside are left out.
        prefix: Prefix of the results' names; "Kitti metric" by default.
        pklfile_prefix: Where to write predictions as pickled KITTI annotations, `PREFIX/pred_instances_3d.pkl`.
        default_cam_key: Camera of the 2D boxes.
        format_only: Write result files, score nothing; for test sets without labels. Needs `submission_prefix`.
        submission_prefix: Where to write KITTI's result files, `PREFIX/pred_instances_3d/000008.txt`, named by
            frame id.
        collect_device: Accepted for compatibility.
        backend_args: Where files are; None or the local disk.

    Example:
        `val_evaluator = dict(type='KittiMetric', ann_file='data/kitti/kitti_infos_val.pkl', metric='bbox')`
    """

    default_prefix: ClassVar[str | None] = "Kitti metric"
    METRICS: ClassVar[tuple[str, ...]] = ("bbox", "img_bbox")
    info_hint: ClassVar[str] = "'python -m raydet3d.data.prepare kitti ROOT' makes it"

    def __init__(
        self,
        ann_file: str | Path,
        metric: str | Sequence[str] = "bbox",
        pcd_limit_range: Sequence[float] = (0, -40, -3, 70.4, 40, 0.0),
        prefix: str | None = None,
        pklfile_prefix: str | None = None,
        default_cam_key: str = "CAM2",
        format_only: bool = False,
        submission_prefix: str | None = None,
        collect_device: str = "cpu",
        backend_args: PartCfg | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_backend(backend_args)
        self.ann_file = Path(ann_file)
        self.metric_names = [metric] if isinstance(metric, str) else list(metric)
        for name in self.metric_names:
            if name not in self.METRICS:
                raise InputError(f"KittiMetric: metric={name!r}; it knows {' and '.join(map(repr, self.METRICS))}")
        if len(pcd_limit_range) != 6:
            raise InputError(f"KittiMetric: pcd_limit_range needs 6 numbers, got {list(pcd_limit_range)}")
        if format_only and submission_prefix is None:
            raise InputError("KittiMetric: format_only=True writes result files; say where with submission_prefix=")
        self.pcd_limit_range = [float(side) for side in pcd_limit_range]
        self.default_cam_key = default_cam_key
        self.format_only = format_only
        self.submission_prefix = submission_prefix
        self.pklfile_prefix = pklfile_prefix
        self._infos: InfoFrames | None = None
        self._number: dict[int | str, int] = {}
        self._names: dict[int, str] = {}

    def names(self) -> list[str] | None:
        """Return the names of the results, for detectors that predict 3D boxes, image boxes, or both."""
        if self.format_only or not (self.dataset_meta or {}).get("classes"):
            return None
        flat = self.metric_names == ["img_bbox"]
        kinds = {"pred_instances_3d": ("bbox",) if flat else KINDS, "pred_instances": ("bbox",)}
        found = []
        for name, some in kinds.items():
            report = evaluate([], [], self._classes(), kinds=some)
            found += [f"{self.prefix}/{name}/{key}" for key in report.metrics()]
        return found

    def process(self, data_batch: object, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Append a batch's predictions and ground truth as KITTI annotations.

        Args:
            data_batch: Not used.
            data_samples: Dicts with `sample_idx` (the frame's id), `pred_instances_3d` (`bboxes_3d`,
                `scores_3d`, `labels_3d`) and, for image detectors, `pred_instances`.
        """
        for given in data_samples:
            sample = cast(PlainSample, given)
            sample_idx = _frame_id(sample["sample_idx"])
            info = self._info(sample_idx, sample)
            entry: dict[str, Any] = {"sample_idx": sample_idx}
            found = sample.get("pred_instances_3d")
            if found is not None and "bboxes_3d" in found:
                annotation, left_out = found_annotation(
                    found["bboxes_3d"],
                    _array(found["scores_3d"]),
                    self._class_names(found["labels_3d"]),
                    camera=self._camera(sample_idx, info),
                    limit_range=self.pcd_limit_range,
                )
                entry["pred_instances_3d"] = annotation
                entry["left_out"] = {"all": len(found["bboxes_3d"]), **left_out}
            flat = sample.get("pred_instances")
            if flat is not None and "bboxes" in flat:
                names = self._class_names(flat["labels"])
                entry["pred_instances"] = found_annotation_2d(_array(flat["bboxes"]), _array(flat["scores"]), names)
            instances = info.get("instances")
            if instances is not None:
                entry["truth"] = truth_annotation(instances, self._names)
                entry["num_points"] = np.array([one.get("num_lidar_pts", -1) for one in instances], dtype=np.int64)
            self.results.append(entry)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Write the requested files, compute the scores, log the table and warnings about it.

        Args:
            results: Every frame's entry.

        Returns:
            Scores in percent, such as `pred_instances_3d/KITTI/Car_3D_AP40_moderate_strict`.
        """
        names = [name for name in ("pred_instances_3d", "pred_instances") if any(name in entry for entry in results)]
        for name in names:
            self._write(name, {entry["sample_idx"]: entry[name] for entry in results if name in entry})
        if self.format_only:
            self.logger.info("KITTI result files: %s", Path(str(self.submission_prefix)).resolve())
            return {}
        metrics: dict[str, float] = {}
        for name in names:
            entries = [entry for entry in results if name in entry]
            bare = [entry["sample_idx"] for entry in entries if "truth" not in entry]
            if bare:
                raise InputError(
                    f"{self.ann_file}: {len(bare)} of {len(entries)} frames have no annotations (first: {bare[0]}), "
                    "so there is nothing to score; a test split is written with format_only=True"
                )
            flat = name == "pred_instances" or self.metric_names == ["img_bbox"]
            truth = [entry["truth"] for entry in entries]
            report = evaluate(
                truth,
                [entry[name] for entry in entries],
                self._classes(),
                kinds=("bbox",) if flat else KINDS,
            )
            self.logger.info("\n%s", table(report, name))
            left_out = sum((Counter(entry.get("left_out", {})) for entry in entries), Counter())
            for sentence in (
                all_ignored(report, report.truth),
                few_objects(report),
                all_left_out(left_out["all"], left_out, self.pcd_limit_range) if name.endswith("3d") else None,
            ):
                if sentence:
                    self.logger.warning(sentence)
            metrics |= {f"{name}/{key}": value for key, value in report.metrics().items()}
            if not flat:
                self.analysis = analyse_kitti(report, np.concatenate([entry["num_points"] for entry in entries]))
        return metrics

    def _write(self, name: str, frames: dict[int | str, Annotation]) -> None:
        """Write predictions of one kind to the requested files."""
        if self.submission_prefix is not None:
            write_results(Path(self.submission_prefix) / name, frames)
        if self.pklfile_prefix is not None:
            file = Path(self.pklfile_prefix) / f"{name}.pkl"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                annotation | {"sample_idx": np.full(len(annotation["name"]), i)} for i, annotation in frames.items()
            ]
            file.write_bytes(pickle.dumps(rows))

    def _info(self, sample_idx: int | str, sample: PlainSample) -> FrameInfo:
        """Return `images` and `instances` of a frame, from the sample or the info file."""
        own = sample.get("eval_ann_info")
        if isinstance(own, Mapping) and "images" in own and "instances" in own:
            if not self._names:
                self._set_names((self.dataset_meta or {}).get("categories"))
            return cast(FrameInfo, own)
        if self._infos is None:
            self._infos = open_infos(self.ann_file, hint=self.info_hint)
            self._set_names(self._infos.metainfo.get("categories"))
            self._number = {_frame_id(info["sample_idx"]): number for number, info in enumerate(self._infos)}
        if sample_idx not in self._number:
            raise InputError(
                f"{self.ann_file}: has no frame {sample_idx!r}, which was predicted; "
                "the evaluator's ann_file must be the one of its data set"
            )
        info: FrameInfo = self._infos[self._number[sample_idx]]
        return info

    def _set_names(self, categories: Mapping[str, int] | Sequence[str] | None) -> None:
        """Set the names of the labels; KITTI's order by default."""
        if not isinstance(categories, Mapping):
            categories = {name: number for number, name in enumerate(info_format("kitti").categories)}
        self._names = {int(number): str(name) for name, number in categories.items() if number >= 0}

    def _camera(self, sample_idx: int | str, info: FrameInfo) -> CameraInfo:
        images = info["images"]
        if self.default_cam_key not in images:
            raise InputError(
                f"{self.ann_file}: frame {sample_idx!r} has no camera {self.default_cam_key!r}; "
                f"default_cam_key must be one of {', '.join(images)}"
            )
        camera = images[self.default_cam_key]
        missing = [key for key in ("cam2img", "lidar2cam", "height", "width") if key not in camera]
        if missing:
            raise InputError(
                f"{self.ann_file}: frame {sample_idx!r}: camera {self.default_cam_key!r} lacks {', '.join(missing)}"
            )
        return camera

    def _classes(self) -> Sequence[str]:
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise InputError("KittiMetric needs the data set's class names: dataset_meta=dict(classes=[...])")
        return [str(name) for name in classes]

    def _class_names(self, labels: torch.Tensor | npt.ArrayLike) -> list[str]:
        """Return the names of predicted labels."""
        classes = self._classes()
        numbers = _array(labels).astype(int)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(classes)):
            raise InputError(
                f"KittiMetric: a predicted label is {numbers.max()}, but the data set has {len(classes)} classes: "
                f"{', '.join(classes)}; the head's num_classes must be the same"
            )
        return [classes[number] for number in numbers]


def _array(values: torch.Tensor | npt.ArrayLike) -> npt.NDArray[Any]:
    """Return a tensor, or anything like it, as an array in host memory."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _frame_id(sample_idx: object) -> int | str:
    """Return a frame's id as a number if it is one ('000008' is 8)."""
    text = str(sample_idx)
    return int(text) if text.isdigit() else text
