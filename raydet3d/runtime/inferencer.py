"""`LidarDet3DInferencer`: predict on point clouds with MMDetection3D's call and result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raydet3d.checkpoint.published_file import config_in_checkpoint
from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.files import write_output
from raydet3d.hooks.context import PartCfg
from raydet3d.progress_bar import ProgressBar
from raydet3d.registry import INFERENCERS
from raydet3d.runtime.build import build_visualizer
from raydet3d.runtime.inference import (
    CloudLike,
    CloudPipeline,
    LoadedCloud,
    PackedCloud,
    as_config,
    init_model,
    predict,
    with_tta,
)
from raydet3d.structures import Det3DDataSample, InstanceData
from raydet3d.structures.boxes import BOX_TYPES
from raydet3d.visual import Visualizer

Inputs: TypeAlias = "CloudLike | Mapping[str, CloudLike] | Sequence[CloudLike | Mapping[str, CloudLike]]"
"""A cloud, `dict(points=cloud)`, a folder of clouds, or a list of clouds."""


class PredictionDict(TypedDict, total=False):
    """A frame's predictions as JSON has them: boxes as rows x, y, z (bottom centre), l, w, h, yaw (, vx, vy)."""

    bboxes_3d: list[list[float]]
    scores_3d: list[float]
    labels_3d: list[int]
    box_type_3d: str


class InferenceResult(TypedDict):
    """What a call returns: a prediction for each cloud, and its picture where one was asked for."""

    predictions: list[PredictionDict] | list[Det3DDataSample]
    visualization: list[NDArray[np.uint8]]


@dataclass(frozen=True)
class PredictedFrame:
    """A cloud with its predictions.

    Args:
        name: Name of the cloud, without suffix.
        points: (N, C) points that the model was given; of several views, the least changed one's.
        sample: Meta information, and predictions as `pred_instances_3d`, in host memory.
    """

    name: str
    points: Tensor
    sample: Det3DDataSample

    def above(self, score: float | None) -> PredictedFrame:
        """Return the frame with the predictions of at least this score."""
        if score is None:
            return self
        found: InstanceData = self.sample.pred_instances_3d
        sample = self.sample.new()
        sample.pred_instances_3d = found[found.scores_3d >= score]
        return PredictedFrame(self.name, self.points, sample)


