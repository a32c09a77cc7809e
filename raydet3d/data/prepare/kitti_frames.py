"""Prepare one KITTI frame: its entry in the info file, its reduced cloud, its objects for the database."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.datasets.kitti_infos import CATEGORIES, make_cam_instances, make_frame, make_instances
from raydet3d.data.datasets.kitti_io import (
    IMAGE_SUFFIXES,
    Calib,
    Labels,
    camera_to_lidar,
    in_view,
    read_calib,
    read_image_size,
    read_labels,
    read_plane,
)
from raydet3d.data.point_cloud_file import read_cloud
from raydet3d.errors import InputError
from raydet3d.files import write_atomic
from raydet3d.info_file import FrameInfo
from raydet3d.ops.points import points_in_boxes

DATABASE = "kitti_gt_database"

# Kinds of problems that a frame may have, and what is done about them; `{}` is the number of frames or objects.
PROBLEMS = {
    "no image": "{} frames have no image in image_2; their size was taken from P2 (image-based models need the images)",
    "bad image": "{} images are truncated or unreadable; only the size is needed, which came from the header or P2",
    "no point": "{} frames have no point in the camera's view",
    "other cameras": "{} calib files lack some of P0, P1 and P3, which only image-based models of those cameras need",
    "bad box": "{} objects have a 3D box that cannot be right; they are DontCare regions in the info files and not in "
    "the database",
}


class FrameRecord(TypedDict):
    """What the journal keeps of a finished frame.

    Attributes:
        signature: What the results depend on (see `FrameJob.signature`).
        info: The frame's entry in the info file.
        num_points: Points of the reduced cloud.
        objects: Entries of the database's info file.
        unknown: Types of labels that are none of KITTI's.
        problems: Kind, place and reason of what is wrong with the raw files.
    """

    signature: list[Any]
    info: dict[str, Any]
    num_points: int
    objects: list[dict[str, Any]]
    unknown: list[str]
    problems: list[tuple[str, str, str]]


@dataclass(frozen=True)
class FrameJob:
    """A frame to prepare.

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
        """Return the frame's key in the journal."""
        return f"{self.part}/{self.name}"

    def inputs(self) -> dict[str, Path]:
        """Return the frame's raw files by their folder; images and road planes only where they exist."""
        folder = self.root / self.part
        files = {
            "velodyne": folder / "velodyne" / f"{self.name}.bin",
            "calib": folder / "calib" / f"{self.name}.txt",
        }
        images = (folder / "image_2" / f"{self.name}{suffix}" for suffix in IMAGE_SUFFIXES)
        if image := next((path for path in images if path.is_file()), None):
            files["image_2"] = image
        if self.part == "training":
            files["label_2"] = folder / "label_2" / f"{self.name}.txt"
            plane = folder / "planes" / f"{self.name}.txt"
            if plane.is_file():
                files["planes"] = plane
        return files

    def signature(self) -> list[Any]:
        """Return what the results depend on: names, sizes and times of the files, and whether objects are cut out."""
        stats = [(kind, path.name, path.stat()) for kind, path in sorted(self.inputs().items())]
        return [self.cut_out, *([kind, name, stat.st_size, stat.st_mtime_ns] for kind, name, stat in stats)]

    def reduced(self) -> Path:
        """Return the path of the reduced cloud."""
        return self.root / self.part / "velodyne_reduced" / f"{self.name}.bin"

    def is_done(self, record: FrameRecord | None) -> bool:
        """Return whether a record was made from the present files, and all files that it names exist."""
        if record is None or record.get("signature") != self.signature():
            return False
        wanted = [(self.reduced(), record["num_points"])]
        wanted += [(self.root / entry["path"], entry["num_points_in_gt"]) for entry in record["objects"]]
        try:
            return all(path.stat().st_size == 16 * count for path, count in wanted)
        except OSError:
            return False


