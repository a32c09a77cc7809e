"""3D boxes in the LiDAR, camera and depth frames: geometry, augmentation, conversion.

A box is a row [x, y, z, size along x, y, z, yaw, velocity...] of a float32 tensor: the position is the centre of the
**bottom** face, sizes are those before the yaw is applied; metres and radians. The differences between the frames are
class attributes of the three classes at the end.

Shapes: K boxes, N points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet3d.errors import InputError
from raydet3d.ops.iou import nearest_bev, rotated_iou_3d
from raydet3d.ops.points import limit_period, points_in_boxes, rotate_z
from raydet3d.structures.box_rows import BoxRows

Points = NDArray[Any] | Tensor


class Box3DMode(IntEnum):
    """Coordinate frames, as MMDetection3D numbers them."""

    LIDAR = 0
    """x front, y left, z up; yaw 0 along +x, counter-clockwise seen from above."""

    CAM = 1
    """x right, y down, z front; yaw (KITTI's rotation_y) 0 along +x, clockwise seen from above."""

    DEPTH = 2
    """x right, y front, z up; yaw 0 along +x, counter-clockwise seen from above."""


class Boxes3D(BoxRows):
    """Base class of the boxes of one frame; use one of the three classes below.

    `rotate`, `flip`, `scale`, `translate` and `limit_yaw` assign a new tensor to `tensor`; the old one is not changed.

    Args:
        tensor: (K, box_dim) rows as described above; a tensor (shared, never written to), an array or nested lists.
        box_dim: Values of a box: 7, or more with velocities after the yaw (6 without yaw).
        with_yaw: Whether the rows have a yaw; without, boxes are axis-aligned and a yaw of 0 is added.
        origin: Point of the box that the given x, y, z are, as shares of its sizes; the centre of the bottom face by
            default. (0.5, 0.5, 0.5) is the centre of the box.
    """

    mode: ClassVar[Box3DMode]
    ORIGIN: ClassVar[tuple[float, float, float]]
    """Position of x, y, z inside a box, as shares of its sizes."""
    GROUND: ClassVar[tuple[int, int]]
    """The two axes that span the ground."""
    UP: ClassVar[tuple[int, int]]
    """The vertical axis, and the sign of the upward direction on it."""
    TURN: ClassVar[int]
    """Sense of a positive yaw in the plane of `GROUND`: 1 counter-clockwise, -1 clockwise."""
    FLIPS: ClassVar[dict[str, int]]
    """Axis that each flip negates."""
    FROM_LIDAR: ClassVar[tuple[tuple[int, int, int], ...]]
    """Axes of this frame in the LiDAR frame, as rows."""
    YAW_FROM_LIDAR: ClassVar[tuple[int, float]]
    """(s, o) of yaw = s * lidar yaw + o."""

    def __init__(
        self,
        tensor: Any,
        box_dim: int = 7,
        with_yaw: bool = True,
        origin: Sequence[float] | None = None,
    ) -> None:
        super().__init__(tensor, box_dim)
        if not with_yaw and box_dim == 6:
            self.tensor = torch.cat((self.tensor, self.tensor.new_zeros(len(self), 1)), dim=1)
            self.box_dim = 7
        elif box_dim < 7:
            raise ValueError(f"{type(self).__name__} needs at least 7 values a box (6 without yaw), got {box_dim}")
        self.with_yaw = with_yaw
        if origin is not None and tuple(origin) != self.ORIGIN:
            self.translate(self.dims * (self.tensor.new_tensor(self.ORIGIN) - self.tensor.new_tensor(origin)))

    # ------------------------------------------------------------------ geometry

    @property
    def dims(self) -> Tensor:
        """(K, 3) sizes along the box's own x, y, z."""
        return self.tensor[:, 3:6]

    @property
    def volume(self) -> Tensor:
        """(K,) cubic metres."""
        return self.dims.prod(dim=1)

    @property
    def yaw(self) -> Tensor:
        """(K,) radians, in the sense of this frame."""
        return self.tensor[:, 6]

    @property
    def center(self) -> Tensor:
        """(K, 3) centres of the bottom faces, the x, y, z of the rows."""
        return self.tensor[:, :3]

    @property
    def bottom_center(self) -> Tensor:
        """(K, 3) centres of the bottom faces."""
        return self.tensor[:, :3]

    @property
    def gravity_center(self) -> Tensor:
        """(K, 3) centres of the boxes."""
        return self.tensor[:, :3] + self.dims * (0.5 - self.tensor.new_tensor(self.ORIGIN))

    @property
    def height(self) -> Tensor:
        """(K,) size along the vertical."""
        return self.tensor[:, 3 + self.UP[0]]

    @property
    def bottom_height(self) -> Tensor:
        """(K,) coordinate of the bottom on the vertical axis (which points down in the camera frame)."""
        return self.tensor[:, self.UP[0]]

    @property
    def top_height(self) -> Tensor:
        """(K,) coordinate of the top on the vertical axis."""
        return self.bottom_height + self.UP[1] * self.height

    @property
    def bev(self) -> Tensor:
        """(K, 5) bird's-eye-view rectangles: centre, sizes, and a yaw that is counter-clockwise in the ground axes."""
        first, second = self.GROUND
        rectangles = self.tensor[:, [first, second, 3 + first, 3 + second, 6]]
        return rectangles if self.TURN == 1 else rectangles * rectangles.new_tensor((1, 1, 1, 1, self.TURN))

    @property
    def nearest_bev(self) -> Tensor:
        """(K, 4) x1, y1, x2, y2 of the rectangles rotated to the nearest axis."""
        return nearest_bev(self.upright)

    @property
    def upright(self) -> Tensor:
        """(K, 7) boxes as `raydet3d.ops` takes them: ground axes first, then up; yaw counter-clockwise."""
        bev, (axis, sign) = self.bev, self.UP
        return torch.stack((bev[:, 0], bev[:, 1], sign * self.tensor[:, axis], bev[:, 2], bev[:, 3], self.height,
                            bev[:, 4]), dim=1)  # fmt: skip

    @property
    def corners(self) -> Tensor:
        """(K, 8, 3) corners, x slowest; around each end face: y0 z0, y0 z1, y1 z1, y1 z0."""
        shares = self.tensor.new_tensor(
            ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0))
        )
        around = self.dims[:, None] * (shares - self.tensor.new_tensor(self.ORIGIN))
        return self._turn(around, self.yaw[:, None]) + self.tensor[:, None, :3]

    def _turn(self, points: Tensor, angle: Tensor | float) -> Tensor:
        """Rotate (..., 3) points about the vertical, in the sense of this frame's yaw."""
        order = [*self.GROUND, self.UP[0]]
        back = [order.index(axis) for axis in range(3)]
        return rotate_z(points[..., order], self.TURN * angle)[..., back]

    def in_range_bev(self, box_range: Sequence[float] | Tensor) -> Tensor:
        """Test which boxes have their centre strictly inside a bird's-eye-view rectangle.

        Args:
            box_range: x0, y0, x1, y1 on the ground axes; metres.

        Returns:
            (K,) booleans.
        """
        x, y = (self.tensor[:, axis] for axis in self.GROUND)
        return (x > box_range[0]) & (y > box_range[1]) & (x < box_range[2]) & (y < box_range[3])

    def in_range_3d(self, box_range: Sequence[float] | Tensor) -> Tensor:
        """Test which boxes have x, y, z strictly inside x0, y0, z0, x1, y1, z1."""
        low, high = (self.tensor.new_tensor([float(v) for v in part]) for part in (box_range[:3], box_range[3:]))
        return ((self.tensor[:, :3] > low) & (self.tensor[:, :3] < high)).all(dim=1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Test which (K,) boxes are larger than `threshold` in all three sizes."""
        return (self.dims > threshold).all(dim=1)

    @overload
    def points_in_boxes(self, points: NDArray[Any], *, closed: bool = False) -> NDArray[np.bool_]: ...
    @overload
    def points_in_boxes(self, points: Tensor, *, closed: bool = False) -> Tensor: ...
    def points_in_boxes(self, points: Points, *, closed: bool = False) -> Points:
        """Test which points of this frame lie in which boxes; see `raydet3d.ops.points.points_in_boxes`.

        Args:
            points: (N, 3+) coordinates in this frame, an array or a tensor.
            closed: Whether the bottom and top faces belong to a box.

        Returns:
            (N, K) booleans, an array or a tensor as the points.
        """
        (first, second), (axis, sign) = self.GROUND, self.UP
        boxes = self.upright
        if isinstance(points, Tensor):
            if self.mode is Box3DMode.CAM:
                points = torch.stack((points[:, first], points[:, second], sign * points[:, axis]), dim=1)
            return points_in_boxes(points, boxes.to(points.device), closed=closed)
        if self.mode is Box3DMode.CAM:
            points = np.stack((points[:, first], points[:, second], sign * points[:, axis]), axis=1)
        return points_in_boxes(points, boxes.detach().cpu().numpy(), closed=closed)

    @classmethod
    def overlaps(cls, boxes1: Boxes3D, boxes2: Boxes3D, mode: str = "iou") -> Tensor:
        """Compute the 3D IoU of every pair of boxes.

        Args:
            boxes1: K boxes.
            boxes2: M boxes of the same frame.
            mode: "iou" for intersection over union, "iof" for intersection over the first box's volume.

        Returns:
            (K, M) IoUs.
        """
        if type(boxes1) is not type(boxes2):
            raise TypeError(f"overlaps of {type(boxes1).__name__} with {type(boxes2).__name__}; use convert_to first")
        return rotated_iou_3d(boxes1.upright, boxes2.upright, mode=mode)

    # ------------------------------------------------------------------ augmentation

    def translate(self, offset: Sequence[float] | Tensor | NDArray[Any]) -> None:
        """Move by x, y, z metres: three values for all boxes, or (K, 3)."""
        shift = torch.as_tensor(offset, dtype=torch.float32, device=self.device)
        self.tensor = torch.cat((self.tensor[:, :3] + shift, self.tensor[:, 3:]), dim=1)

    def scale(self, factor: float) -> None:
        """Multiply positions, sizes and velocities."""
        scaled = self.tensor * factor
        scaled[:, 6] = self.tensor[:, 6]
        self.tensor = scaled

    def limit_yaw(self, offset: float = 0.5, period: float = 2 * math.pi) -> None:
        """Bring yaws into [-offset * period, (1 - offset) * period)."""
        limited = self.tensor.clone()
        limited[:, 6] = limit_period(limited[:, 6], offset, period)
        self.tensor = limited

    def rotate(self, angle: float | Tensor | NDArray[Any], points: Points | None = None) -> Any:
        """Rotate the boxes, and points with them, about the vertical; a positive angle adds to the yaw.

        Args:
            angle: Radians, or a (3, 3) matrix that rows of coordinates are multiplied with (a transposed rotation).
            points: (N, 3+) coordinates to rotate as well.

        Returns:
            None, or with points: the rotated points (new memory) and the transposed (3, 3) rotation matrix.
        """
        given = torch.as_tensor(angle, dtype=torch.float32, device=self.device)
        if given.numel() == 1:
            radians = float(angle) if isinstance(angle, int | float) else given.reshape(())
            matrix = self._turn(torch.eye(3, device=self.device), radians)
        elif given.shape == (3, 3):
            matrix = given
            first, second = self.GROUND
            radians = self.TURN * torch.atan2(matrix[first, second], matrix[first, first])
        else:
            raise ValueError(f"rotate needs an angle or a (3, 3) matrix, got shape {tuple(given.shape)}")
        turned = self.tensor.clone()
        turned[:, :3] = turned[:, :3] @ matrix
        turned[:, 6] += radians
        if self.box_dim >= 9:
            ground = torch.tensor(self.GROUND, device=self.device)
            turned[:, 7:9] = turned[:, 7:9] @ matrix[ground][:, ground]
        self.tensor = turned
        if points is None:
            return None
        if isinstance(points, Tensor):
            xyz = points[:, :3] @ matrix.to(points)
            return torch.cat((xyz, points[:, 3:]), dim=1), matrix
        moved = points.copy()
        moved[:, :3] = points[:, :3] @ matrix.detach().cpu().numpy().astype(points.dtype, copy=False)
        return moved, matrix

    def flip(self, bev_direction: str = "horizontal", points: Points | None = None) -> Any:
        """Mirror the boxes, and points with them: left and right ("horizontal") or front and back ("vertical").

        Returns:
            None, or the mirrored points (new memory) where points were given.
        """
        if bev_direction not in self.FLIPS:
            raise ValueError(f"bev_direction must be 'horizontal' or 'vertical', got {bev_direction!r}")
        axis = self.FLIPS[bev_direction]
        flipped = self.tensor.clone()
        flipped[:, axis] *= -1
        flipped[:, 6] *= -1
        if axis == self.GROUND[0]:  # the axis from which yaws are counted
            flipped[:, 6] += math.pi
        if self.box_dim >= 9:
            flipped[:, 7 + self.GROUND.index(axis)] *= -1
        self.tensor = flipped
        if points is None:
            return None
        mirrored: Any = points.clone() if isinstance(points, Tensor) else points.copy()
        mirrored[:, axis] *= -1
        return mirrored

    # ------------------------------------------------------------------ other frames

    def convert_to(self, dst: str | Box3DMode, rt_mat: Any = None, *, correct_yaw: bool = False) -> Boxes3D:
        """Convert the boxes to another frame.

        Args:
            dst: "lidar", "camera" or "depth", or a `Box3DMode`.
            rt_mat: (3, 3), (3, 4) or (4, 4) matrix from this frame to the other; None only swaps the axes.
            correct_yaw: Rotate the heading by a tilt in `rt_mat` as well; KITTI's labels and MMDetection3D do not.

        Returns:
            Boxes of the other frame, yaws in [-pi, pi).
        """
        target = _MODES[_mode(dst)]
        axes = torch.tensor(target.FROM_LIDAR, dtype=torch.float64) @ torch.tensor(self.FROM_LIDAR).double().T
        if rt_mat is None:
            matrix = axes
        elif isinstance(rt_mat, Tensor):
            matrix = rt_mat.detach().to("cpu", torch.float64)
        else:
            matrix = torch.from_numpy(np.asarray(rt_mat, dtype=np.float64))
        if matrix.shape not in ((3, 3), (3, 4), (4, 4)):
            raise ValueError(f"rt_mat is a (3, 3), (3, 4) or (4, 4) matrix, got {tuple(matrix.shape)}")
        # In float64, so that a rigid matrix and its inverse give the digits of a label back.
        matrix, axes = matrix.to(self.device), axes.to(self.device)
        xyz = self.tensor[:, :3].double() @ matrix[:3, :3].T
        if matrix.shape[1] == 4:
            xyz = xyz + matrix[:3, 3]
        dims = self._dims_in(target)
        if correct_yaw:
            yaw = target._yaw_of(self._heading() @ matrix[:3, :3].T)
        else:
            sign, offset = self.YAW_FROM_LIDAR
            sign_to, offset_to = target.YAW_FROM_LIDAR
            yaw = sign_to * sign * (self.yaw.double() - offset) + offset_to
        rows = [xyz, dims.double(), limit_period(yaw)[:, None]]
        if self.box_dim >= 9:
            velocity = xyz.new_zeros(len(self), 3)
            velocity[:, list(self.GROUND)] = self.tensor[:, 7:9].double()
            turn = matrix[:3, :3] if correct_yaw else axes
            rows.append((velocity @ turn.T)[:, list(target.GROUND)])
            rows.append(self.tensor[:, 9:].double())
        elif self.box_dim > 7:
            rows.append(self.tensor[:, 7:].double())
        boxes = target(torch.cat(rows, dim=1), box_dim=self.box_dim)
        boxes.with_yaw = self.with_yaw
        return boxes

    def _dims_in(self, target: type[Boxes3D]) -> Tensor:
        dims = torch.empty_like(self.dims)
        for here, there in zip((*self.GROUND, self.UP[0]), (*target.GROUND, target.UP[0]), strict=True):
            dims[:, there] = self.dims[:, here]
        return dims

    def _heading(self) -> Tensor:
        """Return (K, 3) unit vectors along the x axes of the boxes, in float64."""
        heading = torch.zeros(len(self), 3, dtype=torch.float64, device=self.device)
        yaw = self.TURN * self.yaw.double()
        heading[:, self.GROUND[0]], heading[:, self.GROUND[1]] = torch.cos(yaw), torch.sin(yaw)
        return heading

    @classmethod
    def _yaw_of(cls, heading: Tensor) -> Tensor:
        return cls.TURN * torch.atan2(heading[:, cls.GROUND[1]], heading[:, cls.GROUND[0]])


class LiDARInstance3DBoxes(Boxes3D):
    """Boxes in the LiDAR frame (`Box3DMode.LIDAR`); rows [x, y, z, l, w, h, yaw (, vx, vy)]."""

    mode = Box3DMode.LIDAR
    ORIGIN = (0.5, 0.5, 0.0)
    GROUND = (0, 1)
    UP = (2, 1)
    TURN = 1
    FLIPS: ClassVar[dict[str, int]] = {"horizontal": 1, "vertical": 0}
    FROM_LIDAR = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    YAW_FROM_LIDAR = (1, 0.0)


class CameraInstance3DBoxes(Boxes3D):
    """Boxes in the camera frame (`Box3DMode.CAM`); rows [x, y, z, l, h, w, rotation_y (, vx, vz)]."""

    mode = Box3DMode.CAM
    ORIGIN = (0.5, 1.0, 0.5)
    GROUND = (0, 2)
    UP = (1, -1)
    TURN = -1
    FLIPS: ClassVar[dict[str, int]] = {"horizontal": 0, "vertical": 2}
    FROM_LIDAR = ((0, -1, 0), (0, 0, -1), (1, 0, 0))
    YAW_FROM_LIDAR = (-1, -math.pi / 2)


class DepthInstance3DBoxes(Boxes3D):
    """Boxes in the depth frame (`Box3DMode.DEPTH`); rows [x, y, z, size x, y, z, yaw (, vx, vy)]."""

    mode = Box3DMode.DEPTH
    ORIGIN = (0.5, 0.5, 0.0)
    GROUND = (0, 1)
    UP = (2, 1)
    TURN = 1
    FLIPS: ClassVar[dict[str, int]] = {"horizontal": 0, "vertical": 1}
    FROM_LIDAR = ((0, -1, 0), (1, 0, 0), (0, 0, 1))
    YAW_FROM_LIDAR = (1, math.pi / 2)


BOX_TYPES: dict[str, type[Boxes3D]] = {
    "LiDAR": LiDARInstance3DBoxes,
    "Camera": CameraInstance3DBoxes,
    "Depth": DepthInstance3DBoxes,
}
_MODES = {box.mode: box for box in BOX_TYPES.values()}


def get_box_type(box_type: str) -> tuple[type[Boxes3D], Box3DMode]:
    """Return the class and the frame of a config's `box_type_3d`: "LiDAR", "Camera" or "Depth", in any case."""
    for name, box in BOX_TYPES.items():
        if name.lower() == box_type.lower():
            return box, box.mode
    raise InputError(f"box_type_3d={box_type!r} is unknown; use one of {', '.join(map(repr, BOX_TYPES))}")


def _mode(name: str | Box3DMode) -> Box3DMode:
    if isinstance(name, str):
        return Box3DMode.CAM if name.lower() == "cam" else get_box_type(name)[1]
    return Box3DMode(name)
