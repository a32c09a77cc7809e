"""The camera beside the LiDAR: its calibration in KITTI's form, and a plain picture of the scene.

H, W grid of rays, one for every 2 x 2 pixels of the picture
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from raydet3d.data.synthetic.lidar import on_marking, on_road
from raydet3d.data.synthetic.ray_casting import NOTHING, Floats, Grid, Hits, Indices, Solids, cast, normals_at
from raydet3d.data.synthetic.scene import Scene

WIDTH, HEIGHT = 1242, 375
FOCAL, CENTER_U, CENTER_V = 720.0, 610.0, 173.0
# Where each camera stands to the right of camera 0, metres: grey left, grey right, colour left, colour right.
BASELINES = (0.0, 0.537, -0.06, 0.472)

ROAD, MARKING, GRASS = (98, 98, 102), (205, 205, 200), (112, 132, 84)
SKY_LOW, SKY_HIGH = (214, 224, 234), (136, 172, 212)
HAZE_M = 160.0


@dataclass(frozen=True)
class Calibration:
    """KITTI's matrices, padded to 4 x 4 where they are chained.

    Args:
        projections: Four (3, 4) matrices from rectified camera 0 to pixels, P0 to P3.
        rectify: (3, 3) R0_rect.
        lidar_to_camera: (3, 4) Tr_velo_to_cam.
        imu_to_lidar: (3, 4) Tr_imu_to_velo.
    """

    projections: tuple[npt.NDArray[np.float64], ...]
    rectify: npt.NDArray[np.float64]
    lidar_to_camera: npt.NDArray[np.float64]
    imu_to_lidar: npt.NDArray[np.float64]

    def to_camera(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """(n, 3) points of the LiDAR frame in the rectified camera frame."""
        moved = points @ self.lidar_to_camera[:, :3].T + self.lidar_to_camera[:, 3]
        return np.asarray(moved @ self.rectify.T, np.float64)

    def to_pixels(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """(..., 3) points of the rectified camera frame as (..., 2) pixels of the colour camera."""
        p = points @ self.projections[2][:, :3].T + self.projections[2][:, 3]
        return np.asarray(p[..., :2] / p[..., 2:], np.float64)


@lru_cache(maxsize=1)
def calibration() -> Calibration:
    """The town's one calibration: the LiDAR 1.73 m high, the camera 0.27 m before it and 0.08 m below."""
    intrinsic = np.array([[FOCAL, 0, CENTER_U], [0, FOCAL, CENTER_V], [0, 0, 1.0]])
    projections = tuple(
        np.concatenate([intrinsic, np.array([[-FOCAL * shift], [0.2 * (i == 2)], [0.002 * (i == 2)]])], axis=1)
        for i, shift in enumerate(BASELINES)
    )
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0.0]])
    lidar_to_camera = _turn(0.003, -0.002, 0.004) @ axes
    rectify = _turn(-0.004, 0.002, 0.005)
    return Calibration(
        projections,
        rectify,
        np.concatenate([lidar_to_camera, np.array([[-0.004], [-0.078], [-0.27]])], axis=1),
        np.concatenate([_turn(0.002, 0.001, -0.001), np.array([[-0.81], [0.32], [-0.80]])], axis=1),
    )


def _turn(x: float, y: float, z: float) -> npt.NDArray[np.float64]:
    """The rotation about x, then y, then z, radians."""
    out = np.eye(3)
    for axis, angle in enumerate((x, y, z)):
        i, j = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        out = step @ out
    return out


