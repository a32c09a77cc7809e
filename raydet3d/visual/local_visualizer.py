"""``Det3DLocalVisualizer``: frames of 3D detection as pictures, from above and as cameras see them; no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from raydet3d.dist import is_main_process
from raydet3d.errors import InputError
from raydet3d.registry import VISUALIZERS
from raydet3d.structures import Boxes3D
from raydet3d.visual.bev import PALETTE, Color, Marks, draw_bev, find_view
from raydet3d.visual.camera import draw_boxes_on_image, draw_points_on_image, project_edges
from raydet3d.visual.canvas import Array, to_array, to_color
from raydet3d.visual.featmap import grid
from raydet3d.visual.sample_view import (
    cloud_of,
    found_in,
    images_of,
    marks,
    projections_of,
    semantic_colors,
    to_plain,
    truth_of,
)
from raydet3d.visual.visualizer import Visualizer

GAP = 4
WIDEST = 2400
"""Pixels of a picture made of camera images alone."""
TASKS = ("lidar_det", "lidar_seg", "multi-modality_det", "mono_det", "multi-view_det")


@VISUALIZERS.register_module()
class Det3DLocalVisualizer(Visualizer):
    """Draws frames of 3D detection from above, with the cameras' views below where images are known.

    No display, GPU or window is needed. Ground truth is green, predictions have the colours of their classes.

    Args:
        name: Name of the visualizer.
        points: A first cloud for ``set_points``.
        image: A first picture for ``get_image``.
        pcd_mode: Axes of clouds: 0 the LiDAR's, 1 a camera's, 2 those of depth sensors.
        vis_backends: See ``Visualizer``.
        save_dir: See ``Visualizer``.
        bbox_color: Colours of the classes' predictions by label, (red, green, blue) from 0 to 255.
        text_color: Colour of titles on images.
        mask_color: Colours of the classes of points (``lidar_seg``); the data set's ``palette`` by default.
        line_width: Width of outlines in pixels.
        frame_cfg: Accepted for MMDetection3D's sake: what a window's coordinate axes look like.
        alpha: How opaque shapes are that ``draw_proj_bboxes_3d`` and its like fill.
        multi_imgs_col: Camera images in a row.
        fig_show_cfg: Accepted for MMDetection3D's sake: what a window looks like.
        point_cloud_range: x0, y0, (z0,) x1, y1 (, z1) to show; from the data where None.
        bev_size: Longer side of the bird's-eye view in pixels.
    """

    def __init__(
        self,
        name: str = "visualizer",
        points: Any = None,
        image: Array | None = None,
        pcd_mode: int = 0,
        vis_backends: Any = None,
        save_dir: str | Path | None = None,
        bbox_color: Sequence[Color] | Color | None = None,
        text_color: Any = (200, 200, 200),
        mask_color: Sequence[Color] | Color | None = None,
        line_width: float = 3,
        frame_cfg: Mapping[str, Any] | None = None,
        alpha: float = 0.8,
        multi_imgs_col: int = 3,
        fig_show_cfg: Mapping[str, Any] | None = None,
        point_cloud_range: Sequence[float] | None = None,
        bev_size: int = 1200,
    ) -> None:
        super().__init__(name=name, image=image, vis_backends=vis_backends, save_dir=save_dir)
        if point_cloud_range is not None and len(point_cloud_range) not in (4, 6):
            raise InputError(f"visualizer: point_cloud_range needs 4 or 6 numbers, got {list(point_cloud_range)}")
        if pcd_mode not in (0, 1, 2):
            raise InputError(f"visualizer: pcd_mode must be 0 (LiDAR), 1 (camera) or 2 (depth), got {pcd_mode!r}")
        self.palette = _palette(bbox_color) or PALETTE
        self.mask_palette = _palette(mask_color)
        self.text_color = to_color(text_color)
        self.line_width = max(1, round(line_width))
        self.alpha = alpha
        self.pcd_mode = pcd_mode
        self.multi_imgs_col = max(1, int(multi_imgs_col))
        self.point_cloud_range = point_cloud_range
        self.bev_size = bev_size
        self._cloud: Array = np.zeros((0, 3))
        self._cloud_colors: Array | None = None
        self._bev_scale = 1.0
        if points is not None:
            self.set_points(points, pcd_mode)

    # -- whole frames -------------------------------------------------------------------------------------------

    def add_datasample(
        self,
        name: str,
        data_input: Mapping[str, Any],
        data_sample: Any = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | Path | None = None,
        o3d_save_path: str | Path | None = None,
        vis_task: str = "lidar_det",
        pred_score_thr: float = 0.3,
        step: int = 0,
        show_pcd_rgb: bool = False,
    ) -> None:
        """Draw a frame and keep the picture.

        ``lidar_det`` and ``multi-modality_det`` show the scene from above, and cameras below where images are known;
        ``multi-view_det`` the cameras first; ``mono_det`` the camera alone, ground truth left and predictions right;
        ``lidar_seg`` the points in the colours of their classes, ground truth left and predictions right.

        Args:
            name: Name of the picture, and the beginning of its title.
            data_input: ``points`` (N, 3+), and perhaps ``img``: (H, W, 3) or (3, H, W), or several.
            data_sample: A ``Det3DDataSample`` or its dict. Ground truth is ``gt_instances_3d`` or, of validation
                frames, ``eval_ann_info``; predictions are ``pred_instances_3d``.
            draw_gt: Whether to draw ground truth.
            draw_pred: Whether to draw predictions.
            show: There are no windows: it is said once, and the picture kept.
            wait_time: Accepted for MMDetection3D's sake.
            out_file: File to write to instead of the backends; then on every rank, since each has its own frames.
            o3d_save_path: File for the view from above alone.
            vis_task: One of ``lidar_det``, ``lidar_seg``, ``multi-modality_det``, ``mono_det``, ``multi-view_det``.
            pred_score_thr: Least score of predictions to draw.
            step: Iteration.
            show_pcd_rgb: Give points the colours in their columns 3 to 5.
        """
        if vis_task not in TASKS:
            raise InputError(f"vis_task={vis_task!r} cannot be drawn; known: {', '.join(TASKS)}")
        if show:
            self._say("show=True opens no window; pictures are kept in files")
        if out_file is None and o3d_save_path is None and not is_main_process():
            return
        sample = to_plain(data_sample)
        truth = truth_of(sample) if draw_gt else Marks()
        found = found_in(sample, pred_score_thr) if draw_pred else None
        title = f"{name}   step {step}" + (f"   score >= {pred_score_thr:g}" if found is not None else "")
        points = cloud_of(data_input, self.pcd_mode)
        colors = _rgb(points) if show_pcd_rgb and points is not None else None
        images = images_of(data_input, sample, self._say)
        pairs = [] if vis_task == "lidar_seg" else list(zip(images, projections_of(sample), strict=False))
        above: Array | None = None
        if vis_task == "lidar_seg" and points is not None:
            above = self._segments(points, sample, title, draw_gt=draw_gt, draw_pred=draw_pred)
        elif not pairs or (points is not None and vis_task != "mono_det"):
            above = self._above(points, truth, found, title, colors)
        apart = vis_task == "mono_det" and found is not None and len(truth) > 0
        width = None if above is None else above.shape[1]
        seen = self._cameras(pairs, truth, found, apart=apart, width=width) if pairs else None
        if o3d_save_path is not None and above is not None:
            _write(above, o3d_save_path)
        parts = [seen, above] if vis_task == "multi-view_det" else [above, seen]
        picture = _stacked([part for part in parts if part is not None])
        self.set_image(picture)
        if out_file is not None:
            _write(picture, out_file)
        elif is_main_process():
            self.add_image(name, picture, step)

    def _above(
        self,
        points: Array | None,
        truth: Marks,
        found: Marks | None,
        title: str,
        colors: Array | None = None,
        legend: Sequence[tuple[str, Color | None]] | None = None,
    ) -> Array:
        """The scene from above."""
        points = points if points is not None else np.zeros((0, 3))
        found = found if found is not None else Marks()
        boxes = np.concatenate([truth.boxes, found.boxes])
        view = find_view(points, boxes, limits=self.point_cloud_range, pixels=self.bev_size)
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        return draw_bev(
            points,
            truth,
            found,
            view=view,
            classes=classes,
            palette=self.palette,
            title=title,
            line_width=self.line_width,
            colors=colors,
            legend=legend,
        )

    def _segments(
        self, points: Array, sample: Mapping[str, Any], title: str, *, draw_gt: bool, draw_pred: bool
    ) -> Array:
        """The points in the colours of their classes."""
        palette = self.mask_palette or _palette((self.dataset_meta or {}).get("palette")) or PALETTE
        wanted = {"ground truth": draw_gt, "predictions": draw_pred}
        sides = [(what, colors) for what, colors in semantic_colors(sample, palette) if wanted[what]]
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        legend: list[tuple[str, Color | None]] = list(zip(classes, palette, strict=False))
        tiles = [self._above(points, Marks(), None, f"{what}   {title}", colors, legend) for what, colors in sides]
        return grid(tiles, len(tiles)) if tiles else self._above(points, Marks(), None, title)

    def _cameras(
        self, pairs: list[tuple[Array, Array]], truth: Marks, found: Marks | None, *, apart: bool, width: int | None
    ) -> Array:
        """The cameras' views with boxes; with ``apart``, ground truth left and predictions right."""
        found = found if found is not None else Marks()
        sides = [(truth, Marks(), "ground truth"), (Marks(), found, "predictions")] if apart else [(truth, found, "")]
        columns = 2 if apart else min(self.multi_imgs_col, len(pairs))
        # Drawn at the size it is shown in, so that lines keep their width.
        each = pairs[0][0].shape[1] if width is None else (width - GAP * (columns - 1)) // columns
        tiles = []
        for image, lidar2img in pairs:
            for left, right, text in sides:
                tile = draw_boxes_on_image(
                    image, left, right, lidar2img=lidar2img, palette=self.palette, width=min(each, WIDEST // columns)
                )
                tiles.append(self._titled(tile, text) if text else tile)
        if len(tiles) == 1:
            return tiles[0]
        height = max(len(tile) for tile in tiles)
        padded = [np.pad(t, ((0, height - len(t)), (0, 0), (0, 0)), constant_values=16) for t in tiles]
        return grid(padded, columns, gap=GAP)

    def _titled(self, picture: Array, text: str) -> Array:
        canvas = Visualizer(image=picture)
        return canvas.draw_texts(text, (8, 6), colors=self.text_color, bboxes={"facecolor": "black"}).get_image()

    # -- one thing after the other ------------------------------------------------------------------------------

    def set_points(
        self,
        points: Any,
        pcd_mode: int = 0,
        vis_mode: str = "replace",
        frame_cfg: Mapping[str, Any] | None = None,
        points_color: Any = (0.8, 0.8, 0.8),
        points_size: int = 2,
        mode: str = "xyz",
    ) -> None:
        """Take a cloud, and draw it from above as the current picture.

        Args:
            points: (N, 3+).
            pcd_mode: Its axes: 0 the LiDAR's, 1 a camera's, 2 those of depth sensors.
            vis_mode: ``replace`` the cloud that was there, or ``add`` to it.
            frame_cfg: Accepted for MMDetection3D's sake, like ``points_color`` and ``points_size``: colours tell
                heights.
            points_color: See ``frame_cfg``.
            points_size: See ``frame_cfg``.
            mode: ``xyz``, or ``xyzrgb`` for colours in the columns 3 to 5.
        """
        if vis_mode not in ("replace", "add"):
            raise InputError(f"set_points: vis_mode must be 'replace' or 'add', got {vis_mode!r}")
        cloud = cloud_of({"points": points}, pcd_mode)
        assert cloud is not None
        self._cloud_colors = _rgb(cloud) if mode == "xyzrgb" else None
        self._cloud = cloud[:, :3] if vis_mode == "replace" else np.concatenate([self._cloud, cloud[:, :3]])
        if self._cloud_colors is not None and len(self._cloud_colors) != len(self._cloud):
            self._cloud_colors = None
        self.set_image(self._above(self._cloud, Marks(), None, self.name, self._cloud_colors))

    def draw_bboxes_3d(
        self,
        bboxes_3d: Boxes3D,
        bbox_color: Any = (0, 255, 0),
        points_in_box_color: Any = (255, 0, 0),
        rot_axis: int = 2,
        center_mode: str = "lidar_bottom",
        mode: str = "xyz",
    ) -> Self:
        """Draw boxes over the cloud of ``set_points``, from above.

        Args:
            bboxes_3d: Boxes of any frame.
            bbox_color: Of the outlines.
            points_in_box_color: Accepted for MMDetection3D's sake, like the rest.
            rot_axis: See ``points_in_box_color``.
            center_mode: See ``points_in_box_color``.
            mode: See ``points_in_box_color``.
        """
        ink = _ink(bbox_color)
        drawn = marks(bboxes_3d, np.zeros(len(bboxes_3d)), {}, scores=np.ones(len(bboxes_3d)))
        shown = Marks(drawn.boxes, drawn.labels, np.zeros(0))  # no scores beside them
        view = find_view(self._cloud, drawn.boxes, limits=self.point_cloud_range, pixels=self.bev_size)
        picture = draw_bev(
            self._cloud,
            Marks(),
            shown,
            view=view,
            palette=[ink],
            title=self.name,
            line_width=self.line_width,
            colors=self._cloud_colors,
            legend=[(f"boxes {len(drawn)}", ink)],
        )
        self.set_image(picture)
        return self

    def draw_seg_mask(self, seg_mask_colors: Any) -> Self:
        """Draw points in colours of their own, from above.

        Args:
            seg_mask_colors: (N, 6): x, y, z, red, green, blue.
        """
        rows = to_array(seg_mask_colors)
        self.set_points(rows, mode="xyzrgb")
        return self

    def set_bev_image(self, bev_image: Array | None = None, bev_shape: int = 900) -> None:
        """Begin a plain view from above for ``draw_bev_bboxes``.

        Args:
            bev_image: A picture; black by default.
            bev_shape: Its height and width where none is given.
        """
        self.set_image(np.zeros((bev_shape, bev_shape, 3), np.uint8) if bev_image is None else bev_image)

    def draw_bev_bboxes(
        self,
        bboxes_3d: Boxes3D,
        scale: float = 15,
        edge_colors: Any = "o",
        line_styles: Any = "-",
        line_widths: Any = 1,
        face_colors: Any = "none",
        alpha: float = 1,
    ) -> Self:
        """Draw boxes on the picture of ``set_bev_image``: x to the right from its middle, y down from its top.

        Args:
            bboxes_3d: Boxes; in a camera's frame, y of the picture is the distance.
            scale: Pixels per metre.
            edge_colors: See ``draw_bboxes``, like the rest.
            line_styles: See ``edge_colors``.
            line_widths: See ``edge_colors``.
            face_colors: See ``edge_colors``.
            alpha: See ``edge_colors``.
        """
        rows = to_array(bboxes_3d.bev).astype(float)  # (K, 5) x, y, dx, dy, yaw
        cos, sin = np.cos(rows[:, 4:5]), np.sin(rows[:, 4:5])
        along = np.concatenate([cos, sin], 1) * rows[:, 2:3] / 2
        across = np.concatenate([-sin, cos], 1) * rows[:, 3:4] / 2
        middle = rows[:, :2]
        corners = np.stack([middle + a * along + b * across for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))], 1)
        corners = corners * scale + np.array([self.get_image().shape[1] / 2, 0])
        return self.draw_polygons(list(corners), edge_colors, line_styles, line_widths, face_colors, alpha)

    def draw_points_on_image(self, points: Any, pts2img: Any, sizes: Any = 3, max_depth: float = 10) -> Self:
        """Draw points on the current picture, in colours that tell how far away they are.

        Args:
            points: (N, 3+).
            pts2img: (3, 4) or (4, 4) projection.
            sizes: Diameter in pixels.
            max_depth: Metres from which on all have the last colour.
        """
        self.set_image(
            draw_points_on_image(
                self.get_image(), to_array(points)[:, :3], to_array(pts2img), size=sizes, max_depth=max_depth
            )
        )
        return self

    def draw_proj_bboxes_3d(
        self,
        bboxes_3d: Boxes3D,
        input_meta: Mapping[str, Any],
        edge_colors: Any = "royalblue",
        line_styles: Any = "-",
        line_widths: Any = 2,
        face_colors: Any = "royalblue",
        alpha: float = 0.4,
        img_size: tuple[int, int] | None = None,
    ) -> Self:
        """Draw boxes on the current picture as a camera sees them; their front is filled.

        Args:
            bboxes_3d: Boxes of any frame.
            input_meta: ``lidar2img``, or ``cam2img`` and perhaps ``lidar2cam``.
            edge_colors: See ``draw_bboxes``, like the rest.
            line_styles: See ``edge_colors``.
            line_widths: See ``edge_colors``.
            face_colors: See ``edge_colors``; of the front.
            alpha: See ``edge_colors``.
            img_size: Accepted for MMDetection3D's sake: what lies outside is cut off anyway.
        """
        known = projections_of(input_meta)
        if not known:
            raise InputError("draw_proj_bboxes_3d needs lidar2img or cam2img in input_meta")
        boxes = marks(bboxes_3d, np.zeros(len(bboxes_3d)), input_meta).boxes
        for edges in project_edges(boxes, known[0]):
            ends = edges[:12][np.isfinite(edges[:12]).all((1, 2))]
            if len(ends):
                self.draw_lines(ends[..., 0], ends[..., 1], edge_colors, line_styles, line_widths)
            front = edges[4:8, 0]
            if np.isfinite(front).all() and not (isinstance(face_colors, str) and face_colors == "none"):
                self.draw_polygons([front], face_colors, "-", 1, face_colors, alpha)
        return self

    def show(  # type: ignore[override]
        self,
        save_path: str | Path | None = None,
        drawn_img_3d: Array | None = None,
        drawn_img: Array | None = None,
        win_name: str = "image",
        wait_time: float = -1,
        continue_key: str = "right",
        vis_task: str = "lidar_det",
    ) -> None:
        """Write the current picture to a file; there are no windows.

        Args:
            save_path: The file.
            drawn_img_3d: A picture to be the current one.
            drawn_img: The same, if there is no other.
            win_name: Accepted for MMDetection3D's sake, like the rest.
            wait_time: See ``win_name``.
            continue_key: See ``win_name``.
            vis_task: See ``win_name``.
        """
        given = drawn_img_3d if drawn_img_3d is not None else drawn_img
        if given is not None:
            self.set_image(given)
        if save_path is not None:
            _write(self.get_image(), save_path)
        else:
            super().show()


def _palette(given: Any) -> tuple[Color, ...]:
    """Colours by label; empty where none are given."""
    if given is None or not len(given):
        return ()
    colors: Any = [given] if isinstance(given[0], int) else given
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors)


def _ink(color: Any) -> Color:
    """A colour; three numbers up to 1 are shares of 255, as open3d has them."""
    if not isinstance(color, str) and max(color) <= 1:
        return to_color([255 * float(part) for part in color])
    return to_color(color)


def _rgb(points: Array) -> Array | None:
    """Colours in a cloud's columns 3 to 5, from 0 to 1 or from 0 to 255; None where it has none."""
    if points.shape[1] < 6:
        return None
    colors = points[:, 3:6].astype(float)
    inks: Array = np.clip(colors * (255 if colors.size and colors.max() <= 1 else 1), 0, 255).astype(np.uint8)
    return inks


def _to_width(picture: Array, width: int) -> Array:
    if picture.shape[1] == width:
        return picture
    size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _stacked(parts: Sequence[Array]) -> Array:
    """Pictures one below the other, as wide as the first."""
    return np.concatenate([_to_width(part, parts[0].shape[1]) for part in parts])


def _write(picture: Array, path: str | Path) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file, compress_level=3)
