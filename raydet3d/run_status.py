"""State of a training run for people: rows of text, a panel on a terminal, and plain data."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TypedDict

from raydet3d.progress_bar import draw_bar

_FIELD = re.compile(r"([\w./-]+): (\S+)")
_ETA = re.compile(r"eta: (?:(\d+) days?, )?(\d+):(\d\d):(\d\d)")
_WORKERS = re.compile(r"torch \S+, (\d+) process\(es\) on ")
_THROUGHPUT = re.compile(r"throughput: ([\d.]+) samples/s")
_BEST = re.compile(r"The best checkpoint with (\S+) (.+) at \d+ (?:epoch|iter) is saved")
_HEAD = re.compile(
    r"(?:Epoch\(train\)\s+\[ *(?P<epoch>\d+)\]|Iter\(train\)\s+)\[ *(?P<done>\d+)/(?P<of>\d+)\](?P<rest>.*)"
)
_NO_LOSSES = {"eta", "time", "data_time", "memory", "lr", "base_lr", "grad_norm"}
MAX_LOSSES = 6  # losses in the panel; the log has all


class RunResult(TypedDict, total=False):
    """What a run returns: of one that has finished its scores and files, of one that was stopped where it resumes.

    Keys:
        metrics: All numbers of the last validation.
        headline: The metrics that count, by the last part of their name.
        best_score, best_checkpoint, last_checkpoint: Of the checkpoint hook; None without it.
        last_is_kept: Whether the last checkpoint could be written.
        not_kept: Checkpoints that could not be written, with the reasons.
        log_dir, picture_dir: Folders; no picture folder where nothing was drawn.
        epoch, iter, seconds: What was done, and how long it took.
        stopped, checkpoint: Why it was stopped, and the checkpoint from which it resumes.
        is_main: Whether this process is rank 0.
        workers, cpus, restarts: What it ran on, and how often it was tried again.
    """

    metrics: dict[str, float]
    headline: dict[str, float]
    best_score: float | None
    best_checkpoint: str | None
    last_checkpoint: str | None
    last_is_kept: bool
    not_kept: dict[str, str]
    log_dir: str
    picture_dir: str | None
    epoch: int
    iter: int | None
    seconds: float
    stopped: str
    checkpoint: str | None
    is_main: bool
    workers: int | None
    cpus: int
    restarts: int


@dataclass(kw_only=True)
class RunStatus:
    """State of a run; None where something is not known.

    Args:
        name: The run.
        state: `running`, `finished`, or `stopped or stalled`.
        epoch: Epoch that is being trained, from 1.
        max_epochs: Epochs to train.
        iteration: Finished iterations.
        max_iters: Iterations to train.
        eta_s: Seconds to the end of training, without validations.
        losses: Losses and other values of the newest log line, by name.
        lr: Learning rate.
        samples_per_s: Samples a second, over all workers.
        data_share: Share of the time that training waits for data, 0 to 1.
        memory_mib: Peak memory.
        workers: Training processes.
        best: Best scores by metric.
        checkpoint: Newest checkpoint.
        restarts: Starts of the run after the first.
        bad_steps: Steps that were left out because a loss or gradient was not finite.
        updated_s: Seconds since the run last gave a sign of life.
    """

    name: str = ""
    state: str = "running"
    epoch: int | None = None
    max_epochs: int | None = None
    iteration: int | None = None
    max_iters: int | None = None
    eta_s: float | None = None
    losses: dict[str, float] = field(default_factory=dict)
    lr: float | None = None
    samples_per_s: float | None = None
    data_share: float | None = None
    memory_mib: int | None = None
    workers: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    restarts: int = 0
    bad_steps: int = 0
    updated_s: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return asdict(self)

    def read_scalars(self, scalars: Mapping[str, object], batch_size: int | None = None) -> None:
        """Take the values of a training log line.

        Args:
            scalars: Values by name, as `scalars.json` has them.
            batch_size: Samples of an iteration over all workers.
        """
        numbers = {key: float(value) for key, value in scalars.items() if isinstance(value, int | float)}
        self.lr = next((value for key, value in numbers.items() if key.rsplit("/", 1)[-1] == "lr"), self.lr)
        self.memory_mib = int(numbers["memory"]) if "memory" in numbers else self.memory_mib
        seconds = numbers.get("time", 0.0)
        if seconds > 0:
            self.data_share = min(numbers.get("data_time", 0.0) / seconds, 1.0)
            self.samples_per_s = batch_size / seconds if batch_size else self.samples_per_s
        skipped = {*_NO_LOSSES, "epoch", "iter", "step", "momentum"}
        self.losses = {key: value for key, value in numbers.items() if key not in skipped and "loss" in key}

    def read_log_line(self, line: str) -> bool:
        """Take the values of a line of the log; return whether it told anything."""
        if found := _HEAD.search(line):
            self._read_training(found)
        elif found := _THROUGHPUT.search(line):
            self.samples_per_s = float(found[1])
        elif found := _WORKERS.search(line):
            self.workers = int(found[1])
        elif found := _BEST.search(line):
            self.best[found[2]] = float(found[1])
        return found is not None

    def _read_training(self, found: re.Match[str]) -> None:
        done, of = int(found["done"]), int(found["of"])
        if found["epoch"] is None:
            self.iteration, self.max_iters = done, of
        else:
            self.epoch = int(found["epoch"])
            self.iteration = (self.epoch - 1) * of + done
            self.max_iters = self.max_epochs * of if self.max_epochs else None
        if eta := _ETA.search(found["rest"]):
            days, hours, minutes, seconds = (int(part or 0) for part in eta.groups())
            self.eta_s = float(86400 * days + 3600 * hours + 60 * minutes + seconds)
        values: dict[str, float] = {}
        for key, text in _FIELD.findall(found["rest"]):
            with suppress(ValueError):  # of the time that is left
                values[key] = float(text)
        self.read_scalars(values)

    def rows(self) -> list[str]:
        """Return the state as rows of text, without control characters."""
        head = " ".join(part for part in (self.name, self.state) if part)
        rows = [head, self._progress(), self._losses(), self._speed(), self._history()]
        return ["".join(letter for letter in row if letter.isprintable()) for row in rows if row]

    def _progress(self) -> str:
        parts = []
        if self.iteration is not None:
            if self.max_iters:
                share = 100 * self.iteration // self.max_iters
                parts.append(f"{draw_bar(self.iteration, self.max_iters)} {share} %")
            parts.append(f"iteration {self.iteration}" + (f"/{self.max_iters}" if self.max_iters else ""))
        if self.epoch is not None:
            parts.append(f"epoch {self.epoch}" + (f"/{self.max_epochs}" if self.max_epochs else ""))
        if self.eta_s is not None and self.state == "running":
            parts.append(f"eta {format_seconds(self.eta_s)}")
        return "  ".join(parts)

    def _losses(self) -> str:
        shown = [f"{key} {value:.4g}" for key, value in self.losses.items()]
        more = [f"... {len(shown) - MAX_LOSSES} more"] if len(shown) > MAX_LOSSES else []
        return "  ".join([*shown[:MAX_LOSSES], *more])

    def _speed(self) -> str:
        parts = []
        if self.lr is not None:
            parts.append(f"lr {self.lr:.3g}")
        if self.samples_per_s is not None:
            parts.append(f"{self.samples_per_s:.1f} samples/s")
        if self.data_share is not None:
            parts.append(f"{100 * self.data_share:.0f} % of the time waiting for data")
        if self.memory_mib is not None:
            parts.append(f"memory {self.memory_mib} MiB")
        if self.workers is not None:
            parts.append(f"{self.workers} worker{'' if self.workers == 1 else 's'}")
        return "  ".join(parts)

    def _history(self) -> str:
        parts = [f"best {name.rsplit('/', 1)[-1]} {score:.4g}" for name, score in self.best.items()]
        if self.checkpoint:
            parts.append(f"checkpoint {self.checkpoint}")
        if self.restarts:
            parts.append(f"{self.restarts} restart{'' if self.restarts == 1 else 's'}")
        if self.bad_steps:
            parts.append(f"{self.bad_steps} bad step{'' if self.bad_steps == 1 else 's'}")
        if self.updated_s is not None and math.isfinite(self.updated_s):
            parts.append(f"last sign of life {format_seconds(self.updated_s)} ago")
        return "  ".join(parts)

    def panel(self, width: int) -> str:
        """Return the state as text for a terminal: a panel of rich where that is installed, else the rows.

        Args:
            width: Columns of the terminal.
        """
        title, *rows = self.rows()
        try:
            from rich.console import Console
            from rich.panel import Panel
            from rich.text import Text
        except ImportError:
            lines = [line for row in (title, *rows) for line in textwrap.wrap(row, width - 1)]
            return "\n".join(lines)
        text = io.StringIO()
        console = Console(file=text, force_terminal=True, width=width - 1, color_system="standard", highlight=False)
        console.print(Panel(Text("\n".join(rows)), title=Text(title), title_align="left"))
        return text.getvalue().rstrip("\n")


def format_seconds(seconds: float) -> str:
    """Return `h:mm:ss`."""
    whole = max(int(seconds), 0)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
