"""Visualizers: one front for all backends, and the drawing of a LiDAR frame with its boxes.

Every visualizer belongs to one run; there is no global one. Backends are used on rank 0 only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from raydet3d.current import Current
from raydet3d.dist import is_main_process
from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.registry import VISBACKENDS, VISUALIZERS
from raydet3d.structures import Box3DMode, Boxes3D
from raydet3d.visual.backends import BaseVisBackend
from raydet3d.visual.bev import PALETTE, Color, Marks, draw_bev, find_view
from raydet3d.visual.camera import draw_boxes_on_image

Array = npt.NDArray[Any]
TASKS = ("lidar_det", "multi-modality_det", "mono_det", "multi-view_det")


@VISUALIZERS.register_module()
class Visualizer:
    """Passes scalars, pictures and the config on to backends.

    Args:
        name: Name of the visualizer; two of the same name are two all the same.
        image: A first picture for ``get_image``.
        vis_backends: Backends, or their configs: one or a list. Two of a class need a ``name`` in their configs.
        save_dir: Folder of the run; backends that name none of their own get ``save_dir/vis_data``.
        fig_save_cfg: Accepted for MMEngine's sake.
        fig_show_cfg: Accepted for MMEngine's sake.
    """

    def __init__(
        self,
        name: str = "visualizer",
        image: Array | None = None,
        vis_backends: Any = None,
        save_dir: str | Path | None = None,
        fig_save_cfg: Mapping[str, Any] | None = None,
        fig_show_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.dataset_meta: Mapping[str, Any] | None = None
        self._image = image
        self._backends: dict[str, BaseVisBackend] = {}
        folder = None if save_dir is None else Path(save_dir) / "vis_data"
        if vis_backends is None:
            given = []
        elif isinstance(vis_backends, Mapping) or not isinstance(vis_backends, Sequence):
            given = [vis_backends]
        else:
            given = list(vis_backends)
        for backend in given:
            key = None
            if isinstance(backend, Mapping):
                cfg = dict(backend)
                key = cfg.pop("name", None)
                if cfg.get("save_dir") is None:
                    if folder is None:
                        get_logger().warning(
                            "%s is not used: neither it nor the visualizer has a save_dir", cfg.get("type")
                        )
                        continue
                    cfg["save_dir"] = str(folder)
                backend = VISBACKENDS.build(cfg)
            key = str(key or type(backend).__name__)
            if key in self._backends:
                raise InputError(f"visualizer {name!r} has two backends {key!r}; give one a name=")
            self._backends[key] = backend

    @classmethod
    def get_instance(cls, name: str = "visualizer", **kwargs: Any) -> Any:
        """The visualizer of the run that is at work; one that keeps nothing, where none is.

        Args:
            name: Accepted for MMEngine's sake, as is the rest: runs share nothing.
            **kwargs: See ``name``.
        """
        return Current("visualizer", Visualizer)

    @classmethod
    def get_current_instance(cls) -> Any:
        """As ``get_instance``."""
        return cls.get_instance()

    def get_backend(self, name: str) -> BaseVisBackend:
        """A backend by its name, or by its class's."""
        if name not in self._backends:
            raise KeyError(f"visualizer {self.name!r} has no backend {name!r}; it has {', '.join(self._backends)}")
        return self._backends[name]

    def _each(self) -> list[BaseVisBackend]:
        """Backends to write to: none on ranks other than 0."""
        return list(self._backends.values()) if is_main_process() else []

    def add_config(self, config: Any, **kwargs: Any) -> None:
        """Keep the run's config, secrets redacted."""
        for backend in self._each():
            backend.add_config(config, **kwargs)

    def add_graph(self, model: Any, data_batch: Any, **kwargs: Any) -> None:
        """Keep the model's graph, where a backend can."""
        for backend in self._each():
            backend.add_graph(model, data_batch, **kwargs)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Keep one number."""
        for backend in self._each():
            backend.add_scalar(name, value, step, **kwargs)

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Keep numbers of one step.

        Args:
            scalar_dict: Numbers by name.
            step: Iteration.
            file_path: A JSON-lines file below the local backend's folder to write to as well.
            **kwargs: Passed on.
        """
        for backend in self._each():
            backend.add_scalars(scalar_dict, step, file_path, **kwargs)

    def add_image(self, name: str, image: Array, step: int = 0) -> None:
        """Keep an (H, W, 3) uint8 picture."""
        for backend in self._each():
            backend.add_image(name, image, step)

    def add_datasample(self, name: str, data_input: Any, data_sample: Any, *args: Any, **kwargs: Any) -> None:
        """Draw a sample; the base class cannot."""
        raise NotImplementedError(f"{type(self).__name__} does not draw samples; use Det3DLocalVisualizer")

    def set_image(self, image: Array) -> None:
        """Set the current picture."""
        self._image = image

    def get_image(self) -> Array:
        """The current picture: the last one that was drawn or set."""
        if self._image is None:
            raise ValueError("nothing has been drawn yet; call set_image or add_datasample first")
        return self._image

    def close(self) -> None:
        """Let all backends finish."""
        for backend in self._backends.values():
            backend.close()


