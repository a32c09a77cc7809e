"""A spinning LiDAR with 32 beams over 360 degrees, in nuScenes' LiDAR frame: x right, y to the front, z up.

Source: Velodyne HDL-32E, 32 beams from +10.67 degrees down by 4/3 degrees.
N points · H, W beams and firings
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from raydet3d.data.synthetic.lidar import horizontal_reach
from raydet3d.data.synthetic.ray_casting import NOTHING, Floats, Grid, Indices, Solids, cast, normals_at

HEIGHT_M = 1.84
MAX_RANGE_M = 70.0
ELEVATIONS = np.deg2rad(10.67 - np.arange(32) * 4 / 3)  # descending
GROUND_REFLECT = 0.25


@dataclass(frozen=True)
class Sweep:
    """One revolution.

    Args:
        points: (N, 5) float32 x, y, z, intensity (0 to 255), beam.
        hits: (things,) points on each thing.
        visible: (things,) share of the rays at a thing that nothing else stops.
    """

    points: Floats
    hits: npt.NDArray[np.int64]
    visible: npt.NDArray[np.float64]


@lru_cache(maxsize=2)
def sweep_grid(azimuth_step_deg: float) -> Grid:
    """Return the rays of one revolution, clockwise from the rear."""
    azimuths = np.deg2rad(np.arange(180.0, -180.0, -azimuth_step_deg))
    c = np.cos(ELEVATIONS)[:, None]
    z = np.broadcast_to(np.sin(ELEVATIONS)[:, None], (len(ELEVATIONS), len(azimuths)))
    rays = np.stack([c * np.cos(azimuths), c * np.sin(azimuths), z]).astype(np.float32)

    def windows(corners: Floats) -> Indices:
        azimuth = np.arctan2(corners[..., 1], corners[..., 0])
        first = np.searchsorted(-azimuths, -azimuth.max(axis=1) - 1e-5)
        last = np.searchsorted(-azimuths, -azimuth.min(axis=1) + 1e-5)
        # A body across the seam, where the angle jumps, may be met by any ray.
        across = np.ptp(azimuth, axis=1) > np.pi
        first, last = np.where(across, 0, first), np.where(across, len(azimuths), last)
        near, far = horizontal_reach(corners)
        low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
        top = np.arctan2(high, np.where(high > 0, near, far))
        bottom = np.arctan2(low, np.where(low > 0, far, near))
        rows = np.searchsorted(-ELEVATIONS, -top - 1e-5), np.searchsorted(-ELEVATIONS, -bottom + 1e-5)
        return np.stack([*rows, first, last], axis=1).astype(np.int32)

    return Grid(np.zeros(3, np.float32), rays, windows)


def sweep(
    solids: Solids, num_things: int, azimuth_step_deg: float, range_noise_m: float, rng: np.random.Generator
) -> Sweep:
    """Scan what stands around: ranges with noise, lost returns, intensities by material and incidence.

    Args:
        solids: Parts of the things, in the LiDAR frame; the ground lies `HEIGHT_M` below it.
        num_things: Number of things.
        azimuth_step_deg: Angle between two firings.
        range_noise_m: Standard deviation of a measured range.
        rng: Draws noise and lost returns.
    """
    grid = sweep_grid(azimuth_step_deg)
    with np.errstate(divide="ignore"):
        ground = np.where(grid.rays[2] < -1e-3, -HEIGHT_M / grid.rays[2], np.inf).astype(np.float32)
    hits = cast(grid, solids, ground, rng=rng)
    met = hits.solid != NOTHING
    intensity = np.full(hits.depth.shape, GROUND_REFLECT, np.float32)
    lost = np.full(hits.depth.shape, 0.03, np.float32)
    which = hits.solid[met]
    if len(which):
        rays = grid.rays[:, met].T
        facing = np.abs((rays * normals_at(hits, solids, rays * hits.depth[met][:, None])).sum(axis=1))
        intensity[met] = np.array([look.reflect for look in solids.looks], np.float32)[which] * (0.25 + 0.75 * facing)
        lost[met] += np.array([look.lost for look in solids.looks], np.float32)[which]
    kept = (hits.depth < MAX_RANGE_M) & (rng.random(lost.shape) >= lost)
    depth = hits.depth[kept] + rng.normal(0, range_noise_m, int(kept.sum())).astype(np.float32)
    shade = np.round(255 * np.clip(intensity[kept] * rng.normal(1, 0.08, len(depth)), 0, 1))
    beam = np.broadcast_to(np.arange(31, -1, -1)[:, None], kept.shape)[kept]
    points = np.concatenate([grid.rays[:, kept].T * depth[:, None], shade[:, None], beam[:, None]], axis=1)
    solid = hits.solid[kept]
    counts = np.bincount(solids.thing[solid[solid != NOTHING]], minlength=num_things)
    alone, first = np.zeros(num_things), np.zeros(num_things)
    alone[: len(hits.alone)], first[: len(hits.first)] = hits.alone, hits.first
    return Sweep(points.astype(np.float32), counts, first / np.maximum(alone, 1))
