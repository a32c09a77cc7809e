"""A folder of users' plug-ins on the Python path, for the time of a test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from raydet3d import compat, registry
from raydet3d.registry import Registry

TABLES = [value for value in vars(registry).values() if isinstance(value, Registry)]


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write files by their paths below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@contextmanager
def on_python_path(root: Path) -> Iterator[None]:
    """Put a folder on the Python path; afterwards remove its modules, the aliases and what was registered."""
    before = set(sys.modules)
    with ExitStack() as stack:
        for table in TABLES:
            stack.enter_context(table.temporary())
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(str(root))
            compat.uninstall()
            for name in set(sys.modules) - before:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(root)):
                    del sys.modules[name]