@VISUALIZERS.register_module()
class Det3DLocalVisualizer(Visualizer):
    """Draws frames of 3D detection from above, with the camera's view below where an image is known.

    No display, GPU or window is needed.

    Args:
        name: Name of the visualizer.
        points: Accepted for MMDetection3D's sake, like ``pcd_mode``, ``text_color``, ``mask_color``, ``frame_cfg``,
            ``alpha``, ``multi_imgs_col`` and ``fig_show_cfg``.
        image: A first picture for ``get_image``.
        pcd_mode: See ``points``.
        vis_backends: See ``Visualizer``.
        save_dir: See ``Visualizer``.
        bbox_color: Colours of the classes' predictions by label, (red, green, blue) from 0 to 255.
        text_color: See ``points``.
        mask_color: See ``points``.
        line_width: Width of outlines in pixels.
        frame_cfg: See ``points``.
        alpha: See ``points``.
        multi_imgs_col: See ``points``.
        fig_show_cfg: See ``points``.
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
        mask_color: Any = None,
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
        self.palette = _palette(bbox_color)
        self.line_width = max(1, round(line_width))
        self.point_cloud_range = point_cloud_range
        self.bev_size = bev_size
        self._has_said: set[str] = set()

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
        o3d_save_path: str | None = None,
        vis_task: str = "lidar_det",
        pred_score_thr: float = 0.3,
        step: int = 0,
        show_pcd_rgb: bool = False,
    ) -> None:
        """Draw a frame and keep the picture.

        Args:
            name: Name of the picture, and the beginning of its title.
            data_input: ``points`` (N, 3+), and perhaps ``img`` ((H, W, 3) or (3, H, W)).
            data_sample: A ``Det3DDataSample`` or its dict. Ground truth is ``gt_instances_3d`` or, of validation
                frames, ``eval_ann_info``; predictions are ``pred_instances_3d``.
            draw_gt: Whether to draw ground truth.
            draw_pred: Whether to draw predictions.
            show: Accepted; there are no windows.
            wait_time: Accepted.
            out_file: File to write to instead of the backends; then on every rank, since each has its own frames.
            o3d_save_path: Accepted.
            vis_task: One of ``lidar_det``, ``multi-modality_det``, ``mono_det``, ``multi-view_det``.
            pred_score_thr: Least score of predictions to draw.
            step: Iteration.
            show_pcd_rgb: Accepted.
        """
        if vis_task not in TASKS:
            raise InputError(f"vis_task={vis_task!r} cannot be drawn; known: {', '.join(TASKS)}")
        if show:
            self._say("show=True opens no window; pictures are kept in files")
        if out_file is None and not is_main_process():
            return
        sample = _plain(data_sample)
        truth = _truth(sample) if draw_gt else Marks()
        found = _found(sample, pred_score_thr) if draw_pred else None
        title = f"{name}   step {step}" + (f"   score >= {pred_score_thr:g}" if found is not None else "")
        picture = self.draw(data_input, sample, truth, found, title=title)
        self.set_image(picture)
        if out_file is None:
            self.add_image(name, picture, step)
            return
        file = Path(out_file)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file, compress_level=3)

    def draw(
        self,
        data_input: Mapping[str, Any],
        sample: Mapping[str, Any],
        truth: Marks,
        found: Marks | None,
        *,
        title: str = "",
    ) -> Array:
        """Give the picture of a frame.

        Args:
            data_input: ``points``, and perhaps ``img``.
            sample: Meta information: ``lidar2img`` (or ``cam2img`` and ``lidar2cam``), ``img_path``.
            truth: Ground truth in the LiDAR's frame.
            found: Predictions in the LiDAR's frame; None if they are not asked for.
            title: Headline.
        """
        found = found if found is not None else Marks()
        points = _array(data_input["points"]) if data_input.get("points") is not None else np.zeros((0, 3))
        boxes = np.concatenate([truth.boxes, found.boxes])
        view = find_view(points, boxes, limits=self.point_cloud_range, pixels=self.bev_size)
        classes = [str(name) for name in (self.dataset_meta or {}).get("classes", ())]
        picture = draw_bev(
            points,
            truth,
            found,
            view=view,
            classes=classes,
            palette=self.palette,
            title=title,
            line_width=self.line_width,
        )
        lidar2img, image = _projection(sample), self._camera_image(data_input, sample)
        if lidar2img is None or image is None:
            return picture
        camera = draw_boxes_on_image(
            image, truth, found, lidar2img=lidar2img, palette=self.palette, width=picture.shape[1]
        )
        return np.concatenate([picture, camera])

    def _camera_image(self, data_input: Mapping[str, Any], sample: Mapping[str, Any]) -> Array | None:
        """The frame's image: the batch's, else the file's that the sample names, else none."""
        given = data_input.get("img")
        if given is not None:
            image = _array(given)
            image = image.transpose(1, 2, 0) if image.shape[0] == 3 and image.shape[-1] != 3 else image
            return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8)) if image.ndim == 3 else None
        path = sample.get("img_path")
        if not isinstance(path, str | Path) or not Path(path).is_file():
            return None
        try:
            with Image.open(path) as file:
                return np.asarray(file.convert("RGB"))
        except OSError as error:
            self._say(f"{path} cannot be read as an image ({error}); frames are drawn without it")
            return None

    def _say(self, message: str) -> None:
        """Warn once."""
        if message not in self._has_said:
            self._has_said.add(message)
            get_logger().warning(message)


