"""`Det3DVisualizationHook`: draw frames of a validation or a test as pictures and as a 3D page, worst ones first."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor
from typing_extensions import override

from raydet3d import dist
from raydet3d.config.type_check import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, checked
from raydet3d.hooks.backend_args import only_local
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, DataSample, Metrics, PartCfg, Predictions, RunContext, StateDict
from raydet3d.registry import HOOKS


@dataclass
class _Frame:
    """A frame kept for drawing after the epoch.

    The greatest has most errors and, of equals, the first name: which frames are the worst does not depend on the
    number of ranks.
    """

    errors: int
    name: str
    text: str
    inputs: StateDict = field(repr=False)
    sample: StateDict = field(repr=False)

    def __lt__(self, other: _Frame) -> bool:
        return (self.errors, other.name) < (other.errors, self.name)


@HOOKS.register_module()
class Det3DVisualizationHook(Hook):
    """Draw ground truth and predictions with the run's visualizer, on the points of the batch.

    In validation, rank 0 draws the samples of every `interval`-th batch, starting with the first one, to the
    visualizer's backends. Each validation draws the same frames under the same names, so that they can be compared. A
    test draws all samples: each rank its own into `test_out_dir` if it is given, else rank 0 to the backends. With
    `worst=N`, all frames of all ranks are compared with their ground truth instead, and the N with the most missed
    objects and false positives are drawn after the epoch. Files are read only for frames that are drawn. Outputs that
    cannot be drawn are named in one warning. Priority NORMAL.

    Args:
        draw: Whether to draw pictures.
        interval: Number of validation batches between two that are drawn; not used with `worst`.
        score_thr: Minimum score of the predictions to draw.
        show: Windows are not supported: a warning is logged once, and images are written as usual.
        vis_task: `lidar_det`, `lidar_seg`, `multi-modality_det`, `mono_det` or `multi-view_det`.
        wait_time: Passed to the visualizer, which opens no window and does not wait.
        test_out_dir: Folder for test images, `FRAME.png`; below the run's log folder unless absolute.
        draw_gt: Whether to draw ground truth.
        draw_pred: Whether to draw predictions.
        show_pcd_rgb: Colour the points by their columns 3 to 5.
        backend_args: None or `dict(backend='local')`.
        max_frames: Maximum number of images per validation; None means no limit.
        worst: Number of frames with the most errors to draw after a validation or test; 0 draws by `interval`.
        page: Whether to write the drawn frames as a 3D page, worst first: `vis_data/scenes_val.html` or
            `scenes_test.html` in the run's log folder, replaced by each validation. A string names another folder, in
            which the page is `index.html`. Works without `draw` too.
        page_frames: Maximum number of frames on the page: the ones with most errors.
        match_iou: Minimum 3D IoU at which a prediction counts as the detection of an object of its class.
        match_distance: Maximum distance of the centres on the ground in metres, used instead of `match_iou`.
    """

    priority = "NORMAL"

    @checked
    def __init__(
        self,
        draw: bool = False,
        interval: PositiveInt = 50,
        score_thr: float = 0.3,
        show: bool = False,
        vis_task: str = "lidar_det",
        wait_time: NonNegativeFloat = 0.0,
        test_out_dir: str | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show_pcd_rgb: bool = False,
        backend_args: PartCfg | None = None,
        max_frames: NonNegativeInt | None = None,
        worst: NonNegativeInt = 0,
        page: bool | str = False,
        page_frames: PositiveInt = 30,
        match_iou: Annotated[float, Gt(0), Le(1)] = 0.5,
        match_distance: PositiveFloat | None = None,
    ) -> None:
        only_local("Det3DVisualizationHook", backend_args)
        self.draw = draw
        self.interval = interval
        self.score_thr = score_thr
        self.show = show
        self.vis_task = vis_task
        self.wait_time = wait_time
        self.test_out_dir = test_out_dir
        self.draw_gt = draw_gt
        self.draw_pred = draw_pred
        self.show_pcd_rgb = show_pcd_rgb
        self.max_frames = max_frames
        self.worst = worst
        self.page = page
        self.page_frames = page_frames
        self.match_iou = match_iou
        self.match_distance = match_distance
        self._num_drawn = 0
        self._seen: set[str] = set()
        self._kept: list[_Frame] = []
        self._warned: set[str] = set()

    @property
    def _is_active(self) -> bool:
        return self.draw or bool(self.page)

    @override
    def before_val_epoch(self, runner: RunContext) -> None:
        self._num_drawn = 0
        self._seen, self._kept = set(), []

    @override
    def before_test_epoch(self, runner: RunContext) -> None:
        self.before_val_epoch(runner)

    def after_val_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        """Draw the batch's samples at each `interval`-th batch, or rank all samples.

        Args:
            runner: The run.
            batch_idx: Index of the batch in the validation.
            data_batch: Batch from the data loader.
            outputs: Predictions of the model, one data sample per sample.
        """
        if not self._is_active or (not self.worst and (runner.rank != 0 or batch_idx % self.interval)):
            return
        for index, output in enumerate(outputs or ()):
            if not self.worst:
                if self.max_frames is not None and self._num_drawn >= self.max_frames:
                    return
                self._num_drawn += 1
            self._take(runner, "val", batch_idx, data_batch, output, index)

    def after_test_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        """Draw or rank all samples of the batch.

        Args:
            runner: The run.
            batch_idx: Index of the batch in the test.
            data_batch: Batch from the data loader.
            outputs: Predictions of the model, one data sample per sample.
        """
        is_needed = runner.rank == 0 or self.test_out_dir is not None or self.worst or self.page
        if not self._is_active or not is_needed:
            return
        for index, output in enumerate(outputs or ()):
            self._take(runner, "test", batch_idx, data_batch, output, index)

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Draw the worst frames and write the page.

        Args:
            runner: The run.
            metrics: Not used.
        """
        self._finish(runner, "val")

    def after_test_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Draw the worst frames and write the page.

        Args:
            runner: The run.
            metrics: Not used.
        """
        self._finish(runner, "test")

    def _take(
        self, runner: RunContext, mode: str, batch_idx: int, data_batch: DataBatch, output: DataSample, index: int
    ) -> None:
        """Draw a sample at once, or keep it if it is among the worst of this rank."""
        reason = _find_obstacle(data_batch, output)
        if reason is not None:
            self._warn(runner, reason)
            return
        assert isinstance(data_batch, Mapping)
        name = _frame_name(output, f"batch{batch_idx}_{index}", runner.rank)
        sample = output.to_dict()
        if not _has_truth(sample):
            # A model may return new data samples without ground truth and calibration; take those from the loader's.
            given = data_batch["data_samples"][index] if data_batch.get("data_samples") else None
            sample = (given.to_dict() if given is not None else {}) | sample
        inputs = {key: data_batch["inputs"][key][index] for key in ("points", "img") if key in data_batch["inputs"]}
        if self.draw and not self.worst:
            self._draw(runner, mode, name, inputs, sample)
        limit = self.worst or (self.page_frames if self.page else 0)
        if not limit or name in self._seen:  # samplers repeat frames to fill the last batches of the ranks
            return
        self._seen.add(name)
        errors = runner.visualizer.count_errors(
            sample, pred_score_thr=self.score_thr, match_iou=self.match_iou, match_distance=self.match_distance
        )
        if errors is None and self.worst:
            self._warn(runner, "frames without ground truth or predictions have no errors to sort by")
        misses, false_positives = errors or (0, 0)
        text = f"{name} ({misses} missed, {false_positives} false)"
        frame = _Frame(misses + false_positives, name, text, inputs, sample)
        if len(self._kept) < limit:
            heapq.heappush(self._kept, _copied(frame))
        elif self._kept[0] < frame:
            heapq.heapreplace(self._kept, _copied(frame))

    def _finish(self, runner: RunContext, mode: str) -> None:
        """Collect the frames that were kept by all ranks; rank 0 draws the worst and writes the page."""
        if not self._is_active or not (self.worst or self.page):
            return
        kept, self._kept = self._kept, []
        parts = dist.all_gather_object((self._seen, [(frame.name, frame.errors) for frame in kept]))
        errors = {name: count for _, frames in parts for name, count in frames}  # a repeated frame counts once
        chosen = sorted(errors, key=lambda name: (-errors[name], name))[: self.worst or self.page_frames]
        gathered = dist.gather_object([frame for frame in kept if frame.name in chosen])
        if gathered is None or not chosen:
            return
        frames = {frame.name: frame for part in gathered for frame in part}
        worst_first = [frames[name] for name in chosen]
        if self.worst:
            runner.logger.info(
                "Worst of %d frames: %s",
                len(set[str]().union(*(seen for seen, _ in parts))),
                ", ".join(frame.text for frame in worst_first),
            )
            for frame in worst_first if self.draw else ():
                self._draw(runner, mode, frame.name, frame.inputs, frame.sample)
        if self.page:
            self._write_page(runner, mode, worst_first)

    def _write_page(self, runner: RunContext, mode: str, frames: list[_Frame]) -> None:
        scenes = [
            runner.visualizer.pack_scene(
                frame.name,
                frame.inputs,
                frame.sample,
                draw_gt=self.draw_gt,
                draw_pred=self.draw_pred,
                pred_score_thr=self.score_thr,
                show_pcd_rgb=self.show_pcd_rgb,
                match_iou=self.match_iou,
                match_distance=self.match_distance,
            )
            for frame in frames[: self.page_frames]
        ]
        place = f"vis_data/scenes_{mode}.html" if self.page is True else f"{self.page}/index.html"
        title = f"{runner.experiment_name}, iteration {runner.iter}" if mode == "val" else runner.experiment_name
        path = runner.visualizer.write_page(
            Path(runner.log_dir) / place,  # an absolute folder replaces the log folder
            scenes,
            title=title,
            pred_score_thr=self.score_thr,
            match_iou=self.match_iou,
            match_distance=self.match_distance,
        )
        runner.logger.info("3D page of %d frames: %s", len(scenes), path)

    def _draw(self, runner: RunContext, mode: str, name: str, inputs: StateDict, sample: StateDict) -> None:
        """Draw one sample with the visualizer: to its backends, or to `test_out_dir`."""
        out_file = None
        if mode == "test" and self.test_out_dir is not None:
            # An absolute `test_out_dir` replaces the log folder.
            out_file = Path(runner.log_dir) / self.test_out_dir / f"{name}.png"
        elif runner.rank != 0:
            return
        try:
            runner.visualizer.add_datasample(
                name if out_file is not None else f"{mode}_{name}",
                inputs,
                data_sample=sample,
                draw_gt=self.draw_gt,
                draw_pred=self.draw_pred,
                show=self.show,
                wait_time=self.wait_time,
                out_file=out_file,
                vis_task=self.vis_task,
                pred_score_thr=self.score_thr,
                step=runner.iter,
                show_pcd_rgb=self.show_pcd_rgb,
            )
        except NotImplementedError as error:
            self._warn(runner, str(error))

    def _warn(self, runner: RunContext, reason: str) -> None:
        """Log once why frames are not drawn."""
        if reason not in self._warned:
            self._warned.add(reason)
            runner.logger.warning("Det3DVisualizationHook: %s", reason)


def _find_obstacle(data_batch: DataBatch, output: DataSample) -> str | None:
    """Return why a sample cannot be drawn, or None."""
    if not hasattr(output, "to_dict"):
        return f"the model's outputs are {type(output).__name__}, not data samples; nothing is drawn"
    if not isinstance(data_batch, Mapping) or not isinstance(data_batch.get("inputs"), Mapping):
        return "batches are not dicts with `inputs`; nothing is drawn"
    return None


def _copied(frame: _Frame) -> _Frame:
    """Return a frame with its data in memory of its own: that of the batch is used again."""
    return replace(frame, inputs=_to_host(frame.inputs), sample=_to_host(frame.sample))


def _to_host(values: StateDict) -> StateDict:
    """Copy tensors and boxes in nested dicts to the host."""
    out: StateDict = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out[key] = _to_host(value)
        elif isinstance(value, Tensor):
            out[key] = value.detach().to("cpu", copy=True)
        else:
            is_boxes = hasattr(value, "to") and not isinstance(value, type)  # `box_type_3d` is a class
            out[key] = value.to("cpu") if is_boxes else value
    return out


def _has_truth(sample: StateDict) -> bool:
    return "eval_ann_info" in sample or "bboxes_3d" in (sample.get("gt_instances_3d") or {})


def _frame_name(data_sample: DataSample, place: str, rank: int) -> str:
    """Format the frame's id with six digits, as in KITTI; name it by its place on its rank if it has no id."""
    sample_idx = data_sample.get("sample_idx")
    if sample_idx is None:
        return f"{place}_rank{rank}" if rank else place
    text = str(sample_idx)
    return f"{int(text):06d}" if text.isdigit() else "".join(c if c.isalnum() or c in "-_." else "_" for c in text)
