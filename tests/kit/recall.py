"""How many labelled objects a detector found, counted from KITTI's own text files: label_2, calib and result files.

KITTI's AP needs 41 objects of a class before perfect detections score 100, so a handful of frames is judged by recall:
an object is found when a box of its class overlaps it in space by more than KITTI's strict bar. Each box finds
one object at most. Nothing here goes through info files, data sets or the metric.

    python -m tests.kit.recall RESULTS KITTI    # RESULTS holds 000000.txt, ...; KITTI holds training/label_2, ...
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raydet3d.ops.iou import rotated_iou_3d

STRICT = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}


@dataclass(frozen=True)
class Found:
    """One labelled object and the box that found it.

    Attributes:
        frame: Its frame's name.
        name: Its class.
        place: x, y, z of its bottom in the LiDAR's frame, metres.
        iou: 3D IoU with the box that was given to it, else the best that a box of its class has; 0 without any.
        score: Confidence of that box.
        is_found: Whether that box passes the class's bar and finds no other object.
    """

    frame: str
    name: str
    place: tuple[float, float, float]
    iou: float
    score: float
    is_found: bool


def count(
    results: Path,
    kitti: Path,
    *,
    range_m: tuple[float, float, float, float] = (0.0, -20.48, 40.96, 20.48),
    score_thr: float = 0.3,
) -> tuple[list[Found], int]:
    """Compare result files with the labels of the same frames.

    Args:
        results: Folder of KITTI-format result files.
        kitti: Root of a KITTI-format data set.
        range_m: x0, y0, x1, y1 in the LiDAR's frame; objects whose centre is outside do not count.
        score_thr: Boxes with a lower confidence do not count.

    Returns:
        Every labelled car, pedestrian and cyclist in range, whatever its difficulty; and the number of boxes of these
        classes in range that found nothing.
    """
    objects: list[Found] = []
    false_alarms = 0
    for label_file in sorted((kitti / "training" / "label_2").glob("*.txt")):
        frame = label_file.stem
        to_lidar = _camera_to_lidar(kitti / "training" / "calib" / label_file.name)
        truth = _read(label_file, to_lidar, range_m, score_thr=-1.0)
        found = _read(results / label_file.name, to_lidar, range_m, score_thr=score_thr)
        for name, bar in STRICT.items():
            boxes, _, places = truth[name]
            guesses, scores, _ = found[name]
            iou = rotated_iou_3d(torch.from_numpy(boxes), torch.from_numpy(guesses)).numpy()
            partner = _match(iou, bar)
            false_alarms += len(guesses) - len(partner)
            for row, place in enumerate(places):
                best = partner.get(row, int(iou[row].argmax()) if iou.shape[1] and iou[row].any() else -1)
                objects.append(
                    Found(
                        frame,
                        name,
                        tuple(place.tolist()),
                        float(iou[row, best]) if best >= 0 else 0.0,
                        float(scores[best]) if best >= 0 else 0.0,
                        row in partner,
                    )
                )
    return objects, false_alarms


def _match(iou: np.ndarray, bar: float) -> dict[int, int]:
    """Pairs of label and box, the largest overlap first."""
    partner: dict[int, int] = {}
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        row, column = np.unravel_index(flat, iou.shape)
        if iou[row, column] > bar and row not in partner and column not in partner.values():
            partner[int(row)] = int(column)
    return partner


def _camera_to_lidar(calib: Path) -> np.ndarray:
    """(4, 4) from the rectified camera's frame to the LiDAR's."""
    lines = dict(line.split(":", 1) for line in calib.read_text().splitlines() if ":" in line)
    rect, velo = np.eye(4), np.eye(4)
    rect[:3, :3] = np.array(lines["R0_rect"].split(), float).reshape(3, 3)
    velo[:3] = np.array(lines["Tr_velo_to_cam"].split(), float).reshape(3, 4)
    return np.linalg.inv(rect @ velo)


def _read(
    path: Path, to_lidar: np.ndarray, range_m: tuple[float, float, float, float], *, score_thr: float
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(K, 7) boxes, (K,) scores and (K, 3) places in the LiDAR's frame, by class.

    Boxes are told in the camera's axes, renamed to front, left, up (IoU does not mind the frame): ry, which turns
    from right to back, becomes a yaw of -ry - pi/2.
    """
    rows: dict[str, list[list[float]]] = {name: [] for name in STRICT}
    for line in path.read_text().splitlines():
        name, *rest = line.split()
        if name in STRICT:
            rows[name].append([float(value) for value in rest])
    out = {}
    for name, given in rows.items():
        table = np.array(given, float).reshape(len(given), -1) if given else np.zeros((0, 15))
        h, w, length, x, y, z, ry = table[:, 7:14].T
        scores = table[:, 14] if table.shape[1] > 14 else np.ones(len(table))
        places = np.stack([x, y, z, np.ones_like(x)], 1) @ to_lidar[:3].T
        keep = (places[:, :2] > range_m[:2]).all(1) & (places[:, :2] < range_m[2:]).all(1) & (scores >= score_thr)
        boxes = np.stack([z, -x, -y, length, w, h, -ry - np.pi / 2], 1)
        out[name] = boxes[keep], scores[keep], places[keep]
    return out


def report(objects: list[Found], false_alarms: int) -> str:
    """A line for each object, and the sum."""
    lines = [
        f"{o.frame} {o.name:<10} at {o.place[0]:6.2f} {o.place[1]:6.2f}  IoU {o.iou:.2f}  score {o.score:.2f}"
        f"  {'found' if o.is_found else 'MISSED'}"
        for o in objects
    ]
    return "\n".join(
        [*lines, f"found {sum(o.is_found for o in objects)} of {len(objects)}, {false_alarms} boxes too many"]
    )


if __name__ == "__main__":
    print(report(*count(Path(sys.argv[1]), Path(sys.argv[2]))))
