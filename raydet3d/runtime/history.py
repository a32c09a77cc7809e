"""Scalars and runtime info of a run; scalars stay on their device until read, then are copied together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor

from raydet3d.active_run import ActiveRunProxy

KEEP = 1000  # values kept per scalar; a longer window is reserved when it is requested
PENDING = 2000  # values per scalar that may wait on the device before they are copied

ScalarValue: TypeAlias = float | Tensor | np.ndarray | np.generic
"""A number, or a tensor or array with one element."""


class CountedValue(TypedDict):
    """The sum of a scalar over so many samples."""

    value: ScalarValue
    count: NotRequired[int]


class SeriesState(TypedDict):
    """State of a series: the kept values, and statistics over all of them."""

    values: Tensor
    count: int
    total: float
    least: float
    most: float


class HistoryState(TypedDict):
    """State of a history: scalars, and the info values that are plain data."""

    scalars: dict[str, SeriesState]
    info: dict[str, object]


class Series:
    """Latest values of one scalar, and statistics over all of its values.

    Args:
        flush: Copies the values that are pending on a device.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self.pending: list[float | Tensor] = []
        self.has_tensors = False  # whether any value was a tensor
        self._flush = flush
        self._values: deque[float] = deque(maxlen=KEEP)
        self.count = 0
        self.total = 0.0
        self.least = math.inf
        self.most = -math.inf

    def take(self, numbers: Sequence[float | Tensor]) -> None:
        """Append values that are on the host."""
        values = list(map(float, numbers))
        self._values.extend(values)
        self.count += len(values)
        self.total += sum(values)
        self.least = min(self.least, min(values))
        self.most = max(self.most, max(values))

    def reserve(self, length: int) -> None:
        """Keep at least this many values from now on."""
        if length > (self._values.maxlen or 0):
            self._values = deque(self._values, maxlen=length)

    @property
    def data(self) -> list[float]:
        """Kept values, oldest first."""
        self._flush()
        return list(self._values)

    def current(self) -> float:
        """Return the newest value.

        Raises:
            ValueError: There is no value yet.
        """
        self._flush()
        if not self._values:
            raise ValueError("the scalar has no value yet")
        return self._values[-1]

    def mean(self, window: int | None = None) -> float:
        """Return the mean of the last `window` values, or of all values ever added."""
        self._flush()
        if window is None:
            return self.total / self.count if self.count else math.nan
        last = self._last(window)
        return sum(last) / len(last) if last else math.nan

    def min(self, window: int | None = None) -> float:
        """Return the minimum of the last `window` values, or of all values ever added."""
        self._flush()
        return self.least if window is None else min(self._last(window), default=math.nan)

    def max(self, window: int | None = None) -> float:
        """Return the maximum of the last `window` values, or of all values ever added."""
        self._flush()
        return self.most if window is None else max(self._last(window), default=math.nan)

    def statistics(self, name: str, window: int | None = None) -> float:
        """Return a statistic by name: `mean`, `min`, `max`, `current` or a registered one.

        Raises:
            ValueError: There is no such statistic.
        """
        if name not in STATISTICS:
            raise ValueError(f"unknown statistic {name!r}; known: {', '.join(STATISTICS)}")
        return float(STATISTICS[name](self, window))

    def last(self, window: int | None = None) -> list[float]:
        """Return the last `window` values, or all kept values, oldest first."""
        self._flush()
        return self._last(self._values.maxlen or KEEP) if window is None else self._last(window)

    def _last(self, window: int) -> list[float]:
        self.reserve(window)
        return [*islice(reversed(self._values), window)][::-1]


# Statistics for log_processor.custom_cfg; each takes a series and a window (None: all values).
STATISTICS: dict[str, Callable[[Series, int | None], float]] = {
    "mean": Series.mean,
    "min": Series.min,
    "max": Series.max,
    "current": lambda series, window: series.current(),
}


def register_statistic(
    function: Callable[[Series, int | None], float],
) -> Callable[[Series, int | None], float]:
    """Register a statistic for `log_processor.custom_cfg` under its function's name; use as a decorator.

    Args:
        function: Function of the series and the window (None: all values).

    Returns:
        The function, unchanged.
    """
    STATISTICS[function.__name__] = function
    return function


