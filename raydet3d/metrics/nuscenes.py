"""`NuScenesMetric`: nuScenes' detection score of a detector's predictions, a table, and the submission file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.info_file import check_backend, info_format, open_infos
from raydet3d.metrics.base import BaseMetric
from raydet3d.metrics.nuscenes_analysis import analyse_nuscenes
from raydet3d.metrics.nuscenes_ap import CLASSES, DISTANCES_M, ERRORS, MAX_BOXES, Ints, Objects, Scores, evaluate
from raydet3d.metrics.nuscenes_boxes import (
    FramePose,
    in_racks,
    in_range,
    predicted_objects,
    true_objects,
    write_submission,
)
from raydet3d.metrics.text_table import align_columns
from raydet3d.registry import METRICS
from raydet3d.structures import CameraInstance3DBoxes

Sample = Mapping[str, Any]
"""What a model returned for a sample, or what is kept of it."""

MEAN_ERRORS = {
    "trans_err": "mATE",
    "scale_err": "mASE",
    "orient_err": "mAOE",
    "vel_err": "mAVE",
    "attr_err": "mAAE",
}


@METRICS.register_module()
class NuScenesMetric(BaseMetric):
    """Compute nuScenes' detection metrics: mAP by centre distance, five true-positive errors, NDS.

    Ground truth comes from the tables in `data_root/VERSION`; the version is that of the info file. Only frames that
    were predicted count, so the info file decides which split is scored. Attributes are derived from the predicted
    velocities, as MMDetection3D does.

    Args:
        data_root: Folder of the data set.
        ann_file: Info file of the split (v2, or v1, which is converted).
        metric: Accepted when it is `bbox`.
        modality: Sensors that the submission names; LiDAR alone by default.
        prefix: Prefix of the results' names; "NuScenes metric" by default.
        format_only: Write the submission file, score nothing; for test sets without annotations. Needs
            `jsonfile_prefix`.
        jsonfile_prefix: Where to write the submission, `PREFIX/pred_instances_3d/results_nusc.json`; nothing is
            written without it.
        eval_version: Accepted when it is `detection_cvpr_2019`.
        collect_device: Accepted for compatibility.
        backend_args: Where files are; None or the local disk.

    Example:
        `val_evaluator = dict(type='NuScenesMetric', data_root='data/nuscenes/',
        ann_file='data/nuscenes/nuscenes_infos_val.pkl', metric='bbox')`
    """

    default_prefix: ClassVar[str | None] = "NuScenes metric"
    info_hint: ClassVar[str] = "'python -m raydet3d.data.prepare nuscenes ROOT --version v1.0-trainval' makes it"

    def __init__(
        self,
        data_root: str | Path,
        ann_file: str | Path,
        metric: str | Sequence[str] = "bbox",
        modality: Mapping[str, bool] | None = None,
        prefix: str | None = None,
        format_only: bool = False,
        jsonfile_prefix: str | None = None,
        eval_version: str = "detection_cvpr_2019",
        collect_device: str = "cpu",
        backend_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_backend(backend_args)
        if (metric if isinstance(metric, str) else list(metric)) not in ("bbox", ["bbox"]):
            raise InputError(f"NuScenesMetric: metric={metric!r}; it knows 'bbox'")
        if eval_version != "detection_cvpr_2019":
            raise InputError(f"NuScenesMetric: eval_version={eval_version!r}; it knows 'detection_cvpr_2019'")
        if format_only and jsonfile_prefix is None:
            raise InputError("NuScenesMetric: format_only=True writes a submission; say where with jsonfile_prefix=")
        self.data_root = Path(data_root)
        self.ann_file = Path(ann_file)
        self.modality = {"use_camera": False, "use_lidar": True, **(modality or {})}
        self.format_only = format_only
        self.jsonfile_prefix = jsonfile_prefix

    def names(self) -> list[str] | None:
        """Return the names of the results."""
        classes = (self.dataset_meta or {}).get("classes")
        if self.format_only or not classes:
            return None
        nothing = evaluate(Objects.empty(), Objects.empty())
        return [f"{self.prefix}/{key}" for key in _named(nothing, [str(name) for name in classes], "pred_instances_3d")]

    def process(self, data_batch: Any, data_samples: Sequence[Sample]) -> None:
        """Append a batch's predictions.

        Args:
            data_batch: Not used.
            data_samples: Dicts with `sample_idx` (the frame's in the info file) and `pred_instances_3d`
                (`bboxes_3d` in the LiDAR frame, `scores_3d`, `labels_3d`).
        """
        for sample in data_samples:
            found = sample["pred_instances_3d"]
            kept = {"bboxes_3d": found["bboxes_3d"].to("cpu")}
            kept |= {key: _array(found[key]) for key in ("scores_3d", "labels_3d")}
            self.results.append({"sample_idx": sample["sample_idx"], "pred_instances_3d": kept})

    def compute_metrics(self, results: list[Sample]) -> dict[str, float]:
        """Write the submission if asked, compute the scores and log a table of them.

        Args:
            results: Every frame's entry.

        Returns:
            Scores such as `pred_instances_3d_NuScenes/NDS`, `.../mAP`, `.../car_AP_dist_2.0`, `.../mATE`.
        """
        tokens, found = self._predictions(results, self._classes())
        if self.format_only:
            return {}
        formats = info_format("nuscenes")
        annotated = formats.read_ground_truth(self.data_root, self._version, tokens)
        positions = np.array([pose.ego2global[:2, 3] for pose in self._poses]).reshape(-1, 2)
        truth, racks, has_points = true_objects(annotated)
        num_points = annotated["num_points"][np.isin(annotated["name"], CLASSES)]
        keep = in_range(truth, positions) & has_points & ~in_racks(truth, racks)
        truth, num_points = truth.take(keep), num_points[keep]
        found = found.take(in_range(found, positions))
        found = found.take(~in_racks(found, racks))
        scores = evaluate(truth, found)
        self.logger.info("\n%s", _table(scores, len(tokens), truth))
        self.analysis = analyse_nuscenes(scores, truth, found, num_points, self._poses)
        return _named(scores, self._classes(), "pred_instances_3d")

    def format_results(
        self, results: list[Sample], classes: Sequence[str] | None = None, jsonfile_prefix: str | None = None
    ) -> tuple[dict[str, str], None]:
        """Write the submission file.

        Args:
            results: Every frame's entry, as `process` appends it.
            classes: Names of the labels; the data set's by default.
            jsonfile_prefix: Where to write it.

        Returns:
            The path of the file by name of the predictions, and None (no temporary folder is made).
        """
        before, self.jsonfile_prefix = self.jsonfile_prefix, jsonfile_prefix or self.jsonfile_prefix or "."
        try:
            self._predictions(results, list(classes or self._classes()))
            return {"pred_instances_3d": str(self._submission())}, None
        finally:
            self.jsonfile_prefix = before

    def _submission(self) -> Path:
        return Path(str(self.jsonfile_prefix)) / "pred_instances_3d" / "results_nusc.json"

    def _predictions(self, results: list[Sample], classes: Sequence[str]) -> tuple[list[str], Objects]:
        """Return tokens of the predicted frames and predictions in the global frame; write the submission if asked."""
        self._read_poses([int(entry["sample_idx"]) for entry in results])
        label_of = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in classes], dtype=np.int64)
        parts, rotations = [], [np.zeros((0, 4))]
        left_out = too_many = 0
        for frame, (entry, pose) in enumerate(zip(results, self._poses, strict=True)):
            instances = entry["pred_instances_3d"]
            if isinstance(instances["bboxes_3d"], CameraInstance3DBoxes):
                raise InputError("NuScenesMetric: predictions are in a camera's frame; it scores the LiDAR frame's")
            boxes = _array(instances["bboxes_3d"].tensor)
            scores, labels = _array(instances["scores_3d"]), _array(instances["labels_3d"]).astype(np.int64)
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
                raise InputError(
                    f"NuScenesMetric: a predicted label is {labels.max()}, but the data set has {len(classes)} classes "
                    f"({', '.join(classes)}); the head's num_classes must be the same"
                )
            sound = np.isfinite(boxes[:, :7]).all(1) & (boxes[:, 3:6] > 0).all(1) & np.isfinite(scores)
            left_out += int((~sound).sum())
            one, rotation = predicted_objects(frame, pose, boxes[sound], scores[sound], label_of[labels[sound]])
            if len(one) > MAX_BOXES:
                too_many += 1
                best = np.sort(np.argsort(-one.score, kind="stable")[:MAX_BOXES])
                one, rotation = one.take(best), rotation[best]
            parts.append(one)
            rotations.append(rotation)
        if left_out:
            self.logger.warning(
                "%d predictions whose size is not above 0 or that are not finite are left out", left_out
            )
        if too_many:
            self.logger.warning("%d frames have more than %d predictions; the best are used", too_many, MAX_BOXES)
        tokens, found = [pose.token for pose in self._poses], Objects.concatenate(parts)
        if self.jsonfile_prefix is not None:
            write_submission(self._submission(), self.modality, tokens, found, np.concatenate(rotations))
            self.logger.info("nuScenes submission: %s", self._submission().resolve())
        return tokens, found

    def _read_poses(self, frames: Sequence[int]) -> None:
        """Read token and pose of each predicted frame, and the version of the data, from the info file."""
        infos, wanted = open_infos(self.ann_file, hint=self.info_hint), set(frames)
        by_index = {int(info["sample_idx"]): info for info in infos if int(info["sample_idx"]) in wanted}
        self._version = str(infos.metainfo.get("version") or (self.dataset_meta or {}).get("version"))
        self._poses: list[FramePose] = []
        for frame in frames:
            info = by_index.get(frame)
            if info is None:
                raise InputError(
                    f"{self.ann_file}: has no frame {frame}, which was predicted; the evaluator's ann_file must be the "
                    "one of its data set"
                )
            try:
                lidar2ego = np.array(info["lidar_points"]["lidar2ego"], dtype=np.float64).reshape(4, 4)
                ego2global = np.array(info["ego2global"], dtype=np.float64).reshape(4, 4)
                self._poses.append(FramePose(str(info["token"]), lidar2ego, ego2global))
            except (KeyError, ValueError) as error:
                raise InputError(f"{self.ann_file}: frame {frame} lacks or spoils {error}") from None

    def _classes(self) -> list[str]:
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise InputError("NuScenesMetric needs the data set's class names: dataset_meta=dict(classes=[...])")
        return [str(name) for name in classes]


def _array(values: Tensor | ArrayLike) -> NDArray[Any]:
    """Return a tensor, or an array, as an array in host memory."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _named(scores: Scores, classes: Sequence[str], kind: str) -> dict[str, float]:
    """Return the results under MMDetection3D's names, rounded as it does."""
    named: dict[str, float] = {}
    for name in classes:
        if name not in scores.ap:
            continue
        named |= {f"{name}_AP_dist_{distance}": round(scores.ap[name][distance], 4) for distance in DISTANCES_M}
        named |= {f"{name}_{key}": round(scores.errors[name][key], 4) for key in ERRORS}
    named |= {MEAN_ERRORS[key]: round(error, 4) for key, error in scores.mean_errors.items()}
    named |= {"NDS": scores.nds, "mAP": scores.mean_ap}
    return {f"{kind}_NuScenes/{key}": value for key, value in named.items()}


def _table(scores: Scores, num_frames: int, truth: Objects) -> str:
    """Return all scores as aligned text."""
    objects: Ints = np.bincount(truth.label, minlength=len(CLASSES))
    head = ("", "objects", "AP", *(f"AP {distance} m" for distance in DISTANCES_M), "ATE", "ASE", "AOE", "AVE", "AAE")
    rows = []
    for name, number in zip(CLASSES, objects.tolist(), strict=True):
        numbers = [scores.class_ap[name], *scores.ap[name].values(), *(scores.errors[name][key] for key in ERRORS)]
        rows.append((name, str(number), *("-" if np.isnan(value) else f"{value:.3f}" for value in numbers)))
    mean = [scores.mean_ap, *(float(np.mean([by[d] for by in scores.ap.values()])) for d in DISTANCES_M)]
    mean += scores.mean_errors.values()
    rows.append(("mean", str(len(truth)), *(f"{value:.3f}" for value in mean)))
    return "\n".join(
        [
            f"nuScenes metrics, {num_frames} frames",
            *align_columns([head, *rows]),
            f"mAP {scores.mean_ap:.4f}, NDS {scores.nds:.4f}",
        ]
    )