@INFERENCERS.register_module(name=["LidarDet3DInferencer", "det3d-lidar"])
class LidarDet3DInferencer:
    """Predict on point clouds.

    Args:
        model: A config or its file; None takes the config in the checkpoint.
        weights: The checkpoint. All weights of the model must be in it.
        device: Where to predict; a GPU where there is one, by default.
        scope: Accepted as in MMDetection3D.
        palette: Accepted as in MMDetection3D; the visualizer has its own colours.
        show_progress: Whether a call shows a progress bar.
        tta: Predict on the views of the config's `tta_pipeline`, merged by its `tta_model`.

    Example:
        >>> inferencer = LidarDet3DInferencer("configs/demo/pointpillars_town.py", "epoch_15.pth")  # doctest: +SKIP
        >>> inferencer(dict(points="000008.bin"))["predictions"][0]["scores_3d"]  # doctest: +SKIP
        [0.87, 0.61]
    """

    def __init__(
        self,
        model: str | Path | PartCfg | None = None,
        weights: str | Path | None = None,
        device: torch.device | str | None = None,
        scope: str | None = "mmdet3d",
        palette: str = "none",
        show_progress: bool = True,
        *,
        tta: bool = False,
    ) -> None:
        if weights is None:
            raise InputError("LidarDet3DInferencer: weights=CHECKPOINT is missing")
        if model is None:
            cfg = config_in_checkpoint(weights)
        else:
            cfg = Config.fromfile(model) if isinstance(model, str | Path) else as_config(model)
        self.cfg: Config = cfg
        self.show_progress = show_progress
        self.model = init_model(cfg, weights, device, palette)
        self.dataset_meta: Mapping[str, Any] = cast("Mapping[str, Any]", self.model.dataset_meta)
        self._predictor = with_tta(self.model, cfg) if tta else self.model
        self.pipeline = CloudPipeline(cfg, tta=tta)
        self.num_visualized_frames = 0
        self._visualizer: Visualizer | None = None

    @property
    def visualizer(self) -> Visualizer:
        """The config's visualizer, without back ends."""
        if self._visualizer is None:
            given = deepcopy(dict(self.cfg.get("visualizer") or {"type": "Det3DLocalVisualizer"}))
            self._visualizer = build_visualizer({**given, "vis_backends": []}, save_dir=Path.cwd())
            self._visualizer.dataset_meta = self.dataset_meta
        return self._visualizer

    def __call__(
        self,
        inputs: Inputs,
        batch_size: int = 1,
        return_datasamples: bool = False,
        *,
        out_dir: str | Path = "",
        pred_score_thr: float = 0.3,
        draw_pred: bool = True,
        return_vis: bool = False,
        no_save_vis: bool = False,
        no_save_pred: bool = False,
        print_result: bool = False,
        show: bool = False,
        wait_time: float = -1,
        cam_type: str = "",
    ) -> InferenceResult:
        """Predict on one or several clouds.

        Args:
            inputs: A cloud (file, array or tensor of points), `dict(points=cloud)`, a folder, or a list of clouds.
            batch_size: Clouds in a batch.
            return_datasamples: Return data samples instead of dicts.
            out_dir: Where to write `preds/NAME.json` and pictures, `vis_lidar/NAME.png`; nothing by default.
            pred_score_thr: Least score of a drawn box.
            draw_pred: Whether pictures show the predictions.
            return_vis: Return the pictures.
            no_save_vis: Write no pictures into `out_dir`.
            no_save_pred: Write no predictions into `out_dir`.
            print_result: Print the predictions.
            show: Opens no window: pictures are written to `out_dir`.
            wait_time: Accepted as in MMDetection3D.
            cam_type: Accepted as in MMDetection3D.

        Returns:
            `predictions`, one for each cloud in order, and `visualization`, their pictures if `return_vis` is set.
        """
        clouds = _clouds(inputs)
        folder = Path(out_dir) if str(out_dir) else None
        samples: list[Det3DDataSample] = []
        pictures: list[NDArray[np.uint8]] = []
        pending = iter(clouds)
        progress = ProgressBar(len(clouds) if self.show_progress else 0, "inference")
        with progress:
            while batch := list(islice(pending, batch_size)):
                for frame in self.predict([self._load(cloud) for cloud in batch]):
                    samples.append(frame.sample)
                    picture = folder if not (no_save_vis or folder is None) else None
                    if picture is not None or return_vis:
                        drawn = self.draw(frame, pred_score_thr if draw_pred else np.inf)
                        if picture is not None:
                            save_picture(drawn, picture / "vis_lidar" / f"{frame.name}.png")
                        pictures += [drawn] if return_vis else []
                    if folder is not None and not no_save_pred:
                        write_json(folder / "preds" / f"{frame.name}.json", to_dict(frame.sample))
                progress.step(len(batch))
        predictions = samples if return_datasamples else [to_dict(sample) for sample in samples]
        result = InferenceResult(predictions=predictions, visualization=pictures)
        if print_result:
            print(result)
        return result

    def _load(self, cloud: CloudLike) -> tuple[str, LoadedCloud]:
        if isinstance(cloud, str | Path):
            return Path(cloud).stem, self.pipeline(cloud)
        name = f"{self.num_visualized_frames:08d}"
        self.num_visualized_frames += 1
        return name, self.pipeline(cloud, name)

    def predict(self, loaded: Sequence[tuple[str, LoadedCloud]]) -> list[PredictedFrame]:
        """Predict on a batch.

        Args:
            loaded: Name and packed sample (or list of views) of each cloud, as `pipeline` returns it.
        """
        batch = self.pipeline.collate([sample for _, sample in loaded])
        found = predict(self._predictor, batch, self.cfg)
        return [
            PredictedFrame(name, _plain_points(sample), result.cpu())
            for (name, sample), result in zip(loaded, found, strict=True)
        ]

    def draw(self, frame: PredictedFrame, score_thr: float = 0.3) -> NDArray[np.uint8]:
        """Draw a frame with the config's visualizer and return the picture, (H, W, 3).

        Args:
            frame: The frame.
            score_thr: Least score of a drawn box.
        """
        self.visualizer.add_datasample(
            frame.name, {"points": frame.points}, frame.sample, draw_gt=False, pred_score_thr=score_thr
        )
        return np.asarray(self.visualizer.get_image(), dtype=np.uint8)


def to_dict(sample: Det3DDataSample) -> PredictionDict:
    """Return a sample's predictions as plain data."""
    found: InstanceData = sample.pred_instances_3d
    boxes = found.bboxes_3d
    return {
        "bboxes_3d": boxes.tensor.tolist(),
        "scores_3d": found.scores_3d.tolist(),
        "labels_3d": found.labels_3d.tolist(),
        "box_type_3d": next(name for name, kind in BOX_TYPES.items() if kind.mode == boxes.mode),
    }


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file, whole or not at all."""
    write_output(path, json.dumps(content).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Read an object from a JSON file; None where there is no file, or a damaged one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def save_picture(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=3)
    write_output(path, buffer.getvalue())


def _clouds(inputs: Inputs) -> list[CloudLike]:
    """Return the clouds of a call's inputs; those of a folder in the order of their names."""
    given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    clouds: list[CloudLike] = []
    for item in given:
        cloud = item["points"] if isinstance(item, Mapping) else item
        if isinstance(cloud, str | Path) and Path(cloud).is_dir():
            clouds += sorted(path for path in Path(cloud).iterdir() if path.is_file())
        else:
            clouds.append(cast("CloudLike", cloud))
    return clouds


def _plain_points(sample: LoadedCloud) -> Tensor:
    """Return the points of a packed sample; of several views, those of the least changed one."""

    def change(view: PackedCloud) -> tuple[bool, float]:
        meta = view["data_samples"].metainfo
        flips = meta.get("pcd_horizontal_flip", False) or meta.get("pcd_vertical_flip", False)
        return bool(flips), abs(float(meta.get("pcd_scale_factor", 1.0)) - 1)

    view = min(sample, key=change) if isinstance(sample, list) else sample
    return view["inputs"]["points"]