@lru_cache(maxsize=1)
def camera_grid() -> Grid:
    """One ray through the middle of every 2 x 2 pixels."""
    calib = calibration()
    projection = calib.projections[2]
    inverse = np.linalg.inv(projection[:, :3])
    u, v = np.meshgrid(np.arange(WIDTH // 2) * 2 + 0.5, np.arange((HEIGHT + 1) // 2) * 2 + 0.5)
    rays = inverse @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    back = (calib.rectify @ calib.lidar_to_camera[:, :3]).T
    rays = back @ rays
    rays /= np.linalg.norm(rays, axis=0)
    origin = back @ (-inverse @ projection[:, 3] - calib.rectify @ calib.lidar_to_camera[:, 3])
    shape = u.shape

    def windows(corners: Floats) -> Indices:
        points = calib.to_camera(corners.reshape(-1, 3))
        behind = (points[:, 2] < 0.1).reshape(-1, 8).any(axis=1)
        points[:, 2] = np.maximum(points[:, 2], 0.1)
        pixels = calib.to_pixels(points).reshape(-1, 8, 2) / 2
        low, high = np.floor(pixels.min(axis=1) - 0.3), np.ceil(pixels.max(axis=1) + 0.3)
        low[behind], high[behind] = 0, np.inf
        rows, columns = np.clip([low[:, 1], high[:, 1]], 0, shape[0]), np.clip([low[:, 0], high[:, 0]], 0, shape[1])
        return np.stack([*rows, *columns], axis=1).astype(np.int32)

    return Grid(origin.astype(np.float32), rays.reshape(3, *shape).astype(np.float32), windows)


def look(scene: Scene, solids: Solids) -> Hits:
    """What the camera's rays meet."""
    grid = camera_grid()
    slope = np.array([*scene.ground.slope, -1.0], np.float32)
    descent = np.tensordot(slope, grid.rays, axes=(0, 0))
    clearance = float(grid.origin[2] - scene.ground.plane(float(grid.origin[0]), float(grid.origin[1])))
    with np.errstate(divide="ignore"):
        ground = np.where(descent > 1e-3, clearance / descent, np.inf).astype(np.float32)
    return cast(grid, solids, ground)


def paint(scene: Scene, solids: Solids, hits: Hits) -> npt.NDArray[np.uint8]:
    """The picture (HEIGHT, WIDTH, 3) of what the rays met, shaded by a high sun."""
    grid = camera_grid()
    image = _sky().copy()
    for at, color_of in (
        ((hits.solid == NOTHING) & np.isfinite(hits.depth), _paint_ground),
        (hits.solid != NOTHING, partial(_paint_solids, solids=solids, hits=hits)),
    ):
        depth = hits.depth[at][:, None]
        color = color_of(scene, grid.origin + grid.rays[:, at].T * depth)
        image[at] = color + (np.array(SKY_LOW, np.float32) - color) * (1 - np.exp(-depth / np.float32(HAZE_M)))
    small = np.clip(image, 0, 255).astype(np.uint8)
    return small.repeat(2, axis=1).repeat(2, axis=0)[:HEIGHT, :WIDTH]


@lru_cache(maxsize=1)
def _sky() -> Floats:
    """The empty picture, one colour for every 2 x 2 pixels."""
    shape = camera_grid().rays.shape[1:]
    up = np.linspace(1, 0, shape[0])[:, None, None] ** 1.5
    color = up * np.array(SKY_HIGH) + (1 - up) * np.array(SKY_LOW)
    return np.broadcast_to(color, (*shape, 3)).astype(np.float32)


def _paint_ground(scene: Scene, points: Floats) -> Floats:
    s, d = scene.street.locate(points[:, 0], points[:, 1])
    color: Floats = np.array([GRASS, ROAD], np.float32)[on_road(scene, s, d).astype(np.int8)]
    color[on_marking(scene, s, d)] = MARKING
    return color


def _paint_solids(scene: Scene, points: Floats, *, solids: Solids, hits: Hits) -> Floats:
    which = hits.solid[hits.solid != NOTHING]
    normals = normals_at(hits, solids, points)
    sun = np.array([-0.45, 0.35, 0.82], np.float32)
    light = 0.62 + 0.42 * np.maximum(normals @ sun, 0)
    color: Floats = np.array([look.color for look in solids.looks], np.float32)[which] * light[:, None]
    house = np.array([scene.things[t].kind == "house" for t in solids.thing])[which]
    at = np.flatnonzero(house & (np.abs(normals[:, 2]) < 0.5))
    # Windows: one every 2.6 m along the wall and every 2.8 m up, counted from the wall's own corner.
    corner = solids.corners[which[at], 0]
    along = np.abs((points[at, 0] - corner[:, 0]) * normals[at, 1] - (points[at, 1] - corner[:, 1]) * normals[at, 0])
    up = points[at, 2] - corner[:, 2]
    pane = (np.abs(along % 2.6 - 1.3) < 0.5) & (np.abs(up % 2.8 - 1.7) < 0.65)
    color[at[pane]] = color[at[pane]] * np.float32(0.35) + np.array([38, 46, 58], np.float32)
    return color
