"""Boxes for nuScenes' metrics: predictions to the global frame, filters, the submission file.

Legend: N predictions · K annotated objects · F frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet3d.files import write_atomic
from raydet3d.info_file import AnnotatedObjects
from raydet3d.metrics.nuscenes_ap import CLASS_RANGE_M, CLASSES, NO_ATTRIBUTE, Floats, Ints, Mask, Objects
from raydet3d.ops.rigid_transforms import matrix_to_quaternion, quaternion_to_matrix

ATTRIBUTES = (
    *("cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing"),
    *("pedestrian.sitting_lying_down", "vehicle.moving", "vehicle.parked", "vehicle.stopped"),
)
MOVING_ABOVE = 0.2
"""Speed from which an object is taken to move, metres a second."""

_RANGE = np.array(list(CLASS_RANGE_M.values()))
# Attribute of each class when it moves, and when it does not.
_VEHICLE, _CYCLE = ("vehicle.moving", "vehicle.parked"), ("cycle.with_rider", "cycle.without_rider")
_ATTRIBUTE = {
    **dict.fromkeys(("car", "truck", "trailer", "construction_vehicle"), _VEHICLE),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    **dict.fromkeys(("bicycle", "motorcycle"), _CYCLE),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
}
_ATTRIBUTE_OF = np.array(
    [[ATTRIBUTES.index(key) if key else NO_ATTRIBUTE for key in _ATTRIBUTE.get(name, ("", ""))] for name in CLASSES]
)  # (classes, 2): moving, standing


@dataclass(frozen=True)
class FramePose:
    """Where a frame was taken.

    Args:
        token: The frame's token.
        lidar2ego: (4, 4).
        ego2global: (4, 4).
    """

    token: str
    lidar2ego: Floats
    ego2global: Floats


def predicted_objects(
    frame: int, pose: FramePose, boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: Ints
) -> tuple[Objects, NDArray[np.float64]]:
    """Return a frame's predictions in the global frame, without those out of their class's range.

    Args:
        frame: Number of the frame.
        pose: Its pose.
        boxes: (N, 7 or 9) in the LiDAR frame: bottom centre, sizes, yaw, velocity.
        scores: (N,).
        labels: (N,) index in `CLASSES`; -1 for another class.

    Returns:
        The objects, and their rotations as quaternions.
    """
    rows = boxes.astype(np.float64)
    center = rows[:, :3] + rows[:, 3:6] * [0, 0, 0.5]
    ego = center @ pose.lidar2ego[:3, :3].T + pose.lidar2ego[:3, 3]
    # MMDetection3D's rule: a prediction at exactly the range stays here, and goes when it is scored.
    near = (labels >= 0) & (np.hypot(ego[:, 0], ego[:, 1]) <= _RANGE[labels])
    rows, ego, labels, scores = rows[near], ego[near], labels[near], scores[near]
    turn = pose.ego2global[:3, :3] @ pose.lidar2ego[:3, :3]
    cos, sin, zero = np.cos(rows[:, 6]), np.sin(rows[:, 6]), np.zeros(len(rows))
    spin = np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], axis=-1).reshape(-1, 3, 3)
    rotation = turn @ spin  # (n, 3, 3)
    velocity = np.zeros((len(rows), 3))
    velocity[:, :2] = rows[:, 7:9] if rows.shape[1] >= 9 else 0.0
    velocity = velocity @ turn.T
    speed = np.hypot(velocity[:, 0], velocity[:, 1])
    objects = Objects(
        frame=np.full(len(rows), frame),
        label=labels,
        center=ego @ pose.ego2global[:3, :3].T + pose.ego2global[:3, 3],
        size=rows[:, [4, 3, 5]],
        yaw=np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
        velocity=velocity[:, :2],
        attribute=_ATTRIBUTE_OF[labels, np.where(speed > MOVING_ABOVE, 0, 1)],
        score=scores.astype(np.float64),
    )
    return objects, matrix_to_quaternion(rotation)


def true_objects(annotated: AnnotatedObjects) -> tuple[Objects, AnnotatedObjects, Mask]:
    """Split annotated objects into those of the classes and bicycle racks.

    Returns:
        Objects of the classes; the racks; and for each object whether a sensor's point lies on it.
    """
    label = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in annotated["name"].tolist()], np.int64)
    attribute = [ATTRIBUTES.index(name) if name in ATTRIBUTES else NO_ATTRIBUTE for name in annotated["attribute"]]
    heading = [quaternion_to_matrix(q.tolist())[:2, 0] for q in annotated["rotation"]]
    x, y = np.array(heading, dtype=np.float64).reshape(-1, 2).T
    objects = Objects(
        frame=annotated["frame"],
        label=label,
        center=annotated["translation"],
        size=annotated["size"],
        yaw=np.arctan2(y, x),
        velocity=annotated["velocity"],
        attribute=np.array(attribute, dtype=np.int64),
        score=np.zeros(len(label)),
    )
    is_rack = annotated["name"] == "bicycle_rack"
    racks: AnnotatedObjects = {key: column[is_rack] for key, column in annotated.items()}  # type: ignore[assignment, index]
    keep = label >= 0
    return objects.take(keep), racks, annotated["num_points"][keep] != 0


def in_range(objects: Objects, positions: Floats) -> Mask:
    """Return which objects are nearer to the car than their class's range.

    Args:
        objects: Objects.
        positions: (F, 2) of the car in each frame, in the global frame.
    """
    offset = objects.center[:, :2] - positions[objects.frame]
    return np.asarray(np.sqrt((offset**2).sum(-1)) < _RANGE[objects.label])


def in_racks(objects: Objects, racks: AnnotatedObjects) -> Mask:
    """Return which bicycles and motorcycles have their centre in a bicycle rack of their frame."""
    inside = np.zeros(len(objects), dtype=bool)
    cycles = np.flatnonzero(np.isin(objects.label, [CLASSES.index("bicycle"), CLASSES.index("motorcycle")]))
    for row, frame in enumerate(racks["frame"].tolist()):
        index = cycles[objects.frame[cycles] == frame]
        if not len(index):
            continue
        rotation = quaternion_to_matrix(racks["rotation"][row].tolist())[:3, :3]
        offset = (objects.center[index] - racks["translation"][row]) @ rotation
        inside[index] |= (np.abs(offset) <= racks["size"][row][[1, 0, 2]] / 2).all(-1)
    return inside


def write_submission(
    path: Path,
    meta: Mapping[str, bool],
    tokens: Sequence[str],
    objects: Objects,
    rotations: Floats,
) -> None:
    """Write predictions as a submission to nuScenes' detection task.

    Args:
        path: The JSON file.
        meta: Which sensors were used (`use_lidar`, ...).
        tokens: Token of each frame; frames without predictions are written too.
        objects: Predictions.
        rotations: (N, 4) their quaternions.
    """
    results: dict[str, list[dict[str, object]]] = {token: [] for token in tokens}
    columns = zip(
        objects.frame.tolist(),
        objects.center.tolist(),
        objects.size.tolist(),
        rotations.tolist(),
        objects.velocity.tolist(),
        objects.label.tolist(),
        objects.score.tolist(),
        objects.attribute.tolist(),
        strict=True,
    )
    for frame, center, size, rotation, velocity, label, score, attribute in columns:
        results[tokens[frame]].append(
            {
                "sample_token": tokens[frame],
                "translation": center,
                "size": size,
                "rotation": rotation,
                "velocity": velocity,
                "detection_name": CLASSES[label],
                "detection_score": score,
                "attribute_name": "" if attribute == NO_ATTRIBUTE else ATTRIBUTES[attribute],
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"meta": dict(meta), "results": results}).encode())
