"""The configs that come with the package, and those that an installed package of OpenMMLab's brings."""

from __future__ import annotations

import sys
from pathlib import Path

OURS = ("mmdet3d", "raydet3d")
"""What stands before ``::`` in the name of a shipped config."""


def configs_root() -> Path | None:
    """The folder of shipped configs: the repository's ``configs/``, or its copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "_base_").is_dir():
            return folder
    return None


def shipped(name: str | Path) -> Path | None:
    """The shipped config of a path below ``configs/``, with or without that in front; None where there is none."""
    root = configs_root()
    parts = Path(name).parts
    if root is None:
        return None
    file = root.joinpath(*(parts[1:] if parts[:1] == ("configs",) else parts))
    return file if file.is_file() and file.resolve().is_relative_to(root) else None


def installed(package: str, name: str) -> Path | None:
    """The config ``package::name`` of a package on the path that carries its configs along in ``.mim``, as those of
    OpenMMLab do; None where there is none. Nothing of the package is imported."""
    if not package.isidentifier():
        return None
    files = (Path(folder, package, ".mim", "configs", name) for folder in sys.path)
    return next((file for file in files if file.is_file()), None)
