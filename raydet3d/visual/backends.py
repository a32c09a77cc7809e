"""Back ends that store scalars, images and the config of a run: files and TensorBoard.

A back end opens its files on first use, so that an unused one leaves nothing behind.
"""

from __future__ import annotations

import json
import logging
import pprint
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn

from raydet3d.config import Config, ConfigValue
from raydet3d.config.dump import redact
from raydet3d.config.type_check import PositiveInt
from raydet3d.errors import InputError
from raydet3d.log import LineFile, get_logger, tolerate_full_disk
from raydet3d.registry import VISBACKENDS

_NOT_IN_TAGS = re.compile(r"[^-/\w.]")  # characters that TensorBoard replaces in tags, spaces included

Picture = npt.NDArray[Any]
Scalar = float | str | Picture | Tensor
"""A number, a text, or an array or tensor of one element."""
RETRY_S = 30.0  # wait before a new event file after one that could not be written


class BaseVisBackend:
    """Base class of back ends. Only `add_scalars` must be implemented; the other methods do nothing.

    Args:
        save_dir: Folder to write to; the visualizer passes its own where a config names none.
    """

    def __init__(self, save_dir: str | Path | None = None) -> None:
        self.save_dir = None if save_dir is None else Path(save_dir)

    @property
    def experiment(self) -> Any:
        """Return the underlying writer or run, for what this interface does not offer."""
        return self

    def add_config(self, config: Config | Mapping[str, ConfigValue], **kwargs: object) -> None:
        """Add the run's config, secrets redacted.

        Args:
            config: A `Config` or a mapping.
            **kwargs: Ignored.
        """

    def add_graph(self, model: nn.Module, data_batch: object, **kwargs: object) -> None:
        """Add the model's graph.

        Args:
            model: The model.
            data_batch: A batch that it takes.
            **kwargs: Ignored.
        """

    def add_image(self, name: str, image: Picture, step: int = 0, **kwargs: object) -> None:
        """Add an image.

        Args:
            name: Tag.
            image: (H, W, 3) uint8, RGB.
            step: Iteration.
            **kwargs: Ignored.
        """

    def add_scalar(self, name: str, value: Scalar, step: int = 0, **kwargs: object) -> None:
        """Add one scalar.

        Args:
            name: Tag.
            value: Value.
            step: Iteration.
            **kwargs: Ignored.
        """
        self.add_scalars({name: value}, step)

    def add_scalars(
        self, scalar_dict: Mapping[str, Scalar], step: int = 0, file_path: str | None = None, **kwargs: object
    ) -> None:
        """Add the scalars of one step.

        Args:
            scalar_dict: Scalars by tag; a `step` among them overrides the argument.
            step: Iteration.
            file_path: Another file to write to, for back ends with files.
            **kwargs: Ignored.
        """
        raise NotImplementedError(f"{type(self).__name__} must define add_scalars")

    def add_pr_curve(self, name: str, recall: Sequence[float], precision: Sequence[float], step: int = 0) -> None:
        """Add a precision-recall curve.

        Args:
            name: Tag.
            recall: Recalls, ascending.
            precision: Precision at each.
            step: Epoch or iteration.
        """

    def add_hparams(self, setting: Mapping[str, ConfigValue], scores: Mapping[str, float]) -> None:
        """Add the setting of a sweep's trial with its scores.

        Args:
            setting: Values by config key.
            scores: Best scores by metric.
        """

    def close(self) -> None:
        """Flush and close; using the back end afterwards opens it again."""


