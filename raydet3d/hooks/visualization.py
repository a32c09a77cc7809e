"""`Det3DVisualizationHook`: draw some validation frames and all test frames."""

from __future__ import annotations

from pathlib import Path

from raydet3d.config.type_check import NonNegativeFloat, NonNegativeInt
from raydet3d.errors import InputError
from raydet3d.hooks.backend_args import only_local
from raydet3d.hooks.base import Hook
from raydet3d.hooks.context import DataBatch, DataSample, PartCfg, Predictions, RunContext, StateDict
from raydet3d.registry import HOOKS


@HOOKS.register_module()
class Det3DVisualizationHook(Hook):
    """Draw ground truth and predictions with the run's visualizer, on the points of the batch.

    In validation, rank 0 draws the samples of every `interval`-th batch, starting with the first one, to the
    visualizer's backends. Each validation draws the same frames under the same names, so that they can be compared. A
    test draws all samples: each rank its own into `test_out_dir` if it is given, else rank 0 to the backends. No files
    are read for drawing. Priority NORMAL.

    Args:
        draw: Whether to draw at all.
        interval: Number of validation batches between two that are drawn.
        score_thr: Minimum score of the predictions to draw.
        show: Windows are not supported: a warning is logged once, and images are written as usual.
        vis_task: `lidar_det`, `lidar_seg`, `multi-modality_det`, `mono_det` or `multi-view_det`.
        wait_time: Ignored; accepted for compatibility with MMDetection3D.
        test_out_dir: Folder for test images, `FRAME.png`; below the run's log folder unless absolute.
        draw_gt: Whether to draw ground truth.
        draw_pred: Whether to draw predictions.
        show_pcd_rgb: Colour the points by their columns 3 to 5.
        backend_args: None or `dict(backend='local')`.
        max_frames: Maximum number of images per validation; None means no limit.
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
        backend_args: PartCfg | None = None,
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
        """Reset the number of drawn images."""
        self._num_drawn = 0

    def after_val_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        """Draw the batch's samples at each `interval`-th batch.

        Args:
            runner: The run.
            batch_idx: Index of the batch in the validation.
            data_batch: Batch from the data loader.
            outputs: Predictions of the model, one data sample per sample.
        """
        if not self.draw or runner.rank != 0 or batch_idx % self.interval or not outputs:
            return
        for index, output in enumerate(outputs):
            if self.max_frames is not None and self._num_drawn >= self.max_frames:
                return
            self._num_drawn += 1
            self._draw(runner, f"val_{_frame_name(output, batch_idx, index)}", data_batch, output, index)

    def after_test_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        """Draw all samples of the batch.

        Args:
            runner: The run.
            batch_idx: Index of the batch in the test.
            data_batch: Batch from the data loader.
            outputs: Predictions of the model, one data sample per sample.
        """
        if not self.draw or (self.test_out_dir is None and runner.rank != 0):
            return
        for index, output in enumerate(outputs or ()):
            name = _frame_name(output, batch_idx, index)
            if self.test_out_dir is None:
                self._draw(runner, f"test_{name}", data_batch, output, index)
            else:
                # An absolute `test_out_dir` replaces the log folder.
                out_file = Path(runner.log_dir) / self.test_out_dir / f"{name}.png"
                self._draw(runner, name, data_batch, output, index, out_file=out_file)

    def _draw(
        self,
        runner: RunContext,
        name: str,
        data_batch: DataBatch,
        output: DataSample,
        index: int,
        out_file: Path | None = None,
    ) -> None:
        """Draw one sample with the visualizer."""
        assert isinstance(data_batch, dict)
        inputs = data_batch["inputs"]
        sample = output.to_dict()
        if not _has_truth(sample):
            # A model may return new data samples without ground truth and calibration; take those from the loader's.
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


def _has_truth(sample: StateDict) -> bool:
    return "eval_ann_info" in sample or "bboxes_3d" in (sample.get("gt_instances_3d") or {})


def _frame_name(data_sample: DataSample, batch_idx: int, index: int = 0) -> str:
    """Format the frame's id with six digits, as in KITTI; use the batch and sample index if it has no id."""
    sample_idx = data_sample.get("sample_idx")
    if sample_idx is None:
        return f"batch{batch_idx}_{index}"
    text = str(sample_idx)
    return f"{int(text):06d}" if text.isdigit() else "".join(c if c.isalnum() or c in "-_." else "_" for c in text)
