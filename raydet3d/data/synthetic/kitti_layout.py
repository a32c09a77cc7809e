"""Write a town in KITTI's layout: velodyne, label_2, calib, image_2, planes, ImageSets.

Frame `i` of a split is drawn from generators seeded by (seed, split, i) alone, so the files are the same whatever
the number of processes, and a town with more frames begins with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from raydet3d.data.synthetic.camera_images import Calibration, calibration, look, paint
from raydet3d.data.synthetic.forked_pool import forked_pool
from raydet3d.data.synthetic.labels import Label, make_labels
from raydet3d.data.synthetic.lidar import Scan, scan
from raydet3d.data.synthetic.ray_casting import Solids
from raydet3d.data.synthetic.scene import Scene, make_scene
from raydet3d.data.synthetic.town_settings import TownSettings

SPLITS = ("train", "val")
FOLDERS = ("velodyne", "label_2", "calib", "image_2", "planes")


class Frame:
    """One generated frame.

    Args:
        settings: The town.
        split: "train" or "val".
        index: Position in the split.
    """

    def __init__(self, settings: TownSettings, split: str, index: int) -> None:
        rng = np.random.default_rng([settings.seed, SPLITS.index(split), index])
        self.scene: Scene = make_scene(settings, rng)
        solids = Solids.of(self.scene.things)
        self.scan: Scan = scan(self.scene, solids, settings, rng)
        seen = look(self.scene, solids)
        self.calib: Calibration = calibration()
        self.labels: list[Label] = make_labels(self.scene.things, self.scan, seen, self.calib, settings)
        self.image: npt.NDArray[np.uint8] | None = paint(self.scene, solids, seen) if settings.images else None

    def write(self, root: Path, name: str) -> None:
        """Write the frame's files into KITTI's folders."""
        folder = root / "training"
        (folder / "velodyne" / f"{name}.bin").write_bytes(self.scan.points.astype("<f4").tobytes())
        lines = "".join(label.line() + "\n" for label in self.labels)
        (folder / "label_2" / f"{name}.txt").write_text(lines, encoding="ascii")
        (folder / "calib" / f"{name}.txt").write_text(calib_text(self.calib), encoding="ascii")
        (folder / "planes" / f"{name}.txt").write_text(plane_text(self.scene, self.calib), encoding="ascii")
        if self.image is not None:
            Image.fromarray(self.image).save(folder / "image_2" / f"{name}.png", compress_level=1, compress_type=3)


def frame_names(settings: TownSettings) -> dict[str, list[str]]:
    """The six-digit names of each split's frames; the val split follows the train split."""
    count = settings.num_train + settings.num_val
    names = [f"{i:06d}" for i in range(count)]
    return {"train": names[: settings.num_train], "val": names[settings.num_train :]}


def write_town(root: Path, settings: TownSettings, *, workers: int = 0) -> Iterator[int]:
    """Write all frames below a folder; yield the number written so far.

    Args:
        root: An existing folder.
        settings: The town.
        workers: Processes to write with; 0 writes in this one.
    """
    for name in FOLDERS:
        (root / "training" / name).mkdir(parents=True, exist_ok=True)
    sets = root / "ImageSets"
    sets.mkdir(exist_ok=True)
    names = frame_names(settings)
    for split, own in {**names, "trainval": [*names["train"], *names["val"]]}.items():
        (sets / f"{split}.txt").write_text("".join(f"{name}\n" for name in own), encoding="ascii")
    jobs = [(split, index, name) for split in SPLITS for index, name in enumerate(names[split])]
    write = partial(_write_frame, root, settings)
    if workers < 2:
        for done, job in enumerate(jobs, start=1):
            write(job)
            yield done
        return
    with forked_pool(workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(write, jobs, chunksize=4), start=1):
            yield done


def _write_frame(root: Path, settings: TownSettings, job: tuple[str, int, str]) -> None:
    split, index, name = job
    Frame(settings, split, index).write(root, name)


def calib_text(calib: Calibration) -> str:
    """A calibration file as KITTI writes it."""
    rows = {f"P{i}": matrix for i, matrix in enumerate(calib.projections)}
    rows |= {"R0_rect": calib.rectify, "Tr_velo_to_cam": calib.lidar_to_camera, "Tr_imu_to_velo": calib.imu_to_lidar}
    return "".join(f"{key}: {' '.join(f'{v:.12e}' for v in matrix.ravel())}\n" for key, matrix in rows.items())


def plane_text(scene: Scene, calib: Calibration) -> str:
    """The road's plane `a x + b y + c z + d = 0` in the rectified camera frame, normal upward, as a planes file."""
    xy = np.array([[5.0, -5.0], [5.0, 5.0], [25.0, 0.0]])
    z = scene.ground.plane(xy[:, 0], xy[:, 1])
    p = calib.to_camera(np.column_stack([xy, z]))
    normal = np.cross(p[1] - p[0], p[2] - p[0])
    normal /= np.linalg.norm(normal) * np.sign(-normal[1])
    numbers = " ".join(f"{v:.6e}" for v in (*normal, -normal @ p[0]))
    return f"# Plane\nWidth 4\nHeight 1\n{numbers}\n"
