"""A spinning LiDAR with 64 beams; only the camera's sector is scanned.

Source: Velodyne HDL-64E, 32 beams from +2 degrees down by 1/3 degree and 32 from -8.83 down by 1/2 degree.
N points · H, W beams and firings
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from raydet3d.data.synthetic.ray_casting import NOTHING, Floats, Grid, Hits, Indices, Solids, cast, normals_at
from raydet3d.data.synthetic.scene import Scene
from raydet3d.data.synthetic.town_settings import TownSettings

SECTOR_DEG = 45.0
MAX_RANGE_M = 80.0

_UPPER = 2.0 - np.arange(32) / 3
_LOWER = -8.83 - np.arange(32) / 2
ELEVATIONS = np.deg2rad(np.concatenate([_UPPER, _LOWER]))  # descending

ROAD_REFLECT, GRASS_REFLECT, PAINT_REFLECT = 0.22, 0.35, 0.75


@dataclass(frozen=True)
class Scan:
    """One revolution of the LiDAR.

    Args:
        points: (N, 4) float32 x, y, z, intensity; beam by beam from the top.
        thing: (N,) index of the thing that each point lies on, `NOTHING` for the ground.
        alone: (things,) rays that would meet the thing if nothing else were there.
        first: (things,) rays that meet it first.
    """

    points: Floats
    thing: Indices
    alone: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


@lru_cache(maxsize=2)
def lidar_grid(azimuth_step_deg: float) -> Grid:
    """The rays of one turn, from left to right."""
    azimuths = np.deg2rad(np.arange(SECTOR_DEG, -SECTOR_DEG, -azimuth_step_deg))
    c = np.cos(ELEVATIONS)[:, None]
    z = np.broadcast_to(np.sin(ELEVATIONS)[:, None], (len(ELEVATIONS), len(azimuths)))
    rays = np.stack([c * np.cos(azimuths), c * np.sin(azimuths), z]).astype(np.float32)

    def windows(corners: Floats) -> Indices:
        azimuth = np.arctan2(corners[..., 1], corners[..., 0])
        left = np.searchsorted(-azimuths, -azimuth.max(axis=1) - 1e-5)
        right = np.searchsorted(-azimuths, -azimuth.min(axis=1) + 1e-5)
        near, far = horizontal_reach(corners)
        low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
        top = np.arctan2(high, np.where(high > 0, near, far))
        bottom = np.arctan2(low, np.where(low > 0, far, near))
        first = np.searchsorted(-ELEVATIONS, -top - 1e-5)
        last = np.searchsorted(-ELEVATIONS, -bottom + 1e-5)
        return np.stack([first, last, left, right], axis=1).astype(np.int32)

    return Grid(np.zeros(3, np.float32), rays, windows)


def horizontal_reach(corners: Floats) -> tuple[Floats, Floats]:
    """Least and greatest horizontal distance from the origin to the bodies that corners (S, 8, 3) span."""
    rings = corners[..., :2].reshape(-1, 2, 4, 2)
    along = np.roll(rings, -1, axis=2) - rings
    share = np.clip(-(rings * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-9), 0, 1)
    foot = rings + share[..., None] * along
    near = np.hypot(foot[..., 0], foot[..., 1]).min(axis=(1, 2))
    far = np.hypot(rings[..., 0], rings[..., 1]).max(axis=(1, 2))
    return np.maximum(near - 0.02, 0.01), far


def scan(scene: Scene, solids: Solids, settings: TownSettings, rng: np.random.Generator) -> Scan:
    """Scan the scene: ranges with noise, lost returns, intensities by material and incidence."""
    grid = lidar_grid(settings.azimuth_step_deg)
    hits = cast(grid, solids, _ground_distance(scene, grid), rng=rng)
    intensity, lost = _returns(scene, solids, grid, hits, rng)
    fade = np.exp(-60 * (intensity + 0.01) * (20 / np.minimum(hits.depth, MAX_RANGE_M)) ** 2)
    chance = 1 - (1 - settings.drop_rate) * (1 - lost) * (1 - fade)
    kept = (hits.depth < MAX_RANGE_M) & (rng.random(chance.shape) >= chance)
    depth = hits.depth[kept] + rng.normal(0, settings.range_noise_m, int(kept.sum())).astype(np.float32)
    shade = np.clip(intensity[kept] * rng.normal(1, 0.08, len(depth)), 0, 0.99)
    points = np.concatenate([grid.rays[:, kept].T * depth[:, None], np.round(shade, 2)[:, None]], axis=1)
    solid = hits.solid[kept]
    thing = np.where(solid == NOTHING, NOTHING, solids.thing[np.maximum(solid, 0)] if len(solids.thing) else NOTHING)
    return Scan(points.astype(np.float32), thing.astype(np.int32), hits.alone, hits.first)


def _ground_distance(scene: Scene, grid: Grid) -> Floats:
    """Distance along each ray to the uneven ground, found by a few steps from the height under the last guess."""
    dx, dy, dz = grid.rays
    climb = dz - np.float32(scene.ground.slope[0]) * dx - np.float32(scene.ground.slope[1]) * dy
    with np.errstate(divide="ignore"):
        distance = np.where(climb < -1e-3, np.float32(scene.ground.plane(0.0, 0.0)) / climb, np.inf)
    flat = distance < MAX_RANGE_M * 1.2
    x, y, descent, guess = dx[flat], dy[flat], climb[flat], distance[flat]
    for _ in range(3):
        px, py = guess * x, guess * y
        wave = scene.ground.height(px, py) - scene.ground.plane(px, py)
        # At grazing rays the step is limited: a wave of 2 cm moves the point where they meet it by metres.
        guess = np.clip(distance[flat] + wave / descent, 0.85 * distance[flat], 1.15 * distance[flat])
    distance[flat] = guess
    distance[~flat] = np.inf
    return distance.astype(np.float32)


def _returns(scene: Scene, solids: Solids, grid: Grid, hits: Hits, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Intensity and chance of being lost of every ray's return, (H, W) each."""
    intensity, lost = np.zeros(hits.depth.shape, np.float32), np.zeros(hits.depth.shape, np.float32)
    down = (hits.solid == NOTHING) & np.isfinite(hits.depth)
    rays, depth = grid.rays[:, down], hits.depth[down]
    x, y = rays[0] * depth, rays[1] * depth
    s, d = scene.street.locate(x, y)
    reflect = np.where(on_road(scene, s, d), ROAD_REFLECT, GRASS_REFLECT)
    reflect = np.where(on_marking(scene, s, d), PAINT_REFLECT, reflect)
    rough = rng.normal(1, 0.15, len(reflect))
    intensity[down] = np.clip(reflect * rough * (0.4 + 0.6 * np.minimum(1, -4 * rays[2])), 0, 1)
    met = hits.solid != NOTHING
    which = hits.solid[met]
    if len(which):
        rays = grid.rays[:, met].T
        normals = normals_at(hits, solids, rays * hits.depth[met][:, None])
        facing = np.abs((rays * normals).sum(axis=1))
        intensity[met] = np.array([look.reflect for look in solids.looks], np.float32)[which] * (0.25 + 0.75 * facing)
        lost[met] = np.array([look.lost for look in solids.looks], np.float32)[which]
    return intensity, lost


def on_road(scene: Scene, s: Floats, d: Floats) -> npt.NDArray[np.bool_]:
    """Whether street coordinates lie on asphalt: the street with its parking strips, a lot, the side street."""
    street = scene.street
    road = np.zeros(s.shape, bool)
    for side in street.sides:
        reach = side.back + 19 if side.behind == "lot" else side.kerb
        road |= (side.sign * d >= 0) & (side.sign * d < reach)
    if street.crossing is not None:
        road |= np.abs(s - street.crossing[0]) < street.crossing[1]
    return road


def on_marking(scene: Scene, s: Floats, d: Floats) -> npt.NDArray[np.bool_]:
    """Whether street coordinates lie on a painted line between lanes: dashes of 3 m every 8 m."""
    street = scene.street
    line = d / street.lane + 0.5
    between = (line > -street.lanes_right + 0.5) & (line < street.lanes_left + 0.5)
    painted: npt.NDArray[np.bool_] = between & (np.abs(line - np.round(line)) * street.lane < 0.09) & (s % 8 < 3)
    if street.crossing is not None:
        painted &= np.abs(s - street.crossing[0]) > street.crossing[1]
    return painted