class History:
    """Message hub of a run: scalars over iterations, and runtime info by name.

    `runner.message_hub` is an instance. Nothing synchronizes with the device before `flush`, which every read calls. A
    tensor must not be modified in place after it was added.

    Args:
        name: Name of the run.
    """

    @staticmethod
    def get_instance(name: str = "", **kwargs: object) -> Any:
        """Return a proxy for the history of the active run; without an active run, for a separate history.

        Args:
            name: Accepted as an argument of MMEngine's; every name refers to the history of the active run.
            **kwargs: Accepted as arguments of MMEngine's.
        """
        return ActiveRunProxy("message_hub", History)

    @staticmethod
    def get_current_instance() -> Any:
        """Return a proxy for the history of the active run; without an active run, for a separate history."""
        return ActiveRunProxy("message_hub", History)

    def __init__(self, name: str = "") -> None:
        self.instance_name = name
        self.log_scalars: dict[str, Series] = {}
        self.runtime_info: dict[str, Any] = {}
        self._unsaved: set[str] = set()
        self._waiting = False

    def update_scalar(self, key: str, value: ScalarValue, count: int = 1, *, resumed: bool = True) -> None:
        """Append a value to a scalar.

        Args:
            key: Name of the scalar, such as `train/loss`.
            value: Number, or tensor or array with one element; a tensor stays on its device.
            count: Number of samples of which the value is the sum; the value is divided by it.
            resumed: Whether checkpoints store the scalar; only the first call for a key sets it.
        """
        series = self.log_scalars.get(key)
        if series is None:
            series = self.log_scalars[key] = Series(self.flush)
            if not resumed:
                self._unsaved.add(key)
        if type(value) is not float:
            value = _scalar(value)
            series.has_tensors = series.has_tensors or isinstance(value, Tensor)
        if count != 1:
            value = value / count
        pending = series.pending
        pending.append(value)
        self._waiting = True
        if len(pending) >= PENDING:
            self.flush()

    def update_scalars(self, scalars: Mapping[str, ScalarValue | CountedValue], *, resumed: bool = True) -> None:
        """Append a value to each of several scalars; a value may be `dict(value=..., count=...)`."""
        for key, value in scalars.items():
            if isinstance(value, Mapping):
                self.update_scalar(key, value["value"], value.get("count", 1), resumed=resumed)
            else:
                self.update_scalar(key, value, resumed=resumed)

    def get_scalar(self, key: str) -> Series:
        """Return the series of a scalar.

        Raises:
            KeyError: There is no such scalar.
        """
        if key not in self.log_scalars:
            raise KeyError(f"no scalar {key!r} in the history; there are {', '.join(self.log_scalars) or 'none'}")
        self.flush()
        return self.log_scalars[key]

    def flush(self) -> None:
        """Copy all pending values to the host, with one copy per device.

        Raises:
            ValueError: A tensor does not have exactly one element.
        """
        if not self._waiting:
            return
        self._waiting = False
        touched = [(key, series) for key, series in self.log_scalars.items() if series.pending]
        waiting: dict[torch.device, list[tuple[list[float | Tensor], int, Tensor]]] = {}
        for key, series in touched:
            if not series.has_tensors:
                continue
            for i, value in enumerate(series.pending):
                if isinstance(value, Tensor):
                    if value.dim() and value.numel() != 1:
                        raise ValueError(f"scalar {key!r} must have one element, got shape {tuple(value.shape)}")
                    waiting.setdefault(value.device, []).append((series.pending, i, value))
        for places in waiting.values():
            for (pending, i, _), number in zip(places, _read([value for *_, value in places]), strict=True):
                pending[i] = number
        for _, series in touched:
            series.take(series.pending)
            series.pending.clear()

    # -- info ---------------------------------------------------------------------------------------------------

    def update_info(self, key: str, value: object, *, resumed: bool = True) -> None:
        """Set an info value; checkpoints store it if it is plain data and `resumed` is true."""
        self.runtime_info[key] = value
        if not resumed:
            self._unsaved.add(key)

    def update_info_dict(self, facts: Mapping[str, object], *, resumed: bool = True) -> None:
        """Set several info values."""
        for key, value in facts.items():
            self.update_info(key, value, resumed=resumed)

    def get_info(self, key: str, default: object = None) -> Any:
        """Return an info value, or the default."""
        return self.runtime_info.get(key, default)

    def pop_info(self, key: str, default: object = None) -> Any:
        """Remove and return an info value, or return the default."""
        return self.runtime_info.pop(key, default)

    # -- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> HistoryState:
        """Return the kept values, the statistics, and the info values that are plain data."""
        self.flush()
        return {
            "scalars": {
                key: {
                    "values": torch.tensor(series.data, dtype=torch.float64),
                    "count": series.count,
                    "total": series.total,
                    "least": series.least,
                    "most": series.most,
                }
                for key, series in self.log_scalars.items()
                if key not in self._unsaved
            },
            "info": {k: v for k, v in self.runtime_info.items() if k not in self._unsaved and is_plain(v)},
        }

    def load_state_dict(self, state: HistoryState) -> None:
        """Restore a `state_dict`: replace all scalars, and update the info values."""
        self.log_scalars.clear()
        for key, saved in state["scalars"].items():
            series = self.log_scalars[key] = Series(self.flush)
            values = saved["values"].tolist()
            series.reserve(len(values))
            series.take(values) if values else None
            series.count, series.total = int(saved["count"]), float(saved["total"])
            series.least, series.most = float(saved["least"]), float(saved["most"])
        self.runtime_info.update(state["info"])


def _scalar(value: ScalarValue) -> float | Tensor:
    """Detach a tensor without moving it; convert anything else but int and float to float."""
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad else value
    return value if isinstance(value, (int, float)) else float(np.asarray(value).item())


MessageHub = History
"""MMEngine's name."""


def is_plain(value: object) -> bool:
    """Return whether a value consists only of lists, tuples, dicts, numbers, strings and None."""
    if value is None or type(value) in (bool, int, float, str):
        return True
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(is_plain, value))
    return type(value) is dict and all(type(k) in (str, int) and is_plain(v) for k, v in value.items())


def _read(tensors: list[Tensor]) -> list[float]:
    """Return one-element tensors of one device as numbers, with a single copy to the host."""
    by_type: dict[torch.dtype, list[int]] = {}
    for i, tensor in enumerate(tensors):
        by_type.setdefault(tensor.dtype, []).append(i)
    order = [i for group in by_type.values() for i in group]
    flat_ones = [tensor.reshape(()) if tensor.dim() else tensor for tensor in tensors]
    parts = [torch.stack([flat_ones[i] for i in group]) for group in by_type.values()]
    flat = parts[0] if len(parts) == 1 else torch.cat([part.to(torch.float64) for part in parts])
    out = [0.0] * len(tensors)
    for i, number in zip(order, flat.tolist(), strict=True):
        out[i] = float(number)
    return out
