"""`Det3DLocalVisualizer`: draws frames of 3D detection as bird's-eye view and camera views, without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self, cast

import numpy as np
from PIL import Image

from raydet3d.config import PartCfg
from raydet3d.config.type_check import PositiveFloat, PositiveInt, Probability
from raydet3d.dist import is_main_process
from raydet3d.errors import InputError
from raydet3d.ops.points import points_in_boxes
from raydet3d.registry import VISUALIZERS
from raydet3d.structures import Boxes3D
from raydet3d.structures.sample_types import ArrayLike, CameraMatrices, PlainSample
from raydet3d.visual.bev import PALETTE, BoxSet, draw_bev, find_view, height_colors, height_range
from raydet3d.visual.camera import draw_boxes_on_image, draw_points_on_image, project_edges
from raydet3d.visual.canvas import Array, Color, ColorLike, ColorsLike, Numbers, Styles, to_array, to_color
from raydet3d.visual.featmap import grid
from raydet3d.visual.sample_view import (
    box_set,
    camera_views,
    ground_truth_boxes,
    lidar2img_matrices,
    lidar_points,
    point_rgb,
    predicted_boxes,
    semantic_colors,
    to_plain,
)
from raydet3d.visual.visualizer import BackendsLike, Inputs, SampleLike, Visualizer

GAP = 4
WIDEST = 2400
"""Pixels of a picture made of camera images alone."""
CAMERA_LINES = 2 / 3
"""Width of lines on camera images as a share of `line_width`."""
TASKS = ("lidar_det", "lidar_seg", "multi-modality_det", "mono_det", "multi-view_det")


@VISUALIZERS.register_module()
class Det3DLocalVisualizer(Visualizer):
    """Draw frames of 3D detection as bird's-eye view, with camera views below where images are known.

    Ground truth is green, predictions have the colours of their classes.

    Args:
        name: Name of the visualizer.
        points: Initial cloud for `set_points`.
        image: Initial image.
        pcd_mode: Axes of clouds: 0 LiDAR, 1 camera, 2 depth sensor.
        vis_backends: See `Visualizer`.
        save_dir: See `Visualizer`.
        bbox_color: Colours of predictions by label: names, or (red, green, blue) from 0 to 255; one serves all labels.
        text_color: Colour of titles on images.
        mask_color: Colours of point classes (`lidar_seg`); the data set's `palette` by default.
        line_width: Width of outlines in pixels; on camera images they are a third thinner.
        frame_cfg: Coordinate axes to draw in the bird's-eye view, x red and y green: `dict(size=1, origin=[0, 0, 0])`,
            metres. None draws the sensor's place only.
        alpha: Strength of the filling of ground-truth boxes, 0 to 1.
        multi_imgs_col: Camera images per row.
        fig_show_cfg: Not used; kept for MMDetection3D's signature.
        point_cloud_range: x0, y0, (z0,) x1, y1 (, z1) to show; from the data by default.
        bev_size: Longer side of the bird's-eye view in pixels.
    """

    def __init__(
        self,
        name: str = "visualizer",
        points: ArrayLike | None = None,
        image: Array | None = None,
        pcd_mode: int = 0,
        vis_backends: BackendsLike = None,
        save_dir: str | Path | None = None,
        bbox_color: ColorsLike | None = None,
        text_color: ColorLike = (200, 200, 200),
        mask_color: ColorsLike | None = None,
        line_width: PositiveFloat = 3,
        frame_cfg: PartCfg | None = None,
        alpha: Probability = 0.8,
        multi_imgs_col: PositiveInt = 3,
        fig_show_cfg: PartCfg | None = None,
        point_cloud_range: Sequence[float] | None = None,
        bev_size: PositiveInt = 1200,
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
        self._axes = _axes(frame_cfg)
        self.multi_imgs_col = max(1, int(multi_imgs_col))
        self.point_cloud_range = point_cloud_range
        self.bev_size = bev_size
        self._cloud: Array = np.zeros((0, 3))
        self._cloud_colors: Array | None = None
        self._point_size: int | None = None
        if points is not None:
            self.set_points(points, pcd_mode)

    def add_datasample(
        self,
        name: str,
        data_input: Inputs,
        data_sample: SampleLike = None,
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
        """Draw a frame and add the image to the back ends.

        `lidar_det` and `multi-modality_det` show the bird's-eye view, and cameras below where images are known;
        `multi-view_det` the cameras first; `mono_det` the camera alone, ground truth left and predictions right;
        `lidar_seg` the points in the colours of their classes, ground truth left and predictions right.

        Args:
            name: Name of the image and beginning of its title.
            data_input: `points` (N, 3+), optionally `img`: (H, W, 3) or (3, H, W), or several.
            data_sample: A `Det3DDataSample` or its dict. Ground truth is `gt_instances_3d` or, of validation
                frames, `eval_ann_info`; predictions are `pred_instances_3d`.
            draw_gt: Whether to draw ground truth.
            draw_pred: Whether to draw predictions.
            show: Opens no window; warns once.
            wait_time: Not used; kept for MMDetection3D's signature.
            out_file: File to write to instead of the back ends, on every rank, since each has its own frames.
            o3d_save_path: File for the bird's-eye view alone.
            vis_task: One of `lidar_det`, `lidar_seg`, `multi-modality_det`, `mono_det`, `multi-view_det`.
            pred_score_thr: Minimum score of predictions to draw.
            step: Iteration; 0, as of an evaluation, is left out of the title.
            show_pcd_rgb: Colour points by their columns 3 to 5.
        """
        if vis_task not in TASKS:
            raise InputError(f"vis_task={vis_task!r} cannot be drawn; known: {', '.join(TASKS)}")
        if show:
            self._warn_once("show=True opens no window; images are written to files")
        if out_file is None and o3d_save_path is None and not is_main_process():
            return
        sample = to_plain(data_sample)
        ground_truth = ground_truth_boxes(sample) if draw_gt else BoxSet()
        predictions = predicted_boxes(sample, pred_score_thr) if draw_pred else None
        parts_of_title = [name, f"step {step}" if step else "", f"score >= {pred_score_thr:g}" if draw_pred else ""]
        title = "   ".join(filter(None, parts_of_title))
        points = lidar_points(data_input, self.pcd_mode)
        colors = point_rgb(points) if show_pcd_rgb and points is not None else None
        views = [] if vis_task == "lidar_seg" else camera_views(data_input, sample, self._warn_once)
        pairs = [(view.image, view.lidar2img) for view in views]
        bev_image: Array | None = None
        if vis_task == "lidar_seg" and points is not None:
            bev_image = self._segments(points, sample, title, draw_gt=draw_gt, draw_pred=draw_pred)
        elif not pairs or (points is not None and vis_task != "mono_det"):
            bev_image = self._draw_bev(points, ground_truth, predictions, title, colors)
        side_by_side = vis_task == "mono_det" and predictions is not None and len(ground_truth) > 0
        width = None if bev_image is None else bev_image.shape[1]
        seen = (
            self._cameras(pairs, ground_truth, predictions, side_by_side=side_by_side, width=width) if pairs else None
        )
        if o3d_save_path is not None and bev_image is not None:
            _write(bev_image, o3d_save_path)
        parts = [seen, bev_image] if vis_task == "multi-view_det" else [bev_image, seen]
        picture = _stacked([part for part in parts if part is not None])
        self.set_image(picture)
        if out_file is not None:
            _write(picture, out_file)
        elif is_main_process():
            self.add_image(name, picture, step)

    def _draw_bev(
        self,
        points: Array | None,
        ground_truth: BoxSet,
        predictions: BoxSet | None,
        title: str,
        colors: Array | None = None,
        legend: Sequence[tuple[str, Color | None]] | None = None,
    ) -> Array:
        """Draw the bird's-eye view."""
        points = points if points is not None else np.zeros((0, 3))
        predictions = predictions if predictions is not None else BoxSet()
        boxes = np.concatenate([ground_truth.boxes, predictions.boxes])
        view = find_view(points, boxes, limits=self.point_cloud_range, pixels=self.bev_size)
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        return draw_bev(
            points,
            ground_truth,
            predictions,
            view=view,
            classes=classes,
            palette=self.palette,
            title=title,
            line_width=self.line_width,
            colors=colors,
            legend=legend,
            fill=self.alpha,
            axes=self._axes,
        )

    def _segments(self, points: Array, sample: PlainSample, title: str, *, draw_gt: bool, draw_pred: bool) -> Array:
        """Draw the points in the colours of their classes."""
        palette = self.mask_palette or _palette((self.dataset_meta or {}).get("palette")) or PALETTE
        wanted = {"ground truth": draw_gt, "predictions": draw_pred}
        sides = [(what, colors) for what, colors in semantic_colors(sample, palette) if wanted[what]]
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        legend: list[tuple[str, Color | None]] = list(zip(classes, palette, strict=False))
        tiles = [self._draw_bev(points, BoxSet(), None, f"{what}   {title}", colors, legend) for what, colors in sides]
        return grid(tiles, len(tiles)) if tiles else self._draw_bev(points, BoxSet(), None, title)

    def _cameras(
        self,
        pairs: list[tuple[Array, Array]],
        ground_truth: BoxSet,
        predictions: BoxSet | None,
        *,
        side_by_side: bool,
        width: int | None,
    ) -> Array:
        """Draw camera views with boxes; with `side_by_side`, ground truth left and predictions right."""
        predictions = predictions if predictions is not None else BoxSet()
        sides = (
            [(ground_truth, BoxSet(), "ground truth"), (BoxSet(), predictions, "predictions")]
            if side_by_side
            else [(ground_truth, predictions, "")]
        )
        columns = 2 if side_by_side else min(self.multi_imgs_col, len(pairs))
        # Draw at the final size, so that lines keep their width.
        each = pairs[0][0].shape[1] if width is None else (width - GAP * (columns - 1)) // columns
        tiles = []
        for image, lidar2img in pairs:
            for left, right, text in sides:
                tile = draw_boxes_on_image(
                    image,
                    left,
                    right,
                    lidar2img=lidar2img,
                    palette=self.palette,
                    line_width=max(1, round(self.line_width * CAMERA_LINES)),
                    width=min(each, WIDEST // columns),
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

    def set_points(
        self,
        points: ArrayLike,
        pcd_mode: int = 0,
        vis_mode: str = "replace",
        frame_cfg: PartCfg | None = None,
        points_color: ColorLike | None = None,
        points_size: PositiveInt | None = None,
        mode: str = "xyz",
    ) -> None:
        """Set a cloud and draw its bird's-eye view as the current image.

        Args:
            points: (N, 3+) points.
            pcd_mode: Axes of the points: 0 LiDAR, 1 camera, 2 depth sensor.
            vis_mode: `replace` the cloud, or `add` to it.
            frame_cfg: Coordinate axes to draw, as for the visualizer.
            points_color: Colour of the points; by default by height.
            points_size: Width of a point in pixels; by default 1 to 3, depending on the scale.
            mode: `xyz`, or `xyzrgb` for colours in the columns 3 to 5.
        """
        if vis_mode not in ("replace", "add"):
            raise InputError(f"set_points: vis_mode must be 'replace' or 'add', got {vis_mode!r}")
        if frame_cfg is not None:
            self._axes = _axes(frame_cfg)
        cloud = lidar_points({"points": points}, pcd_mode)
        assert cloud is not None
        colors = point_rgb(cloud) if mode == "xyzrgb" else None
        if points_color is not None:
            colors = np.tile(np.array(_open3d_color(points_color), np.uint8), (len(cloud), 1))
        if vis_mode == "add" and len(self._cloud):
            old, new = self._inks(self._cloud, self._cloud_colors), self._inks(cloud, colors)
            colors = None if self._cloud_colors is colors is None else np.concatenate([old, new])
            cloud = np.concatenate([self._cloud, cloud[:, :3]])
        self._cloud, self._cloud_colors, self._point_size = cloud[:, :3], colors, points_size
        self._draw_cloud()

    def _inks(self, points: Array, colors: Array | None) -> Array:
        """Return (N, 3) colours of points: given ones, else by height."""
        return colors if colors is not None else height_colors(np.nan_to_num(points[:, 2]), height_range(points))

    def _draw_cloud(self, boxes: BoxSet | None = None, ink: Color = (0, 255, 0)) -> None:
        """Draw the cloud, and boxes in one colour, as the current image."""
        shown = boxes if boxes is not None else BoxSet()
        picture = draw_bev(
            self._cloud,
            BoxSet(),
            BoxSet(shown.boxes, shown.labels, np.zeros(0)),  # no scores to write beside them
            view=find_view(self._cloud, shown.boxes, limits=self.point_cloud_range, pixels=self.bev_size),
            palette=[ink],
            title=self.name,
            line_width=self.line_width,
            colors=self._cloud_colors,
            legend=[(f"boxes {len(shown)}", ink)] if boxes is not None else [],
            point_size=self._point_size,
            axes=self._axes,
        )
        self.set_image(picture)

    def draw_bboxes_3d(
        self,
        bboxes_3d: Boxes3D,
        bbox_color: ColorLike = (0, 255, 0),
        points_in_box_color: ColorLike | None = (255, 0, 0),
        rot_axis: int = 2,
        center_mode: str = "lidar_bottom",
        mode: str = "xyz",
    ) -> Self:
        """Draw boxes over the cloud of `set_points` in the bird's-eye view.

        Args:
            bboxes_3d: Boxes of any frame.
            bbox_color: Colour of the outlines.
            points_in_box_color: Colour of the points inside the boxes; None leaves theirs.
            rot_axis: Not needed: boxes know their frame.
            center_mode: Not needed.
            mode: Not needed: the cloud's colours are those of `set_points`.
        """
        boxes = box_set(bboxes_3d, np.zeros(len(bboxes_3d)), {})
        if points_in_box_color is not None and len(self._cloud):
            inside = points_in_boxes(self._cloud, boxes.boxes.astype(self._cloud.dtype)).any(1)
            colors = np.array(self._inks(self._cloud, self._cloud_colors))
            colors[inside] = _open3d_color(points_in_box_color)
            self._cloud_colors = colors
        self._draw_cloud(boxes, _open3d_color(bbox_color))
        return self

    def draw_seg_mask(self, seg_mask_colors: ArrayLike) -> Self:
        """Draw coloured points in the bird's-eye view.

        Args:
            seg_mask_colors: (N, 6): x, y, z, red, green, blue.
        """
        rows = to_array(seg_mask_colors)
        self.set_points(rows, mode="xyzrgb")
        return self

    def set_bev_image(self, bev_image: Array | None = None, bev_shape: int = 900) -> None:
        """Set the image for `draw_bev_bboxes`.

        Args:
            bev_image: Image; black by default.
            bev_shape: Height and width of the default image.
        """
        self.set_image(np.zeros((bev_shape, bev_shape, 3), np.uint8) if bev_image is None else bev_image)

    def draw_bev_bboxes(
        self,
        bboxes_3d: Boxes3D,
        scale: float = 15,
        edge_colors: ColorsLike = "o",
        line_styles: Styles = "-",
        line_widths: Numbers = 1,
        face_colors: ColorsLike = "none",
        alpha: float = 1,
    ) -> Self:
        """Draw boxes on the image of `set_bev_image`: x to the right from its middle, y down from its top.

        Args:
            bboxes_3d: Boxes; in a camera's frame, y of the image is the distance.
            scale: Pixels per metre.
            edge_colors: Colours of the outlines.
            line_styles: `-`, `--`, `:` or `-.`.
            line_widths: Line widths in pixels.
            face_colors: Fill colours; `'none'` does not fill.
            alpha: Opacity, 0 to 1.
        """
        rows = to_array(bboxes_3d.bev).astype(float)  # (K, 5) x, y, dx, dy, yaw
        cos, sin = np.cos(rows[:, 4:5]), np.sin(rows[:, 4:5])
        along = np.concatenate([cos, sin], 1) * rows[:, 2:3] / 2
        across = np.concatenate([-sin, cos], 1) * rows[:, 3:4] / 2
        middle = rows[:, :2]
        corners = np.stack([middle + a * along + b * across for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))], 1)
        corners = corners * scale + np.array([self.get_image().shape[1] / 2, 0])
        return self.draw_polygons(list(corners), edge_colors, line_styles, line_widths, face_colors, alpha)

    def draw_points_on_image(
        self, points: ArrayLike, pts2img: ArrayLike, sizes: float = 3, max_depth: float = 10
    ) -> Self:
        """Draw points on the current image, coloured by depth.

        Args:
            points: (N, 3+) points.
            pts2img: (3, 4) or (4, 4) projection.
            sizes: Point size in pixels.
            max_depth: Depth in metres at which colours saturate.
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
        input_meta: CameraMatrices,
        edge_colors: ColorsLike = "royalblue",
        line_styles: Styles = "-",
        line_widths: Numbers = 2,
        face_colors: ColorsLike = "royalblue",
        alpha: float = 0.4,
        img_size: tuple[int, int] | None = None,
    ) -> Self:
        """Draw projected boxes on the current image; their front is filled.

        Args:
            bboxes_3d: Boxes of any frame.
            input_meta: `lidar2img`, or `cam2img` and optionally `lidar2cam`.
            edge_colors: Colours of the outlines.
            line_styles: `-`, `--`, `:` or `-.`.
            line_widths: Line widths in pixels.
            face_colors: Fill colour of the front; `'none'` does not fill.
            alpha: Opacity of the front, 0 to 1.
            img_size: Not used; kept for MMDetection3D's signature.
        """
        known = lidar2img_matrices(input_meta)
        if not known:
            raise InputError("draw_proj_bboxes_3d needs lidar2img or cam2img in input_meta")
        boxes = box_set(bboxes_3d, np.zeros(len(bboxes_3d)), input_meta).boxes
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
        """Write the current image to a file; no window is opened.

        Args:
            save_path: File.
            drawn_img_3d: Image to set as the current one.
            drawn_img: The same, without `drawn_img_3d`.
            win_name: Not used; kept for MMDetection3D's signature.
            wait_time: Not used.
            continue_key: Not used.
            vis_task: Not used.
        """
        given = drawn_img_3d if drawn_img_3d is not None else drawn_img
        if given is not None:
            self.set_image(given)
        if save_path is not None:
            _write(self.get_image(), save_path)
        else:
            super().show()


def _palette(given: ColorsLike | None) -> tuple[Color, ...]:
    """Return colours by label; empty without colours."""
    if given is None or not len(given):
        return ()
    is_one = isinstance(given, str) or isinstance(given[0], int | float)
    return tuple(to_color(color) for color in cast("Sequence[ColorLike]", [given] if is_one else given))


def _axes(frame_cfg: PartCfg | None) -> tuple[Sequence[float], float] | None:
    """Return origin and length of the axes to draw."""
    if frame_cfg is None:
        return None
    size, origin = frame_cfg.get("size", 1), frame_cfg.get("origin", (0, 0, 0))
    is_known = set(frame_cfg) <= {"size", "origin"} and isinstance(origin, Sequence) and len(origin) == 3
    if not is_known or not isinstance(size, int | float):
        raise InputError(f"visualizer: frame_cfg must be dict(size=1, origin=[0, 0, 0]), got {dict(frame_cfg)}")
    return cast(Sequence[float], origin), float(size)


def _open3d_color(color: ColorLike) -> Color:
    """Return a colour; three numbers up to 1 are fractions of 255, as in open3d."""
    if not isinstance(color, str) and max(color) <= 1:
        return to_color([255 * float(part) for part in color])
    return to_color(color)


def _to_width(picture: Array, width: int) -> Array:
    if picture.shape[1] == width:
        return picture
    size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _stacked(parts: Sequence[Array]) -> Array:
    """Stack images vertically at the width of the first."""
    return np.concatenate([_to_width(part, parts[0].shape[1]) for part in parts])


def _write(picture: Array, path: str | Path) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file, compress_level=3)
