"""One KITTI frame: its entry in the info file, its reduced cloud, its objects for the database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.datasets.kitti_io import (
    Calib,
    Labels,
    camera_to_lidar,
    in_view,
    read_calib,
    read_cloud,
    read_labels,
    read_plane,
    read_png_size,
)
from raydet3d.files import write_atomic
from raydet3d.info_file import KITTI_CATEGORIES
from raydet3d.ops.points import points_in_boxes

DATABASE = "kitti_gt_database"
CATEGORIES = {**{name: number for number, name in enumerate(KITTI_CATEGORIES)}, "DontCare": -1}


@dataclass(frozen=True)
class Job:
    """What to do for one frame.

    Args:
        root: The data set's folder.
        part: `training` or `testing`.
        name: The frame's name, such as 000134.
        cut_out: Whether its objects go into the database.
    """

    root: Path
    part: str
    name: str
    cut_out: bool

    @property
    def key(self) -> str:
        """The frame's name in the journal."""
        return f"{self.part}/{self.name}"

    def inputs(self) -> dict[str, Path]:
        """The frame's raw files by their folder; a plane only where there is one."""
        folder = self.root / self.part
        files = {
            "velodyne": folder / "velodyne" / f"{self.name}.bin",
            "calib": folder / "calib" / f"{self.name}.txt",
            "image_2": folder / "image_2" / f"{self.name}.png",
        }
        if self.part == "training":
            files["label_2"] = folder / "label_2" / f"{self.name}.txt"
            plane = folder / "planes" / f"{self.name}.txt"
            if plane.is_file():
                files["planes"] = plane
        return files

    def signature(self) -> list[Any]:
        """What the frame's results depend on: sizes and times of its files, and whether objects are cut out."""
        stats = [(kind, path.stat()) for kind, path in sorted(self.inputs().items())]
        return [self.cut_out, *([kind, stat.st_size, stat.st_mtime_ns] for kind, stat in stats)]

    def reduced(self) -> Path:
        """Where the reduced cloud goes."""
        return self.root / self.part / "velodyne_reduced" / f"{self.name}.bin"

    def is_done(self, record: dict[str, Any] | None) -> bool:
        """Whether a record is of these very files, and everything it speaks of is there."""
        if record is None or record.get("signature") != self.signature():
            return False
        wanted = [(self.reduced(), record["num_points"])]
        wanted += [(self.root / entry["path"], entry["num_points_in_gt"]) for entry in record["objects"]]
        try:
            return all(path.stat().st_size == 16 * count for path, count in wanted)
        except OSError:
            return False


def prepare_frame(job: Job) -> dict[str, Any]:
    """Do a frame's work and write its files.

    Returns:
        The journal's record: `signature`, `info` (the frame's entry in the info file), `num_points` of the reduced
        cloud, `objects` (entries of the database's info file), `unknown` (types of labels that are none of KITTI's).
    """
    files = job.inputs()
    calib = read_calib(files["calib"])
    size = read_png_size(files["image_2"])
    cloud = read_cloud(files["velodyne"])
    reduced = cloud[in_view(cloud, calib.p[2] @ calib.lidar2cam, size)]
    write_atomic(job.reduced(), reduced.data if len(reduced) else b"")
    record: dict[str, Any] = {"signature": job.signature(), "num_points": len(reduced), "objects": [], "unknown": []}
    info = _describe(job, calib, size)
    if "planes" in files:
        info["plane"] = read_plane(files["planes"]).tolist()
    if "label_2" in files:
        labels = read_labels(files["label_2"])
        boxes = camera_to_lidar(labels.boxes, calib.lidar2cam)
        inside: NDArray[Any] = points_in_boxes(np.asarray(reduced, dtype=np.float64), boxes)
        info["instances"] = _instances(labels, calib, inside.sum(0))
        record["unknown"] = [name for name in labels.names if name not in CATEGORIES]
        if job.cut_out:
            record["objects"] = _cut_out(job, labels, boxes.astype(np.float32), reduced, inside)
    record["info"] = info
    return record


def _describe(job: Job, calib: Calib, size: tuple[int, int]) -> dict[str, Any]:
    """Calibration, paths and sizes, as in MMDetection3D's v2 info files."""
    images: dict[str, Any] = {
        f"CAM{number}": {"cam2img": p.tolist(), "lidar2img": (p @ calib.lidar2cam).tolist()}
        for number, p in enumerate(calib.p)
    }
    images["CAM2"] |= {
        "img_path": f"{job.name}.png",
        "height": size[0],
        "width": size[1],
        "lidar2cam": calib.lidar2cam.tolist(),
    }
    images["R0_rect"] = calib.r0_rect.tolist()
    lidar: dict[str, Any] = {
        "num_pts_feats": 4,
        "lidar_path": f"{job.name}.bin",
        "Tr_velo_to_cam": calib.velo_to_cam.tolist(),
    }
    if calib.imu_to_velo is not None:
        lidar["Tr_imu_to_velo"] = calib.imu_to_velo.tolist()
    return {"sample_idx": int(job.name), "images": images, "lidar_points": lidar}


def _instances(labels: Labels, calib: Calib, counts: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The label lines as v2 instances, DontCare included."""
    centre = labels.boxes[:, :3] - labels.boxes[:, 3:6] * [0, 0.5, 0]
    u, v, depth = calib.p[2][:3, :3] @ centre.T + calib.p[2][:3, 3:4]
    level = labels.difficulty
    cared = np.array([name != "DontCare" for name in labels.names], dtype=bool)
    number = np.where(cared, np.cumsum(cared) - 1, -1)
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    return [
        {
            "bbox": labels.bbox[i].tolist(),
            "bbox_label": CATEGORIES.get(name, -1),
            "bbox_3d": labels.boxes[i].tolist(),
            "bbox_label_3d": CATEGORIES.get(name, -1),
            "depth": float(depth[i]),
            "center_2d": [float(u[i] / safe[i]), float(v[i] / safe[i])],
            "num_lidar_pts": int(counts[i]) if cared[i] else -1,
            "difficulty": int(level[i]),
            "truncated": float(labels.truncated[i]),
            "occluded": int(labels.occluded[i]),
            "alpha": float(labels.alpha[i]),
            "score": float(labels.score[i]),
            "index": int(number[i]),
            "group_id": i,
        }
        for i, name in enumerate(labels.names)
    ]


def _cut_out(
    job: Job, labels: Labels, boxes: NDArray[np.float32], points: NDArray[np.float32], inside: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Write each object's points, relative to the bottom centre of its box; give the entries that describe them."""
    level = labels.difficulty
    entries = []
    for i, name in enumerate(labels.names):
        if CATEGORIES.get(name, -1) < 0:
            continue
        own = points[inside[:, i]]
        own[:, :3] -= boxes[i, :3]
        path = f"{DATABASE}/{int(job.name)}_{name}_{i}.bin"
        write_atomic(job.root / path, own.data if len(own) else b"")
        entries.append(
            {
                "name": name,
                "path": path,
                "image_idx": int(job.name),
                "gt_idx": i,
                "box3d_lidar": boxes[i].tolist(),
                "num_points_in_gt": len(own),
                "difficulty": int(level[i]),
                "score": float(labels.score[i]),
            }
        )
    return entries