@dataclass(frozen=True)
class KittiRawFrame:
    """A frame in KITTI's raw files.

    Args:
        root: The data set's folder.
        part: `training` or `testing`.
        name: The frame's name, such as 000134.
    """

    root: Path
    part: str
    name: str

    def files(self) -> list[Path]:
        """Return its cloud, its calibration and, in training, its labels."""
        kinds = [("velodyne", "bin"), ("calib", "txt"), *([("label_2", "txt")] if self.part == "training" else [])]
        return [self.root / self.part / kind / f"{self.name}.{suffix}" for kind, suffix in kinds]

    def read(self) -> FrameInfo:
        """Return its entry for an info file, with every label line; the image and the cloud are not opened."""
        cloud, calib_file, *label_file = self.files()
        calib = read_calib(calib_file)
        info = make_frame(
            int(self.name), calib, image_size=calib.guess_image_size(), image_name=None, lidar_name=cloud.name
        )
        for path in label_file:
            labels = read_labels(path)
            instances = make_instances(labels, calib, np.full(len(labels), -1))
            info["instances"] = [one | {"name": name} for one, name in zip(instances, labels.names, strict=True)]
        return cast(FrameInfo, info)


def prepare_frame(job: FrameJob) -> FrameRecord:
    """Prepare a frame and write its files."""
    files = job.inputs()
    calib = read_calib(files["calib"])
    problems: list[tuple[str, str, str]] = []
    size = _image_size(job, files.get("image_2"), calib, problems)
    if len(calib.p) < 4:
        problems.append(("other cameras", str(files["calib"]), ""))
    cloud = read_cloud(files["velodyne"])
    reduced = cloud[in_view(cloud, calib.p[2] @ calib.lidar2cam, size)]
    if not len(reduced):
        problems.append(("no point", str(files["velodyne"]), ""))
    write_atomic(job.reduced(), reduced.data if len(reduced) else b"")
    info = make_frame(
        int(job.name),
        calib,
        image_size=size,
        image_name=files["image_2"].name if "image_2" in files else None,
        lidar_name=f"{job.name}.bin",
    )
    record: FrameRecord = {
        "signature": job.signature(),
        "info": info,
        "num_points": len(reduced),
        "objects": [],
        "unknown": [],
        "problems": problems,
    }
    if "planes" in files:
        info["plane"] = read_plane(files["planes"]).tolist()
    if "label_2" in files:
        labels, bad = read_labels(files["label_2"]).without_bad_boxes()
        problems += [("bad box", f"{files['label_2']} object {row + 1}", reason) for row, reason in bad.items()]
        boxes = camera_to_lidar(labels.boxes, calib.lidar2cam)
        inside: NDArray[np.bool_] = points_in_boxes(np.asarray(reduced, dtype=np.float64), boxes)
        info["instances"] = make_instances(labels, calib, inside.sum(0))
        info["cam_instances"] = make_cam_instances(labels, calib, size)
        record["unknown"] = [name for name in labels.names if name not in CATEGORIES]
        if job.cut_out:
            record["objects"] = _cut_out(job, labels, boxes.astype(np.float32), reduced, inside)
    return record


def describe_problems(records: list[FrameRecord]) -> list[str]:
    """Return one sentence for each kind of problem: how often, what was done, reasons and the first places."""
    sentences = []
    for kind, sentence in PROBLEMS.items():
        found = [(place, reason) for record in records for name, place, reason in record["problems"] if name == kind]
        if not found:
            continue
        reasons = Counter(reason for _, reason in found if reason)
        why = f" ({', '.join(f'{count} with {reason}' for reason, count in reasons.most_common())})" if reasons else ""
        first = ", ".join(place for place, _ in found[:3]) + (", ..." if len(found) > 3 else "")
        sentences.append(f"{sentence.format(len(found))}{why}: {first}")
    return sentences


def _image_size(
    job: FrameJob, path: Path | None, calib: Calib, problems: list[tuple[str, str, str]]
) -> tuple[int, int]:
    """Return height and width of camera 2's image, from the image or else from the calibration."""
    if path is None:
        problems.append(("no image", f"{job.part}/{job.name}", ""))
        return calib.guess_image_size()
    try:
        size, is_whole = read_image_size(path)
    except InputError:
        size, is_whole = calib.guess_image_size(), False
    if not is_whole:
        problems.append(("bad image", str(path), ""))
    return size


def _cut_out(
    job: FrameJob, labels: Labels, boxes: NDArray[np.float32], points: NDArray[np.float32], inside: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Write each object's points, relative to the bottom centre of its box; return their entries."""
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