@VISBACKENDS.register_module()
class LocalVisBackend(BaseVisBackend):
    """Write files: one JSON line per call, the config as Python, images as PNG.

    Args:
        save_dir: Folder.
        img_save_dir: Folder of images inside it; files are `NAME_STEP.png`.
        config_save_file: File of the config.
        scalar_save_file: File of JSON lines.
    """

    def __init__(
        self,
        save_dir: str | Path | None = None,
        img_save_dir: str = "vis_image",
        config_save_file: str = "config.py",
        scalar_save_file: str = "scalars.json",
    ) -> None:
        super().__init__(save_dir)
        if Path(config_save_file).suffix != ".py":
            raise InputError(f"LocalVisBackend: config_save_file must end in .py, got {config_save_file!r}")
        if Path(scalar_save_file).suffix != ".json":
            raise InputError(f"LocalVisBackend: scalar_save_file must end in .json, got {scalar_save_file!r}")
        self.img_save_dir = img_save_dir
        self.config_save_file = config_save_file
        self.scalar_save_file = scalar_save_file
        self._lines: dict[str, LineFile] = {}

    def _file(self, name: str) -> Path:
        """Return a path below `save_dir` and create its folder."""
        if self.save_dir is None:
            raise InputError("LocalVisBackend needs a folder: set save_dir on it or on the visualizer")
        file = self.save_dir / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def add_config(self, config: Config | Mapping[str, ConfigValue], **kwargs: object) -> None:
        """Write the config as Python code."""
        with tolerate_full_disk(self.config_save_file):
            self._file(self.config_save_file).write_text(config_text(config), encoding="utf-8")

    def add_image(self, name: str, image: Picture, step: int = 0, **kwargs: object) -> None:
        """Write an image; characters that do not belong in a file name become underscores."""
        safe = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name)
        # Low compression: training waits while an image is written.
        picture = Image.fromarray(check_picture(image))
        with tolerate_full_disk(self.img_save_dir):
            picture.save(self._file(f"{self.img_save_dir}/{safe}_{step}.png"), compress_level=3)

    def add_scalars(
        self, scalar_dict: Mapping[str, Scalar], step: int = 0, file_path: str | None = None, **kwargs: object
    ) -> None:
        """Append a line with the scalars and the step, also to `file_path` (below `save_dir`) if given."""
        line = json.dumps({**numbers_and_texts(scalar_dict), "step": int(scalar_dict.get("step", step))})
        files = [self.scalar_save_file]
        if file_path is not None and file_path != self.scalar_save_file:
            files.append(file_path)
        for name in files:
            if name not in self._lines:
                self._lines[name] = LineFile(self._file(name))
            self._lines[name].write(line)

    def close(self) -> None:
        """Close the files."""
        for lines in self._lines.values():
            lines.close()
        self._lines.clear()


class RecordFile(Protocol):
    """File object of tensorboardX's record writer."""

    def write(self, data: bytes) -> None:
        """Write a record."""

    def flush(self) -> None:
        """Flush the buffer."""

    def close(self) -> None:
        """Close the file."""


class _FullDiskWriter:
    """Keep tensorboardX's thread alive on a full disk.

    A dead thread would let its queue fill up, and training would wait for it forever.

    Args:
        file: tensorboardX's record writer.
    """

    def __init__(self, file: RecordFile) -> None:
        self._file = file
        self.failed = False

    def write(self, data: bytes) -> None:
        """Write a record, unless one before it failed: a reader stops at a truncated record."""
        self._try(self._file.write, data)

    def flush(self) -> None:
        """Flush the buffer."""
        self._try(self._file.flush)

    def close(self) -> None:
        """Close the file."""
        self._try(self._file.close)

    def _try(self, function: Callable[..., None], *args: bytes) -> None:
        if self.failed and function != self._file.close:
            return
        with tolerate_full_disk("TensorBoard's event file"):
            self.failed, failed = True, self.failed
            function(*args)
            self.failed = failed


