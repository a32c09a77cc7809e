"""The configs that come with the package."""

from __future__ import annotations

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
