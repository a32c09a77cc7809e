"""`Visualizer`: passes scalars, images and the config to all back ends, and draws on its current image.

Every visualizer belongs to one run; there is no global one. Back ends are used on rank 0 only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from raydet3d.active_run import ActiveRunProxy
from raydet3d.config import Config, ConfigValue, PartCfg
from raydet3d.dist import is_main_process
from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.registry import VISBACKENDS, VISUALIZERS
from raydet3d.structures import Det3DDataSample
from raydet3d.structures.sample_types import ArrayLike
from raydet3d.visual.backends import BaseVisBackend, Scalar, check_picture
from raydet3d.visual.bev import PALETTE
from raydet3d.visual.canvas import Array, Canvas, Color
from raydet3d.visual.featmap import draw_featmap
from raydet3d.visual.matching import MatchRule, match_boxes
from raydet3d.visual.sample_view import ground_truth_boxes, has_ground_truth, predicted_boxes, to_plain, to_scene
from raydet3d.visual.scene_page import PackedScene, pack_scene, write_scene_page

BackendsLike = BaseVisBackend | PartCfg | Sequence[BaseVisBackend | PartCfg] | None
SampleLike = Det3DDataSample | Mapping[str, Any] | None
"""A data sample, or its fields as a dict (see `PlainSample`)."""
Inputs = Mapping[str, ArrayLike | Sequence[ArrayLike]]
"""Model inputs of one frame: `points`, and perhaps `img`."""
LEAST_SCORE = 0.05
"""Minimum score of predictions on a page, whose slider begins at `pred_score_thr`."""


@VISUALIZERS.register_module()
class Visualizer(Canvas):
    """Pass scalars, images and the config to back ends; draw on the current image (see `Canvas`).

    Args:
        name: Name of the visualizer; it need not be unique.
        image: Initial image.
        vis_backends: Back ends or their configs, one or a list. Two of one class need a `name` in their configs.
        save_dir: Folder of the run; back ends without a folder get `save_dir/vis_data`.
        fig_save_cfg: Not used; kept for MMEngine's signature.
        fig_show_cfg: Not used; kept for MMEngine's signature.
    """

    pcd_mode = 0
    palette: Sequence[Color] = PALETTE
    mask_palette: Sequence[Color] = ()

    def __init__(
        self,
        name: str = "visualizer",
        image: Array | None = None,
        vis_backends: BackendsLike = None,
        save_dir: str | Path | None = None,
        fig_save_cfg: PartCfg | None = None,
        fig_show_cfg: PartCfg | None = None,
    ) -> None:
        super().__init__(image)
        self.name = name
        self.dataset_meta: Mapping[str, Any] | None = None
        self._warned: set[str] = set()
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

    @property
    def instance_name(self) -> str:
        """The visualizer's name, as MMEngine calls it."""
        return self.name

    @classmethod
    def get_instance(cls, name: str = "visualizer", **kwargs: object) -> Any:
        """Return the visualizer of the active run, or one without back ends.

        Args:
            name: Not used; kept for MMEngine's signature.
            **kwargs: Not used.
        """
        return ActiveRunProxy("visualizer", Visualizer)

    @classmethod
    def get_current_instance(cls) -> Any:
        """Return the visualizer of the active run, or one without back ends."""
        return cls.get_instance()

    def get_backend(self, name: str) -> BaseVisBackend:
        """Return a back end by its name or its class's name."""
        if name not in self._backends:
            raise KeyError(f"visualizer {self.name!r} has no backend {name!r}; it has {', '.join(self._backends)}")
        return self._backends[name]

    def _write(self, method: str, *args: object, **kwargs: object) -> None:
        """Call a method of all back ends, on rank 0. One that fails warns once; the others and the run go on.

        Raises:
            InputError: A back end lacks a folder or a package.
        """
        for name, backend in self._backends.items() if is_main_process() else ():
            try:
                getattr(backend, method)(*args, **kwargs)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - of whatever kind a back end's library raises
                self._warn_once(
                    f"back end {name} failed in {method} ({type(error).__name__}: {error}); the run goes on, and "
                    "further failures of it are not reported",
                    key=name,
                )

    def add_config(self, config: Config | Mapping[str, ConfigValue], **kwargs: object) -> None:
        """Add the run's config, secrets redacted."""
        self._write("add_config", config, **kwargs)

    def add_graph(self, model: nn.Module, data_batch: object, **kwargs: object) -> None:
        """Add the model's graph."""
        self._write("add_graph", model, data_batch, **kwargs)

    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: object) -> None:
        """Add one scalar."""
        self._write("add_scalar", name, value, step, **kwargs)

    def add_scalars(
        self, scalar_dict: Mapping[str, Scalar], step: int = 0, file_path: str | None = None, **kwargs: object
    ) -> None:
        """Add the scalars of one step.

        Args:
            scalar_dict: Scalars by name.
            step: Iteration.
            file_path: Another JSON-lines file below the local back end's folder.
            **kwargs: Passed to the back ends.
        """
        self._write("add_scalars", scalar_dict, step, file_path, **kwargs)

    def add_image(self, name: str, image: Array, step: int = 0) -> None:
        """Add an (H, W, 3) uint8 image."""
        self._write("add_image", name, check_picture(image), step)

    def add_pr_curve(self, name: str, recall: Sequence[float], precision: Sequence[float], step: int = 0) -> None:
        """Add a precision-recall curve."""
        self._write("add_pr_curve", name, recall, precision, step)

    def add_hparams(self, setting: Mapping[str, ConfigValue], scores: Mapping[str, float]) -> None:
        """Add the setting of a sweep's trial with its scores."""
        self._write("add_hparams", setting, scores)

    def add_datasample(
        self, name: str, data_input: Inputs, data_sample: SampleLike = None, *args: Any, **kwargs: Any
    ) -> None:
        """Draw a sample; subclasses implement it."""
        raise NotImplementedError(f"{type(self).__name__} does not draw samples; use Det3DLocalVisualizer")

    def count_errors(
        self,
        data_sample: SampleLike,
        *,
        pred_score_thr: float = 0.3,
        match_iou: float = 0.5,
        match_distance: float | None = None,
    ) -> tuple[int, int] | None:
        """Return the numbers of missed objects and of false positives; None without ground truth or predictions.

        Args:
            data_sample: As for `add_datasample`.
            pred_score_thr: Minimum score of predictions.
            match_iou: Minimum 3D IoU at which a prediction detects an object of its class.
            match_distance: Maximum distance of the centres in metres, used instead of `match_iou`.
        """
        sample = to_plain(data_sample)
        if not has_ground_truth(sample) or not sample.get("pred_instances_3d"):
            return None
        found = predicted_boxes(sample, pred_score_thr)
        assert found.scores is not None
        matches = match_boxes(ground_truth_boxes(sample), found, MatchRule(match_iou, match_distance))
        return matches.count_errors(found.scores, pred_score_thr)

    def pack_scene(
        self,
        name: str,
        data_input: Inputs,
        data_sample: SampleLike = None,
        *,
        draw_gt: bool = True,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        show_pcd_rgb: bool = False,
        match_iou: float = 0.5,
        match_distance: float | None = None,
    ) -> PackedScene:
        """Pack a frame for `write_page`; takes the arguments of `add_datasample`.

        Args:
            name: Name of the frame.
            data_input: `points` (N, 3+), optionally `img`.
            data_sample: A `Det3DDataSample` or its dict.
            draw_gt: Whether to show ground truth.
            draw_pred: Whether to show predictions, from a score of 0.05 on.
            pred_score_thr: Minimum score of predictions that count as false positives.
            show_pcd_rgb: Colour points by their columns 3 to 5.
            match_iou: Minimum 3D IoU at which a prediction detects an object of its class.
            match_distance: Maximum distance of the centres in metres, used instead of `match_iou`.
        """
        scene = to_scene(
            name,
            data_input,
            to_plain(data_sample),
            mode=self.pcd_mode,
            palette=self.mask_palette or (self.dataset_meta or {}).get("palette") or PALETTE,
            draw_gt=draw_gt,
            draw_pred=draw_pred,
            show_pcd_rgb=show_pcd_rgb,
            least=min(LEAST_SCORE, pred_score_thr),
            warn=self._warn_once,
        )
        return pack_scene(scene, rule=MatchRule(match_iou, match_distance), score_thr=pred_score_thr)

    def write_page(
        self,
        path: str | Path,
        scenes: Sequence[PackedScene],
        *,
        title: str,
        pred_score_thr: float = 0.3,
        match_iou: float = 0.5,
        match_distance: float | None = None,
    ) -> Path:
        """Write frames as a 3D page: one HTML file that needs no network, the frames with most errors first.

        Args:
            path: File to write.
            scenes: Frames of `pack_scene`.
            title: Title of the page.
            pred_score_thr: Initial minimum score; the page has a slider.
            match_iou: Value that the frames were packed with.
            match_distance: The same.
        """
        classes = [str(one) for one in (self.dataset_meta or {}).get("classes", ())]
        return write_scene_page(
            path,
            scenes,
            title=title,
            classes=classes,
            palette=self.palette,
            rule=MatchRule(match_iou, match_distance),
            score_thr=pred_score_thr,
        )

    def show(
        self,
        drawn_img: Array | None = None,
        win_name: str = "image",
        wait_time: float = 0.0,
        continue_key: str = " ",
        backend: str = "matplotlib",
    ) -> None:
        """Warn once that no window is opened: images go to back ends and files.

        Args:
            drawn_img: Image to set as the current one.
            win_name: Not used; kept for MMEngine's signature.
            wait_time: Not used.
            continue_key: Not used.
            backend: Not used.
        """
        if drawn_img is not None:
            self.set_image(drawn_img)
        self._warn_once("show() opens no window; images go to the visualizer's back ends and to files")

    def _warn_once(self, message: str, key: str | None = None) -> None:
        """Warn once, for each key where one is given."""
        if (key or message) not in self._warned:
            self._warned.add(key or message)
            get_logger().warning("%s", message)

    def close(self) -> None:
        """Close all back ends."""
        self._write("close")

    draw_featmap = staticmethod(draw_featmap)
