"""Registry of the data sets that `python -m raydet3d.data.prepare` knows.

To add one: a module in this package with a function `prepare(root, *, workers)`, registered under the name that the
command takes, and its import in the package's `__init__.py`. Its docstring, up to `Args:`, is shown by `--help`. Where
the function has a parameter `version`, the command passes its `--version` on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raydet3d.errors import InputError
from raydet3d.registry import Registry

PREPARERS = Registry("data set to prepare", home="raydet3d.data.prepare")


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
