"""`Det3DVisualizationHook`: pictures of a few validation frames, and of every test frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydet3d.config.type_check import NonNegativeFloat, NonNegativeInt
from raydet3d.errors import InputError
from raydet3d.hooks.backend_args import only_local
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import RunContext
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class Det3DVisualizationHook(Hook):
    """Draws ground truth and predictions with the run's visualizer, from the batch's own points.

    A validation gives the samples of every `interval`-th batch of rank 0, the first batch among them, to the
    visualizer's backends: the same frames each time, named by frame, so that one sees them improve. A test draws
    all samples, into `test_out_dir` where it is given (each rank its own). What is not drawn costs nothing: no file
    is read for it. Priority NORMAL.

    Args:
        draw: Whether to draw at all.
        interval: Batches of a validation from one that is drawn to the next.
        score_thr: Least score of the predictions to draw.
        show: There are no windows: it is said once, and pictures are kept all the same.
        vis_task: `lidar_det`, `lidar_seg`, `multi-modality_det`, `mono_det` or `multi-view_det`.
        wait_time: Accepted for MMDetection3D's sake.
        test_out_dir: Folder for test pictures, `FRAME.png`; below the run's log folder unless absolute.
        draw_gt: Whether to draw ground truth.
        draw_pred: Whether to draw predictions.
        show_pcd_rgb: Give points the colours in their columns 3 to 5.
        backend_args: None or `dict(backend='local')`.
        max_frames: Pictures of one validation at most; no limit where None.
    """

    priority = "NORMAL"

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        score_thr: float = 0.3,
        show: bool = False,
        vis_task: str = "lidar_det",
        wait_time: NonNegativeFloat = 0.0,
        test_out_dir: str | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show_pcd_rgb: bool = False,
        backend_args: Mapping[str, Any] | None = None,
        max_frames: NonNegativeInt | None = None,
    ) -> None:
        if interval < 1:
            raise InputError(f"Det3DVisualizationHook: interval must be 1 or more, got {interval}")
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
        self._num_drawn = 0

    def before_val_epoch(self, runner: RunContext) -> None:
        """Begin to count pictures."""
        self._num_drawn = 0

    def after_val_iter(
        self, runner: RunContext, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the batch's samples, if it is this batch's turn.

        Args:
            runner: The run.
            batch_idx: Position of the batch in the validation.
            data_batch: What the loader gave.
            outputs: What the model returned, a data sample per sample.
        """
        if not self.draw or runner.rank != 0 or batch_idx % self.interval or not outputs:
            return
        for index, output in enumerate(outputs):
            if self.max_frames is not None and self._num_drawn >= self.max_frames:
                return
            self._num_drawn += 1
            self._draw(runner, f"val_{_frame_name(output, batch_idx, index)}", data_batch, outputs, index)

    def after_test_iter(
        self, runner: RunContext, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw all samples of the batch.

        Args:
            runner: The run.
            batch_idx: Position of the batch in the test.
            data_batch: What the loader gave.
            outputs: What the model returned, a data sample per sample.
        """
        if not self.draw or (self.test_out_dir is None and runner.rank != 0):
            return
        for index in range(len(outputs or ())):
            name = _frame_name(outputs[index], batch_idx, index)  # type: ignore[index]
            if self.test_out_dir is None:
                self._draw(runner, f"test_{name}", data_batch, outputs, index)
            else:
                # An absolute folder wins over the log folder.
                out_file = Path(runner.log_dir) / self.test_out_dir / f"{name}.png"
                self._draw(runner, name, data_batch, outputs, index, out_file=out_file)

    def _draw(
        self,
        runner: RunContext,
        name: str,
        data_batch: Any,
        outputs: Any,
        index: int,
        out_file: Path | None = None,
    ) -> None:
        """Hand one sample to the visualizer."""
        inputs = data_batch["inputs"]
        sample = outputs[index].to_dict()
        if not _has_truth(sample):
            # A model may return fresh samples; the loader's still hold the ground truth and the calibration.
            given = data_batch["data_samples"][index] if data_batch.get("data_samples") else None
            sample = (given.to_dict() if given is not None else {}) | sample
        runner.visualizer.add_datasample(
            name,
            {key: inputs[key][index] for key in ("points", "img") if key in inputs},
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


def _has_truth(sample: Mapping[str, Any]) -> bool:
    return "eval_ann_info" in sample or "bboxes_3d" in (sample.get("gt_instances_3d") or {})


def _frame_name(data_sample: Any, batch_idx: int, index: int = 0) -> str:
    """A frame's id in six digits, as KITTI writes it; its place in the run where it has none."""
    sample_idx = data_sample.get("sample_idx")
    if sample_idx is None:
        return f"batch{batch_idx}_{index}"
    text = str(sample_idx)
    return f"{int(text):06d}" if text.isdigit() else "".join(c if c.isalnum() or c in "-_." else "_" for c in text)