@VISBACKENDS.register_module()
class TensorboardVisBackend(BaseVisBackend):
    """Write TensorBoard event files with tensorboardX.

    Args:
        save_dir: Folder of the event file.
        flush_secs: Maximum seconds until scalars reach the file.
    """

    def __init__(self, save_dir: str | Path | None = None, flush_secs: PositiveInt = 20) -> None:
        super().__init__(save_dir)
        self.flush_secs = flush_secs
        self._writer: Any = None
        self._file: _FullDiskWriter | None = None
        self._next_try = 0.0

    @property
    def experiment(self) -> Any:
        """Return the `SummaryWriter`."""
        if self._writer is None:
            if self.save_dir is None:
                raise InputError("TensorboardVisBackend needs a folder: set save_dir on it or on the visualizer")
            from tensorboardX import SummaryWriter  # takes a second to import

            # Its warning names no tag; a score that is not defined is NaN, and TensorBoard shows it as such.
            logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
            self._writer = SummaryWriter(str(self.save_dir), flush_secs=self.flush_secs)
            events = self._writer.file_writer.event_writer._ev_writer
            self._file = events._py_recordio_writer = _FullDiskWriter(events._py_recordio_writer)
        return self._writer

    def _is_open(self) -> bool:
        """Open an event file if needed; after a failed one, retry with a new file after `RETRY_S`."""
        if self._file is not None and self._file.failed:
            self.close()
            self._next_try = time.monotonic() + RETRY_S
        if time.monotonic() < self._next_try:
            return False
        with tolerate_full_disk("TensorBoard's event file"):
            _ = self.experiment
        return self._writer is not None

    def add_config(self, config: Config | Mapping[str, ConfigValue], **kwargs: object) -> None:
        """Add the config as text."""
        text = "\n".join(f"    {line}" for line in config_text(config).splitlines())
        if self._is_open():
            self.experiment.add_text("config", text)

    def add_image(self, name: str, image: Picture, step: int = 0, **kwargs: object) -> None:
        """Add an image."""
        if self._is_open():
            self.experiment.add_image(name, check_picture(image), step, dataformats="HWC")

    def add_scalars(
        self, scalar_dict: Mapping[str, Scalar], step: int = 0, file_path: str | None = None, **kwargs: object
    ) -> None:
        """Add each scalar under its tag; skip texts."""
        numbers = numbers_and_texts(scalar_dict)
        step = int(numbers.pop("step", step))
        if not self._is_open():
            return
        for name, value in numbers.items():
            if isinstance(value, int | float):
                self.experiment.add_scalar(tag_without_special_characters(name), value, step)

    def add_pr_curve(self, name: str, recall: Sequence[float], precision: Sequence[float], step: int = 0) -> None:
        """Add a precision-recall curve, by descending recall as TensorBoard draws it."""
        if not self._is_open():
            return
        r, p = np.asarray(recall, float)[::-1], np.asarray(precision, float)[::-1]
        unknown = np.zeros(len(r))  # the numbers behind precision and recall, which TensorBoard shows on hover only
        self.experiment.add_pr_curve_raw(
            tag_without_special_characters(name), unknown, unknown, unknown, unknown, p, r, step, num_thresholds=len(r)
        )

    def add_hparams(self, setting: Mapping[str, ConfigValue], scores: Mapping[str, float]) -> None:
        """Add a trial for the HParams view, in a run of its own below the folder."""
        if not self._is_open():
            return
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in setting.items()
        }
        metrics = {tag_without_special_characters(f"hparam/{name}"): value for name, value in scores.items()}
        self.experiment.add_hparams(plain, metrics, name="hparams")

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = self._file = None


def numbers_and_texts(scalars: Mapping[str, Scalar]) -> dict[str, float | str]:
    """Return numbers and texts; convert arrays and tensors of one element; drop other values with a warning."""
    out: dict[str, float | str] = {}
    for name, value in scalars.items():
        if isinstance(value, bool | int | float | str):
            out[name] = value
        elif hasattr(value, "item") and np.prod(getattr(value, "shape", ()), dtype=int) == 1:
            out[name] = value.item()
        else:
            get_logger().warning("scalar %r is a %s, not a number; it is not logged", name, type(value).__name__)
    return out


def tag_without_special_characters(name: str) -> str:
    """Return a tag with `_` for characters that TensorBoard and MLflow do not take, spaces included."""
    return _NOT_IN_TAGS.sub("_", name)


def check_picture(image: Picture) -> Picture:
    """Check shape and type of an image."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"an image is a uint8 array of shape (H, W, 3), got {what}")
    return image


def config_text(config: Config | Mapping[str, ConfigValue]) -> str:
    """Return a config as Python code, secrets redacted."""
    if isinstance(config, Config):
        return config.pretty_text
    return "".join(f"{key} = {pprint.pformat(redact(value))}\n" for key, value in config.items())
