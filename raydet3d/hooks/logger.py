"""`LoggerHook`: write log lines and scalars at intervals, and a panel with the state of the run on a terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from raydet3d.config.type_check import PositiveInt, checked
from raydet3d.errors import InputError
from raydet3d.files import write_atomic
from raydet3d.hooks.analysis_file import ANALYSIS, renewed_analysis
from raydet3d.hooks.backend_args import only_local
from raydet3d.hooks.base import Hook, global_batch_size
from raydet3d.hooks.context import DataBatch, DataLoader, Losses, Metrics, Mode, PartCfg, Predictions, RunContext
from raydet3d.progress_bar import LiveLine
from raydet3d.registry import HOOKS
from raydet3d.run_status import RunStatus


@HOOKS.register_module()
class LoggerHook(Hook):
    """Write the log processor's output to the log, the visualizer's backends and the run's scalar log.

    Training synchronises with the device only when this hook reads the values. Priority BELOW_NORMAL: after the hooks
    that record values.

    Args:
        interval: Number of batches between two log lines, counted from the start of the epoch.
        ignore_last: Do not log the remainder of an epoch whose length is not a multiple of `interval`.
        interval_exp_name: Number of iterations between two lines with the experiment's name.
        out_dir: Folder to copy the logs to at the end of the run.
        out_suffix: Suffixes of the files to copy.
        keep_local: Keep the original files after they are copied.
        file_client_args: Deprecated name of `backend_args`.
        log_metric_by_epoch: Use the epoch rather than the iteration as the step of validation metrics.
        backend_args: None or `dict(backend='local')`.
        headline: Substrings of the names of the metrics that the terminal and the summary at the end of a run show;
            files contain all. By default the terminal shows all metrics, and the summary shows all if they are few.
    """

    priority = "BELOW_NORMAL"

    @checked
    def __init__(
        self,
        interval: PositiveInt = 10,
        ignore_last: bool = True,
        interval_exp_name: PositiveInt = 1000,
        out_dir: str | Path | None = None,
        out_suffix: str | Sequence[str] = (".json", ".log", ".py", "yaml"),
        keep_local: bool = True,
        file_client_args: PartCfg | None = None,
        log_metric_by_epoch: bool = True,
        backend_args: PartCfg | None = None,
        headline: Sequence[str] = (),
    ) -> None:
        only_local("LoggerHook", backend_args, file_client_args)
        if out_dir is None and file_client_args is not None:
            raise InputError("LoggerHook: file_client_args is for copying to out_dir, which is not given")
        self.interval = interval
        self.ignore_last = ignore_last
        self.interval_exp_name = interval_exp_name
        self.out_dir = out_dir
        self.out_suffix = (out_suffix,) if isinstance(out_suffix, str) else tuple(out_suffix)
        self.keep_local = keep_local
        self.log_metric_by_epoch = log_metric_by_epoch
        self._headline = tuple(headline)
        self._live = LiveLine()
        self._status = RunStatus()

    @property
    def headline(self) -> Sequence[str]:
        """Substrings of the names of the metrics that the terminal and the summary at the end of a run show."""
        return self._headline

    def after_train_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Losses = None
    ) -> None:
        """Log a line and scalars at each interval; update the panel in between."""
        is_last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if is_last or (runner.iter + 1) % self.interval_exp_name == 0:
            self._live.clear()
            runner.logger.info("Exp name: %s", runner.experiment_name)
        if (batch_idx + 1) % self.interval == 0 or (is_last and (not self.ignore_last or batch_idx < self.interval)):
            runner.progress.last_log = runner.iter + 1
            if runner.rank == 0:
                self._write_train(runner, batch_idx)
            else:
                runner.message_hub.flush()
        elif self._live.is_due() and runner.rank == 0:
            self._live.show(self._panel(runner))

    def _write_train(self, runner: RunContext, batch_idx: int) -> None:
        tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
        self._live.clear()
        runner.logger.info(line)
        step = runner.iter + 1
        runner.visualizer.add_scalars(tag, step=step, file_path=self._json_name(runner))
        momenta = {key: values[0] for key, values in runner.optim_wrapper.get_momentum().items() if values}
        runner.scalar_log.write({**tag, **momenta}, mode="train", iteration=step, step=step)
        if self._live.is_terminal:
            self._status.read_scalars(tag, global_batch_size(runner.train_dataloader))

    def _panel(self, runner: RunContext) -> str:
        """Return the panel of the current state; values of the device are those of the newest log line."""
        hub, status = runner.message_hub, self._status
        status.name, status.workers = str(runner.work_dir), runner.world_size
        status.iteration, status.max_iters = runner.iter + 1, runner.max_iters
        status.epoch, status.max_epochs = runner.epoch + 1, runner.max_epochs
        status.eta_s = hub.get_info("eta")
        status.best = {
            key.removeprefix("best_score").lstrip("_") or "score": value
            for key, value in hub.runtime_info.items()
            if key.startswith("best_score") and isinstance(value, float)
        }
        return status.panel(shutil.get_terminal_size().columns)

    def after_val_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        """Log a line at each interval."""
        self._write_eval(runner, batch_idx, "val")

    def after_test_iter(
        self, runner: RunContext, batch_idx: int, data_batch: DataBatch = None, outputs: Predictions = None
    ) -> None:
        """Log a line at each interval."""
        self._write_eval(runner, batch_idx, "test")

    def _write_eval(self, runner: RunContext, batch_idx: int, mode: str) -> None:
        if runner.rank == 0 and self.every_n_inner_iters(batch_idx, self.interval):
            self._live.clear()
            runner.logger.info(runner.log_processor.get_log_after_iter(runner, batch_idx, mode)[1])

    def after_val_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Log a line and the scalars of a validation."""
        if runner.rank != 0:
            return
        tag, line = runner.log_processor.get_log_after_epoch(
            runner, _num_batches(runner.val_dataloader), "val", headline=self._headline
        )
        self._live.clear()
        runner.logger.info(line)
        step = runner.epoch if self.log_metric_by_epoch and runner.log_processor.by_epoch else runner.iter
        runner.visualizer.add_scalars(tag, step=step, file_path=self._json_name(runner))
        runner.scalar_log.write(tag, mode="val", iteration=runner.iter, step=step)
        self._write_analysis(runner, "val", step)

    def _write_analysis(self, runner: RunContext, mode: Mode, step: int) -> None:
        """Hand precision-recall curves to the back ends, and write `analysis.json` of the work dir.

        An evaluation on its own has its analysis in the log folder too.
        """
        evaluators = runner.val_evaluator if mode == "val" else runner.test_evaluator
        given = evaluators if isinstance(evaluators, list) else [evaluators]
        metrics = [metric for one in given for metric in getattr(one, "metrics", ())]
        is_training = mode == "val" and runner.is_training
        run = runner.run_name if is_training else None
        about = {"epoch": runner.epoch, "iter": runner.iter} if is_training else {"source": _checkpoint(runner)}
        for analysis in filter(None, [getattr(metric, "analysis", None) for metric in metrics]):
            for curve in analysis["curves"]:
                name = f"pr/{curve['category']}/{curve['level']}"
                runner.visualizer.add_pr_curve(name, curve["recall"], curve["precision"], step)
            place = runner.work_dir / ANALYSIS
            content = renewed_analysis(_read(place), analysis, run=run, **about)
            if content is not None:
                write_atomic(place, content)
            elif not is_training:
                runner.logger.info("%s is left as it is: its score is better", place)
            if not is_training:
                write_atomic(runner.log_dir / ANALYSIS, json.dumps({**analysis, **about}).encode())

    def after_test_epoch(self, runner: RunContext, metrics: Metrics = None) -> None:
        """Log a line, and write all metrics as one JSON object to the log folder."""
        if runner.rank != 0:
            return
        tag, line = runner.log_processor.get_log_after_epoch(
            runner, _num_batches(runner.test_dataloader), "test", with_non_scalar=True, headline=self._headline
        )
        runner.logger.info(line)
        path = Path(runner.log_dir) / self._json_name(runner)
        path.write_text(json.dumps(tag, default=_plain) + "\n", encoding="utf-8")
        self._write_analysis(runner, "test", runner.iter)

    def after_run(self, runner: RunContext) -> None:
        """Close the visualizer; copy the logs to `out_dir` if it is set."""
        self._live.clear()
        if runner.rank != 0:
            return
        runner.visualizer.close()
        if self.out_dir is None:
            return
        target = Path(self.out_dir) / runner.work_dir.name
        for path in sorted(runner.log_dir.rglob("*")):
            if path.is_file() and path.name.endswith(self.out_suffix):
                place = target / path.relative_to(runner.work_dir)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
                if not self.keep_local:
                    path.unlink()

    def _json_name(self, runner: RunContext) -> str:
        return f"{runner.timestamp}.json"


def _plain(value: object) -> object:
    """Return tensors and arrays as lists, and anything else that JSON does not know as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _num_batches(loader: DataLoader | None) -> int:
    return 0 if loader is None else len(loader)


def _read(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def _checkpoint(runner: RunContext) -> str:
    """Return the name of the checkpoint that is evaluated; empty for weights that come from elsewhere."""
    return Path(str(runner.cfg.get("load_from") or "")).name