def _palette(given: Sequence[Color] | Color | None) -> tuple[Color, ...]:
    if given is None or not len(given):
        return PALETTE
    colors: Any = [given] if isinstance(given[0], int) else given
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors)


def _plain(data_sample: Any) -> Mapping[str, Any]:
    """A data sample as nested dicts."""
    if data_sample is None:
        return {}
    plain: Mapping[str, Any] = data_sample.to_dict() if hasattr(data_sample, "to_dict") else data_sample
    return plain


def _truth(sample: Mapping[str, Any]) -> Marks:
    """Ground truth of a training frame, or of a validation frame."""
    own = sample.get("gt_instances_3d") or {}
    if "bboxes_3d" in own:
        return _marks(own["bboxes_3d"], own["labels_3d"], sample)
    held = sample.get("eval_ann_info") or {}
    if "gt_bboxes_3d" in held:
        return _marks(held["gt_bboxes_3d"], held["gt_labels_3d"], sample)
    return Marks()


def _found(sample: Mapping[str, Any], least: float) -> Marks:
    """Predictions with a score of ``least`` or more."""
    own = sample.get("pred_instances_3d") or {}
    if "bboxes_3d" not in own:
        return Marks(scores=np.zeros(0))
    scores = _array(own["scores_3d"])
    return _marks(own["bboxes_3d"], own["labels_3d"], sample, scores=scores, least=least)


def _marks(
    boxes: Any, labels: Any, sample: Mapping[str, Any], *, scores: Array | None = None, least: float = 0.0
) -> Marks:
    """Boxes of any frame in the LiDAR's; those that are not finite, or whose score is below ``least``, are left out."""
    numbers = _array(labels).astype(int)
    if isinstance(boxes, Boxes3D):
        boxes = boxes.to("cpu")
        if boxes.mode != Box3DMode.LIDAR:
            lidar2cam = sample.get("lidar2cam") if boxes.mode == Box3DMode.CAM else None
            matrix = None if lidar2cam is None else np.linalg.inv(_square(lidar2cam))
            boxes = boxes.convert_to(Box3DMode.LIDAR, matrix)
        boxes = boxes.tensor
    rows = _array(boxes)
    rows = rows.reshape(len(numbers), rows.shape[1] if rows.ndim > 1 else 7)[:, :7]  # K may be 0
    keep = np.isfinite(rows).all(1)
    if scores is not None:
        keep &= scores >= least
    return Marks(rows[keep], numbers[keep], None if scores is None else scores[keep])


def _projection(sample: Mapping[str, Any]) -> Array | None:
    """LiDAR to image, where the sample knows it."""
    if sample.get("lidar2img") is not None:
        matrix = _array(sample["lidar2img"])
        return matrix if matrix.ndim == 2 else None
    if sample.get("cam2img") is not None and sample.get("lidar2cam") is not None:
        product: Array = _square(sample["cam2img"]) @ _square(sample["lidar2cam"])
        return product
    return None


def _square(matrix: Any) -> Array:
    """A matrix padded to 4x4."""
    given = _array(matrix)
    out = np.eye(4)
    out[: given.shape[0], : given.shape[1]] = given
    return out


def _array(values: Any) -> Array:
    """A tensor or anything like it in host memory."""
    return values.detach().cpu().float().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
