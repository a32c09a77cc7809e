"""Format the history of a run as values to record and a log line, in MMEngine's format."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch

from raydet3d.config.type_check import NonNegativeInt, PositiveInt
from raydet3d.errors import InputAssertionError, InputError
from raydet3d.hooks.context import PartCfg, RunContext
from raydet3d.registry import LOG_PROCESSORS
from raydet3d.runtime.history import STATISTICS, Series

SMOOTHED = r".*(loss|time|data_time|grad_norm).*"
_CUSTOM_KEYS = {"data_src", "method_name", "window_size", "log_name"}


def peak_memory(device: torch.device | None) -> int:
    """Return the peak memory of this process in MiB: of the device if it is a GPU, else of the host."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device)) // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10


@LOG_PROCESSORS.register_module()
class LogProcessor:
    """Format the history as a tag (values by name) and a log line.

    Args:
        window_size: Number of iterations over which losses, times and the gradient norm are averaged; of other scalars
            the newest value is logged. Windows extend across epochs.
        by_epoch: Write `Epoch(train) [1][ 10/100]` instead of `Iter(train) [ 10/1000]`.
        custom_cfg: Additional statistics, each a `dict(data_src=, method_name=, log_name=, window_size=)`. The method
            is `mean`, `min`, `max`, `current` or one added by `register_statistic`; the window is a number, `'epoch'`
            or `'global'`. Without a `log_name`, the statistic replaces the logged value of `data_src`.
        num_digits: Number of digits after the decimal point.
        log_with_hierarchy: Record `train/loss` instead of `loss`.
        mean_pattern: Regular expression; scalars whose name matches from its start are averaged.

    Raises:
        InputError: `custom_cfg` is invalid.
    """

    def __init__(
        self,
        window_size: PositiveInt = 10,
        by_epoch: bool = True,
        custom_cfg: Sequence[PartCfg] | None = None,
        num_digits: NonNegativeInt = 4,
        log_with_hierarchy: bool = False,
        mean_pattern: str = SMOOTHED,
    ) -> None:
        self.window_size = window_size
        self.by_epoch = by_epoch
        self.custom_cfg = [dict(item) for item in custom_cfg or []]
        self.num_digits = num_digits
        self.log_with_hierarchy = log_with_hierarchy
        self.mean_pattern = re.compile(mean_pattern)
        self._smoothed: dict[str, bool] = {}
        self._check_custom()

    def get_log_after_iter(self, runner: RunContext, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        """Return the tag and the log line of an iteration.

        Args:
            runner: Context of the run.
            batch_idx: Index of the batch, from 0: in its epoch, or in the run if training is iteration-based.
            mode: `train`, `val` or `test`.
        """
        scalars = self._collect(runner, batch_idx, mode)
        tag: dict[str, Any] = {**self._named(scalars, mode)}
        parts = [self._head_of_iter(runner, batch_idx, mode)]
        rates = {key: scalars.pop(key) for key in list(scalars) if key.endswith("lr")}
        parts.append(" ".join(f"{key}: {value:.{self.num_digits}e}" for key, value in rates.items()))
        eta = runner.message_hub.get_info("eta")
        if eta is not None:
            parts.append(f"eta: {timedelta(seconds=int(eta))}")
        for key in ("time", "data_time"):
            if key in scalars:
                parts.append(f"{key}: {scalars.pop(key):.{self.num_digits}f}")
        memory = peak_memory(runner.device)
        parts.append(f"memory: {memory}")
        if mode == "train":
            if self.by_epoch:
                tag["epoch"] = runner.epoch + 1
            tag["iter"] = runner.iter + 1
            parts.extend(f"{key}: {self._digits(value)}" for key, value in scalars.items())
        tag["memory"] = memory
        return tag, "  ".join(parts)

    def get_log_after_epoch(
        self,
        runner: RunContext,
        batch_idx: int,
        mode: str,
        with_non_scalar: bool = False,
        headline: Sequence[str] = (),
    ) -> tuple[dict[str, Any], str]:
        """Return the tag and the log line of a validation or test.

        Args:
            runner: Context of the run.
            batch_idx: Number of batches.
            mode: `val` or `test`.
            with_non_scalar: Whether the tag includes metrics that are not numbers.
            headline: Substrings of the names of the metrics to show in the line; all metrics by default.
        """
        hub = runner.message_hub
        metrics: Mapping[str, Any] = hub.get_info(f"{mode}_metrics", {})
        scalars = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
        other = {key: value for key, value in metrics.items() if key not in scalars}
        times = {
            key: series.mean(max(batch_idx, 1))
            for key in ("data_time", "time")
            if (series := hub.log_scalars.get(f"{mode}/{key}")) is not None
        }
        tag: dict[str, Any] = self._named({**scalars, **times}, mode)
        if with_non_scalar:
            tag.update(other)
        said = {k: v for k, v in metrics.items() if not headline or any(part in k for part in headline)}
        shown, total = {**said, **times}, batch_idx
        if mode == "val" and self.by_epoch:
            head = f"Epoch({mode}) [{runner.epoch}][{total}/{total}]"
        else:
            head = f"{'Epoch' if self.by_epoch else 'Iter'}({mode}) [{total}/{total}]"
        return tag, f"{head}    " + "  ".join(f"{key}: {self._digits(value)}" for key, value in shown.items())

    def _head_of_iter(self, runner: RunContext, batch_idx: int, mode: str) -> str:
        if mode == "train" and not self.by_epoch:
            done, total = runner.iter + 1, runner.max_iters
        else:
            loader = getattr(runner, f"{mode}_dataloader")
            done, total = batch_idx + 1, len(loader)
        count = f"[{done:>{len(str(total))}}/{total}]"
        if not self.by_epoch:
            return f"Iter({mode}) {count}"
        if mode == "test":
            return f"Epoch({mode}) {count}"
        epoch = runner.epoch + 1 if mode == "train" else runner.epoch
        return f"Epoch({mode}) {f'[{epoch}]':>{len(str(runner.max_epochs or 1)) + 2}}{count}"

    def _collect(self, runner: RunContext, batch_idx: int, mode: str) -> dict[str, float]:
        """Return the scalars to log in a mode, by name without the mode; averaged where `mean_pattern` matches.

        Raises:
            InputError: `custom_cfg` refers to a scalar that does not exist.
        """
        hub = runner.message_hub
        hub.flush()
        series = {
            key.removeprefix(f"{mode}/"): found
            for key, found in hub.log_scalars.items()
            if key.startswith(mode) and (mode == "train" or key in (f"{mode}/time", f"{mode}/data_time"))
        }
        out = {
            key: one.mean(self.window_size) if self._is_smoothed(key) else one.current() for key, one in series.items()
        }
        if mode == "train":
            for item in self.custom_cfg:
                name = item["data_src"]
                if name not in series:
                    raise InputError(
                        f"log_processor.custom_cfg: no scalar {name!r} to log; there are {', '.join(series)}"
                    )
                out[item.get("log_name", name)] = self._statistic(item, series[name], runner, batch_idx)
        return out

    def _is_smoothed(self, key: str) -> bool:
        found = self._smoothed.get(key)
        if found is None:
            found = self._smoothed[key] = self.mean_pattern.match(key) is not None
        return found

    def _statistic(self, item: PartCfg, series: Series, runner: RunContext, batch_idx: int) -> float:
        window: int | str | None = item.get("window_size", self.window_size)
        if window == "global":
            window = None
        elif window == "epoch":
            series.reserve(len(runner.train_dataloader))
            window = batch_idx + 1
        return series.statistics(item["method_name"], int(window) if window is not None else None)

    def _named(self, scalars: Mapping[str, float], mode: str) -> dict[str, Any]:
        if not self.log_with_hierarchy:
            return dict(scalars)
        return {key if key.startswith(f"{mode}/") else f"{mode}/{key}": value for key, value in scalars.items()}

    def _digits(self, value: object) -> str:
        return f"{value:.{self.num_digits}f}" if isinstance(value, float) else str(value)

    def _check_custom(self) -> None:
        seen = set()
        for item in self.custom_cfg:
            where = "log_processor.custom_cfg"
            if unknown := set(item) - _CUSTOM_KEYS:
                raise InputAssertionError(
                    f"{where}: unknown key {min(unknown)!r}; it takes {', '.join(sorted(_CUSTOM_KEYS))}"
                )
            if not {"data_src", "method_name"} <= set(item):
                raise InputAssertionError(f"{where}: each entry needs a data_src and a method_name, got {item}")
            window = item.get("window_size", self.window_size)
            if not (isinstance(window, int) or window in ("epoch", "global")):
                raise InputAssertionError(f"{where}: window_size must be a number, 'epoch' or 'global', got {window!r}")
            if window == "epoch" and not self.by_epoch:
                raise InputAssertionError(f"{where}: window_size='epoch' needs by_epoch=True")
            if item["method_name"] not in STATISTICS:
                raise InputAssertionError(
                    f"{where}: unknown method_name {item['method_name']!r}; known: {', '.join(STATISTICS)}"
                )
            name = item.get("log_name", item["data_src"])
            if name in seen:
                raise InputAssertionError(f"{where}: two entries log {name!r}; give one another log_name")
            seen.add(name)
