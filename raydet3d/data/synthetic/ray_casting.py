"""Ray casting: the first surface that each ray of a LiDAR or camera hits, and its distance.

S solids (parts of things) · H, W grid of rays
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raydet3d.data.synthetic.shapes import Look, Thing

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]

# Corners of a block's faces, seen from outside counter-clockwise: bottom, top, right, front, left, rear.
_FACES = np.array([(3, 2, 1, 0), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)])

NOTHING = -1


@dataclass(frozen=True)
class Solids:
    """The parts of a scene's things, in the LiDAR frame.

    Args:
        corners: (S, 8, 3) corners of a block, or of the box around a ball.
        normals: (S, 6, 3) outward unit normals of the faces.
        offsets: (S, 6) of the face planes `normal @ p = offset`.
        balls: (S,) whether a solid is a ball.
        thing: (S,) index of the thing that it is a part of.
        looks: Its surface, S of them.
    """

    corners: Floats
    normals: Floats
    offsets: Floats
    balls: npt.NDArray[np.bool_]
    thing: Indices
    looks: tuple[Look, ...]

    @classmethod
    def of(cls, things: Sequence[Thing]) -> Solids:
        """All parts of the things, in their order."""
        parts = [(index, part) for index, thing in enumerate(things) for part in thing.parts]
        owner = np.array([index for index, _ in parts], np.int32)
        local = np.array([part.corners for _, part in parts]).reshape(-1, 8, 3)
        yaw = np.array([thing.yaw for thing in things])[owner]
        center = np.array([thing.center for thing in things]).reshape(-1, 3)[owner]
        c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        x, y, z = local[..., 0], local[..., 1], local[..., 2]
        corners = np.stack([c * x - s * y, s * x + c * y, z], axis=-1) + center[:, None]
        face = corners[:, _FACES]  # (S, 6, 4, 3)
        normals = np.cross(face[:, :, 2] - face[:, :, 0], face[:, :, 3] - face[:, :, 1])
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        offsets = (normals * face.mean(axis=2)).sum(axis=-1)
        balls = np.array([part.ball for _, part in parts], bool)
        return cls(
            corners.astype(np.float32), normals.astype(np.float32), offsets.astype(np.float32), balls, owner,
            tuple(part.look for _, part in parts),
        )  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A grid of rays that start at one point.

    Args:
        origin: (3,) where they start, LiDAR frame.
        rays: (3, H, W) unit directions.
        windows: Gives, for (S, 8, 3) corners, the (S, 4) part of the grid (first row, end row, first column, end
            column) outside of which no ray meets the convex body that they span.
    """

    origin: Floats
    rays: Floats
    windows: Callable[[Floats], Indices]


@dataclass
class Hits:
    """Hits of the rays.

    Args:
        depth: (H, W) distance in metres; infinite for the sky.
        solid: (H, W) index of the solid; `NOTHING` for ground and sky.
        face: (H, W) the face that was met, where the solid is a block.
        alone: (things,) rays that would meet the thing if nothing else were there.
        first: (things,) rays that do meet it.
    """

    depth: Floats
    solid: Indices
    face: npt.NDArray[np.int8]
    alone: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


def cast(grid: Grid, solids: Solids, ground: Floats, *, rng: np.random.Generator | None = None) -> Hits:
    """Return the first hit of every ray.

    Args:
        grid: The rays.
        solids: What stands there.
        ground: (H, W) distance to the ground, infinite where a ray meets none.
        rng: Draws how deep a pulse enters foliage; without it foliage has a surface.
    """
    count = int(solids.thing.max()) + 1 if len(solids.thing) else 0
    depth, solid = ground.copy(), np.full(ground.shape, NOTHING, np.int32)
    face = np.zeros(ground.shape, np.int8)
    alone = np.zeros(count, np.int64)
    windows = grid.windows(solids.corners)
    gaps = solids.offsets - (solids.normals @ grid.origin)  # (S, 6) below 0 where the origin is outside of the face
    edges = np.searchsorted(solids.thing, np.arange(count + 1))
    for index in range(count):
        parts = [p for p in range(edges[index], edges[index + 1]) if _has_area(windows[p])]
        if not parts:
            continue
        top, end, left, right = _around(windows[parts])
        seen = np.zeros((end - top, right - left), bool)
        for p in parts:
            r0, r1, c0, c1 = windows[p]
            rays = grid.rays[:, r0:r1, c0:c1]
            if solids.balls[p]:
                met = _meet_ball(rays, solids.corners[p] - grid.origin, solids.looks[p].scatter_m, rng)
            else:
                met, side = _meet_block(rays, solids.normals[p], gaps[p])
                np.copyto(face[r0:r1, c0:c1], side, where=met < depth[r0:r1, c0:c1])
            seen[r0 - top : r1 - top, c0 - left : c1 - left] |= np.isfinite(met)
            near = depth[r0:r1, c0:c1]
            closer = met < near
            np.copyto(near, met, where=closer)
            np.copyto(solid[r0:r1, c0:c1], np.int32(p), where=closer)
        alone[index] = seen.sum()
    hit = solid[solid != NOTHING]
    first = np.bincount(solids.thing[hit], minlength=count)
    return Hits(depth, solid, face, alone, first)


