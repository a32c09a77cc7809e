"""Convert KITTI's tracking data: sequences of clouds with tracks, GPS poses, calibration and images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet3d.data.convert.layout_writer import CONVERTERS, CustomLayoutWriter, ObjectLabel, split_sequences
from raydet3d.data.datasets.kitti_io import IMAGE_SUFFIXES, camera_to_lidar, pad_to_4x4, read_lines
from raydet3d.errors import InputError
from raydet3d.ops.rigid_transforms import invert
from raydet3d.progress_bar import ProgressBar

Floats = NDArray[np.float64]

PERIOD_S = 0.1
_EARTH_M = 6378137.0
# Fields of a label line: frame, track, type, truncated, occluded, alpha, 4 of the image box, h, w, l, x, y, z, ry.
_FIELDS = 17


@CONVERTERS.register_module("kitti_tracking")
def convert_kitti_tracking(source: Path | str, root: Path | str, *, val: Sequence[str] = ()) -> None:
    """KITTI tracking (multi-object tracking benchmark), with poses from GPS and velocities from tracks.

    It reads SOURCE/training/{velodyne,label_02,calib,oxts,image_02}; oxts and image_02 may be missing. Clouds and
    images are linked, not copied, where the file system allows it.

    Args:
        source: KITTI's folder.
        root: Folder to make.
        val: Sequences to validate on, such as 0003; every fifth by default.

    Raises:
        InputError: A file is missing or malformed.
    """
    folder = Path(source) / "training"
    clouds = folder / "velodyne"
    if not clouds.is_dir():
        raise InputError(f"{clouds}: no such folder; KITTI tracking is laid out as SOURCE/training/velodyne/0000/*.bin")
    sequences = sorted(path.name for path in clouds.iterdir() if path.is_dir())
    split_of = split_sequences(sequences, val)
    with CustomLayoutWriter(root) as out, ProgressBar(len(sequences), "kitti_tracking sequences") as bar:
        for sequence in sequences:
            _convert_sequence(folder, sequence, split_of[sequence], out)
            bar.step()


def _convert_sequence(folder: Path, sequence: str, split: str, out: CustomLayoutWriter) -> None:
    calib = _read_calib(folder / "calib" / f"{sequence}.txt")
    lidar2cam = calib["R_rect"] @ calib["Tr_velo_cam"]
    labels = _read_labels(folder / "label_02" / f"{sequence}.txt", lidar2cam)
    poses = _read_poses(folder / "oxts" / f"{sequence}.txt", calib.get("Tr_imu_velo"))
    files = sorted((folder / "velodyne" / sequence).glob("*.bin"))
    # Place of each track in the fixed frame, by frame.
    places: dict[int, dict[str, Floats]] = {
        frame: {track: poses[frame][:3, :3] @ box[:3] + poses[frame][:3, 3] for track, _, box in found}
        for frame, found in labels.items()
        if frame in poses
    }
    for path in files:
        frame = int(path.stem)
        objects: list[ObjectLabel] = [
            {
                "class": name,
                "center": (box[:3] + np.array([0, 0, box[5] / 2])).tolist(),
                "size": box[3:6].tolist(),
                "yaw": float(box[6]),
                "velocity": _velocity(track, frame, places, poses),
                "id": track,
            }
            for track, name, box in labels.get(frame, [])
        ]
        pictures = [folder / "image_02" / sequence / f"{path.stem}{suffix}" for suffix in IMAGE_SUFFIXES]
        picture = next((one for one in pictures if one.is_file()), None)
        out.add(
            f"{sequence}/{path.stem}",
            path,
            objects=objects,
            split=split,
            timestamp=PERIOD_S * frame,
            pose=poses.get(frame),
            sequence=sequence,
            cameras={"CAM2": {"cam2img": calib["P2"], "lidar2cam": lidar2cam}},
            images=None if picture is None else {"CAM2": picture},
        )


def _velocity(
    track: str, frame: int, places: dict[int, dict[str, Floats]], poses: dict[int, Floats]
) -> list[float] | None:
    """Return vx, vy in the frame's LiDAR axes, from the places before and after; None where a track is seen once."""
    own = places.get(frame, {}).get(track)
    near = [(number, places.get(number, {}).get(track)) for number in (frame - 1, frame, frame + 1)]
    seen = [(number, place) for number, place in near if place is not None]
    if own is None or len(seen) < 2:
        return None
    (first, start), (last, end) = seen[0], seen[-1]
    velocity: Floats = poses[frame][:3, :3].T @ (end - start) / (PERIOD_S * (last - first))
    return [float(velocity[0]), float(velocity[1])]


