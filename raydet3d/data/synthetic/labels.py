"""Labels of a frame: boxes, visibility, and DontCare regions.

Boxes are rounded as the file holds them before anything is computed from them, so that a reader's projections of
a box agree with its 2D box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydet3d.data.synthetic.camera_images import HEIGHT, WIDTH, Calibration
from raydet3d.data.synthetic.lidar import Scan
from raydet3d.data.synthetic.ray_casting import Hits
from raydet3d.data.synthetic.shapes import Thing
from raydet3d.data.synthetic.town_settings import TownSettings

# Hidden shares below which a thing counts as fully visible, partly occluded, largely occluded; beyond: unknown.
OCCLUSION_BELOW = (0.15, 0.5, 0.8)
# Returns that a thing must have to count as one of these: a box cannot be told from less.
LEAST_POINTS = (25, 12, 6)
# Objects with fewer returns get no label.
LEAST_POINTS_LABELLED = 3
LEAST_PIXELS = 3
DONT_CARE = "DontCare -1 -1 -10 {:.2f} {:.2f} {:.2f} {:.2f} -1 -1 -1 -1000 -1000 -1000 -10"


@dataclass(frozen=True)
class Label:
    """One line of a label file.

    Args:
        kind: Class name.
        truncated: Share of the 2D box that lies outside of the picture.
        occluded: 0 visible, 1 partly, 2 largely occluded, 3 unknown.
        alpha: Observation angle, radians.
        box: x1, y1, x2, y2 in pixels.
        size: Height, width, length, metres.
        center: Bottom centre in the rectified camera frame, metres.
        yaw: Heading about the camera's y axis, radians.
        cared: False for a region where nothing was labelled; only its 2D box counts then.
    """

    kind: str
    truncated: float
    occluded: int
    alpha: float
    box: tuple[float, float, float, float]
    size: tuple[float, float, float]
    center: tuple[float, float, float]
    yaw: float
    cared: bool = True

    def line(self) -> str:
        """The line as KITTI writes it."""
        if not self.cared:
            return DONT_CARE.format(*self.box)
        numbers = " ".join(f"{v:.2f}" for v in (self.alpha, *self.box, *self.size, *self.center, self.yaw))
        return f"{self.kind} {self.truncated:.2f} {self.occluded:d} {numbers}"


def make_labels(
    things: tuple[Thing, ...], scan: Scan, hits: Hits, calib: Calibration, settings: TownSettings
) -> list[Label]:
    """Return the labels of a frame; unlabelled regions (DontCare) come last."""
    labels = []
    pixels = calib.to_pixels(calib.to_camera(scan.points[:, :3]))
    inside = ((pixels >= 0) & (pixels <= (WIDTH - 1, HEIGHT - 1))).all(1)
    counts = np.bincount(scan.thing[inside & (scan.thing >= 0)], minlength=len(things))
    for index, thing in enumerate(things):
        # A thing whose parts have no pixel in the picture is outside of it or wholly hidden.
        if thing.label is None or hits.first[index] < LEAST_PIXELS:
            continue
        x0, y0, x1, y1 = settings.range_m
        in_range = x0 < thing.center[0] < x1 and y0 < thing.center[1] < y1
        hidden = max(_hidden(hits.first[index], hits.alone[index]), _hidden(scan.first[index], scan.alone[index]))
        occluded = _occlusion(hidden, int(counts[index]))
        cared = counts[index] >= LEAST_POINTS_LABELLED and in_range
        labels.append(_make_label(thing, thing.label, calib, occluded=occluded, cared=cared))
    return sorted(labels, key=lambda label: not label.cared)


def _hidden(first: int, alone: int) -> float:
    return 1.0 - first / alone if alone else 1.0


def _occlusion(hidden: float, points: int) -> int:
    for level, (below, least) in enumerate(zip(OCCLUSION_BELOW, LEAST_POINTS, strict=True)):
        if hidden < below and points >= least:
            return level
    return 3


def _make_label(thing: Thing, kind: str, calib: Calibration, *, occluded: int, cared: bool) -> Label:
    length, width, height = (round(v, 2) for v in thing.size)
    x, y, z = calib.to_camera(np.array([thing.center]))[0].round(2).tolist()
    yaw = round((-thing.yaw - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi, 2)
    pixels = calib.to_pixels(camera_corners((x, y, z), (height, width, length), yaw))
    u0, v0 = pixels.min(axis=0)
    u1, v1 = pixels.max(axis=0)
    c0, c1 = np.clip([u0, u1], 0, WIDTH - 1)
    r0, r1 = np.clip([v0, v1], 0, HEIGHT - 1)
    outside = 1 - (c1 - c0) * (r1 - r0) / ((u1 - u0) * (v1 - v0))
    return Label(
        kind,
        truncated=round(float(outside), 2),
        occluded=occluded,
        alpha=float((yaw - np.arctan2(x, z) + np.pi) % (2 * np.pi) - np.pi),
        box=(float(c0), float(r0), float(c1), float(r1)),
        size=(height, width, length),
        center=(x, y, z),
        yaw=yaw,
        cared=cared,
    )


def camera_corners(
    center: tuple[float, float, float], size: tuple[float, float, float], yaw: float
) -> npt.NDArray[np.float64]:
    """The (8, 3) corners of a label's box in the rectified camera frame (x right, y down, z front)."""
    height, width, length = size
    along = np.array([1, 1, -1, -1, 1, 1, -1, -1]) * length / 2
    across = np.array([1, -1, -1, 1, 1, -1, -1, 1]) * width / 2
    up = np.array([0, 0, 0, 0, -1, -1, -1, -1]) * height
    c, s = np.cos(yaw), np.sin(yaw)
    corners = np.stack([c * along + s * across, up, -s * along + c * across], axis=1) + np.array(center)
    return np.asarray(corners, np.float64)
