"""`KittiTextSink`: predictions as KITTI text files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from raydet3d.data.datasets.kitti_io import Calib, read_calib
from raydet3d.files import write_output
from raydet3d.metrics.kitti_files import result_text
from raydet3d.metrics.kitti_objects import Annotation
from raydet3d.runtime.frame_sinks import FrameSink
from raydet3d.runtime.inferencer import LidarDet3DInferencer, PredictedFrame
from raydet3d.structures import Box3DMode
from raydet3d.structures.sample_types import PlainInstances


class KittiTextSink(FrameSink):
    """Writes `kitti/NAME.txt`, boxes in the frame of KITTI's camera.

    Without calibration the camera is taken to be at the LiDAR's place and to look along its x axis, and image boxes are
    0 0 0 0.

    Args:
        out: Folder of the results.
        calib_dir: Folder of calibration files.
    """

    def __init__(self, out: str | Path, calib_dir: str | Path | None = None) -> None:
        super().__init__(Path(out) / "kitti", ".txt")
        self._calib_dir = None if calib_dir is None else Path(calib_dir)

    @override
    def take(self, frame: PredictedFrame, inferencer: LidarDet3DInferencer) -> None:
        calib = None if self._calib_dir is None else read_calib(self._calib_dir / f"{frame.name}.txt")
        found = frame.sample.pred_instances_3d.to_dict()
        text = result_text(kitti_annotation(found, inferencer.dataset_meta["classes"], calib))
        write_output(self.path(frame.name), text.encode())


def kitti_annotation(found: PlainInstances, classes: Sequence[str], calib: Calib | None) -> Annotation:
    """Return all predictions of a frame as a KITTI annotation.

    Args:
        found: Predictions.
        classes: Names of the labels.
        calib: The frame's calibration; None for a camera at the LiDAR's place, without an image.
    """
    boxes = found["bboxes_3d"].to("cpu")
    lidar2cam = None if calib is None else calib.lidar2cam
    in_camera = boxes if boxes.mode == Box3DMode.CAM else boxes.convert_to(Box3DMode.CAM, lidar2cam)
    rows = in_camera.tensor[:, :7].double().numpy()
    image_boxes = np.zeros((len(rows), 4))
    if calib is not None:
        corners = in_camera.corners.double().numpy()
        image = corners @ calib.p[2][:3, :3].T + calib.p[2][:3, 3]
        in_front = (image[..., 2] > 0).all(1)
        pixels = image[in_front, :, :2] / image[in_front, :, 2:]
        height, width = calib.guess_image_size()
        low, high = pixels.min(1), pixels.max(1)
        image_boxes[in_front] = np.concatenate([low, high], 1).clip(0, [width, height, width, height])
    return {
        "name": np.array([classes[int(label)] for label in np.asarray(found["labels_3d"])], dtype=np.str_),
        "truncated": np.zeros(len(rows)),
        "occluded": np.zeros(len(rows)),
        "alpha": rows[:, 6] - np.arctan2(rows[:, 0], rows[:, 2]),
        "bbox": image_boxes,
        "dimensions": rows[:, 3:6],
        "location": rows[:, :3],
        "rotation_y": rows[:, 6],
        "score": np.asarray(found["scores_3d"], float),
    }