def _read_calib(path: Path) -> dict[str, Floats]:
    """Return the matrices by name, (4, 4); in this data, only some of the names have a colon."""
    found: dict[str, Floats] = {}
    for number, line in enumerate(read_lines(path), 1):
        words = line.replace(":", " ").split()
        if not words:
            continue
        try:
            numbers = np.array(words[1:], dtype=np.float64)
            found[words[0]] = pad_to_4x4(numbers.reshape(3, -1))
        except ValueError:
            raise InputError(f"{path} line {number}: {words[0]} must be a matrix of 9 or 12 numbers") from None
    found |= {
        new: found[old] for old, new in (("R0_rect", "R_rect"), ("Tr_velo_to_cam", "Tr_velo_cam")) if old in found
    }
    for name in ("P2", "R_rect", "Tr_velo_cam"):
        if name not in found:
            raise InputError(f"{path}: has no {name}")
    return found


def _read_labels(path: Path, lidar2cam: Floats) -> dict[int, list[tuple[str, str, Floats]]]:
    """Return track, class and LiDAR box (bottom centre) of the objects of each frame, without DontCare regions."""
    labels: dict[int, list[tuple[str, str, Floats]]] = defaultdict(list)
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words or words[2:3] == ["DontCare"]:
            continue
        try:
            frame, track, name = int(words[0]), words[1], words[2]
            height, width, length, x, y, z, turn = map(float, words[10:_FIELDS])
        except (ValueError, IndexError):
            raise InputError(
                f"{path} line {number}: a tracking label has {_FIELDS} fields, from frame to rotation_y"
            ) from None
        box = camera_to_lidar(np.array([[x, y, z, length, height, width, turn]]), lidar2cam)[0]
        labels[frame].append((track, name, box))
    return labels


def _read_poses(path: Path, imu2velo: Floats | None) -> dict[int, Floats]:
    """Return the LiDAR's poses from GPS, as KITTI's development kit computes them; none without the file."""
    if not path.is_file() or imu2velo is None:
        return {}
    poses: dict[int, Floats] = {}
    scale, origin = 1.0, np.zeros(3)
    for frame, line in enumerate(read_lines(path)):
        try:
            latitude, longitude, altitude, roll, pitch, yaw = map(float, line.split()[:6])
        except ValueError:
            raise InputError(
                f"{path} line {frame + 1}: must begin with latitude, longitude, altitude, roll, pitch, yaw"
            ) from None
        if not poses:
            scale = np.cos(np.deg2rad(latitude))
        pose = np.eye(4)
        pose[:3, :3] = _about(2, yaw) @ _about(1, pitch) @ _about(0, roll)
        # Mercator's projection.
        north = _EARTH_M * np.log(np.tan(np.pi / 4 + np.deg2rad(latitude) / 2))
        pose[:3, 3] = scale * _EARTH_M * np.deg2rad(longitude), scale * north, altitude
        if not poses:
            origin = pose[:3, 3].copy()
        pose[:3, 3] -= origin
        poses[frame] = pose @ invert(imu2velo)
    return poses


def _about(axis: int, angle: float) -> Floats:
    """Return the rotation about an axis, (3, 3)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[j, i] = np.sin(angle)
    turn[i, j] = -turn[j, i]
    return turn
