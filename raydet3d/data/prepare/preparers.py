"""Registry of the data sets that `python -m raydet3d.data.prepare` knows.

To add one: a module in this package with a function `prepare(root, *, workers)`, registered under the name that the
command takes, and its import in the package's `__init__.py`. Its docstring, up to `Args:`, is shown by `--help`. Where
the function has a parameter `version`, the command passes its `--version` on. A parameter `runner` takes the
`JobRunner` of `--ray`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from raydet3d.config import ConfigDict
from raydet3d.errors import InputError
from raydet3d.info_file import FrameInfo
from raydet3d.registry import Registry

PREPARERS = Registry("data set to prepare", home="raydet3d.data.prepare")
LAYOUTS = Registry("layout of a data set's folder", home="raydet3d.data.prepare")
"""Layouts under the names of their preparers, by which `raydet3d.data.check` reads a folder."""


class RawFrame(Protocol):
    """A frame in its raw files, without an info file. It is sent to worker processes, so it must be picklable."""

    def files(self) -> Sequence[Path]:
        """Return the files that it is read from, which may be missing."""

    def read(self) -> FrameInfo:
        """Read its entry for an info file; instances hold every labelled object as it is, and its class as `name`.

        Raises:
            InputError: A file is missing or damaged; the message names it.
        """


@dataclass(frozen=True)
class Split:
    """A split of a data set.

    Args:
        name: Its name.
        dataset: Config of its data set; its pipeline holds the transforms that load points, where there is more to it
            than reading all numbers of a file.
        frames: Its raw frames; None where the info file `dataset.ann_file` describes them.
        categories: Number of each class in the entries of raw frames; -1 for what is no object.
    """

    name: str
    dataset: ConfigDict
    frames: Sequence[RawFrame] | None = None
    categories: Mapping[str, int] = field(default_factory=dict)


class DataLayout:
    """How the folder of a data set is laid out; a data set without one can be checked by its config only."""

    @classmethod
    def raw_splits(cls, root: Path) -> list[Split]:
        """Return the splits of a folder of raw files; none where it has another layout."""
        return []

    @classmethod
    def prepared_splits(cls, root: Path) -> list[Split]:
        """Return the splits of a prepared folder, by its info files; none where it has another layout."""
        return []


@contextmanager
def report_unwritable(root: Path) -> Iterator[None]:
    """Turn a failure to write below a folder into an `InputError` that names the file and the reason."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or root}: cannot be written ({error.strerror or error}); "
            f"prepare writes its files below {root}"
        ) from None


def check_writable(folder: Path) -> None:
    """Create a folder where it does not exist, and a file in it, before any work begins."""
    folder.mkdir(exist_ok=True)
    probe = folder / ".prepare.probe"
    probe.write_bytes(b"")
    probe.unlink()