def _has_area(window: Indices) -> bool:
    return bool(window[0] < window[1] and window[2] < window[3])


def _around(windows: Indices) -> tuple[int, int, int, int]:
    """The window around windows."""
    return (
        int(windows[:, 0].min()), int(windows[:, 1].max()), int(windows[:, 2].min()), int(windows[:, 3].max()),
    )  # fmt: skip


def _meet_block(rays: Floats, normals: Floats, gap: Floats) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Distance along rays (3, h, w) to a block, infinite where they miss it, and the face that is met.

    The rays start outside of it.
    """
    speed = normals[:, 0, None, None] * rays[0]  # (6, h, w)
    speed += normals[:, 1, None, None] * rays[1]
    speed += normals[:, 2, None, None] * rays[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = gap[:, None, None] / speed
    # Outside of a face a ray has to come in through it; inside of it, it may leave through it.
    front, back = np.flatnonzero(gap < 0), np.flatnonzero(gap >= 0)
    enter = reach[front]
    np.copyto(enter, np.float32(np.inf), where=speed[front] >= 0)
    leave = reach[back]
    np.copyto(leave, np.float32(np.inf), where=speed[back] <= 0)
    if len(front) == 1:
        side: npt.NDArray[np.int8] = np.full(rays.shape[1:], front[0], np.int8)
    else:
        side = front.astype(np.int8)[enter.argmax(axis=0)]
    met: Floats = enter.max(axis=0)
    np.copyto(met, np.float32(np.inf), where=met > leave.min(axis=0))
    return met, side


def _meet_ball(rays: Floats, corners: Floats, scatter_m: float, rng: np.random.Generator | None) -> Floats:
    """Distance along rays (3, h, w) to the ellipsoid inside of corners that are relative to where the rays start."""
    low, high = corners[0], corners[6]
    center = (low + high) / 2
    # The corners are those of a box that may be turned, the ellipsoid is round seen from above.
    radius = np.float32(np.hypot(*(corners[1] - corners[0])[:2]) / 2)
    stretch = 1 / np.array([radius, radius, (high[2] - low[2]) / 2], np.float32)
    ox, oy, oz = (-center * stretch).tolist()
    dx, dy, dz = rays[0] * stretch[0], rays[1] * stretch[1], rays[2] * stretch[2]
    a = dx * dx + dy * dy + dz * dz
    b = dx * ox + dy * oy + dz * oz
    root = b * b - a * (ox * ox + oy * oy + oz * oz - 1)
    with np.errstate(invalid="ignore"):
        half = np.sqrt(root)
        enter = (-b - half) / a
        if scatter_m and rng is not None:
            enter += rng.exponential(scatter_m, enter.shape).astype(np.float32)
            return np.where((root > 0) & (enter * a < half - b) & (enter > 0), enter, np.inf).astype(np.float32)
    return np.where((root > 0) & (enter > 0), enter, np.inf).astype(np.float32)


def normals_at(hits: Hits, solids: Solids, points: Floats) -> Floats:
    """Unit normals (n, 3) of the surfaces that were met.

    Args:
        hits: What the rays met.
        solids: The solids that were cast.
        points: (n, 3) where solids were met, in the order of `hits.solid != NOTHING`.
    """
    met = hits.solid != NOTHING
    which = hits.solid[met]
    normals: Floats = solids.normals[which, hits.face[met]]
    round_ = solids.balls[which]
    corners = solids.corners[which[round_]]
    center = (corners[:, 0] + corners[:, 6]) / 2
    radius = np.hypot(*(corners[:, 1] - corners[:, 0])[:, :2].T) / 2
    out = points[round_] - center
    out[:, :2] /= radius[:, None] ** 2
    out[:, 2] /= ((corners[:, 6, 2] - corners[:, 0, 2]) / 2) ** 2
    normals[round_] = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), np.float32(1e-6))
    return normals
