"""Find config files, those shipped with the package included, and the folder that a run writes to."""

from __future__ import annotations

import difflib
import getpass
import hashlib
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raydet3d.config.config_dict import ConfigValue
from raydet3d.errors import InputError

SUFFIXES = (".py", ".yaml", ".yml", ".json")
OURS = ("mmdet3d", "raydet3d")
"""Package names before `::` that stand for this package's configs."""


def configs_root() -> Path | None:
    """Return the folder of shipped configs: the repository's `configs/`, or its copy in an installed package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "_base_").is_dir():
            return folder
    return None


def shipped(name: str | Path) -> Path | None:
    """Return the shipped config at a path below `configs/`, with or without that in front, or None."""
    root = configs_root()
    if root is None:
        return None
    file = root / _below_configs(name)
    return file if file.is_file() and file.resolve().is_relative_to(root) else None


def _below_configs(name: str | Path) -> Path:
    parts = Path(name).parts
    return Path(*(parts[1:] if parts[:1] == ("configs",) else parts))


def installed(package: str, name: str) -> Path | None:
    """Return the config `package::name` that an installed package of OpenMMLab's has in `.mim`, or None.

    Nothing of the package is imported.
    """
    if not package.isidentifier():
        return None
    files = (Path(folder, package, ".mim", "configs", name) for folder in sys.path)
    return next((file for file in files if file.is_file()), None)


class MissingConfig(InputError, FileNotFoundError):
    """A config file that does not exist."""


def find_config(path: str | Path) -> Path:
    """Return the config file of a path.

    That is the path itself if it exists; else the same relative path, with or without the leading `configs/`, among the
    shipped configs, so that `configs/demo/x.py` works from anywhere after `pip install`. With `mmdet3d::` in front it
    is always a shipped one.

    Raises:
        InputError: There is none; the message names the nearest ones.
    """
    if "\0" in str(path):
        raise MissingConfig(f"no such config: {str(path)!r}: a path must not contain a NUL character")
    given = Path(path).expanduser()
    if given.is_file():
        return given
    if given.is_dir():
        raise InputError(f"{given} is a folder; name a config in it")
    package, sign, inner = str(path).partition("::")
    if sign and package in OURS:
        given = Path(inner)
    root = configs_root()
    if root is None or given.is_absolute():
        raise MissingConfig(f"no such config: {given}")
    found = shipped(given)
    if found is not None:
        return found
    known = [
        file.relative_to(root).as_posix()
        for file in sorted(root.rglob("*"))
        if file.suffix in SUFFIXES and "_base_" not in file.parts and "__pycache__" not in file.parts
    ]
    near = difflib.get_close_matches(_below_configs(given).as_posix(), known, n=2, cutoff=0.6) or [
        name for name in known if Path(name).stem == given.stem
    ]
    hint = f"did you mean {' or '.join(f'configs/{name}' for name in near)}?" if near else f"shipped configs: {root}"
    raise MissingConfig(f"no such config: {given}; {hint}")


def is_uri(text: str) -> bool:
    """Whether a string is a URI (`s3://bucket/run`) and not a path."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", text) is not None


def work_dir_of(cfg: Mapping[str, ConfigValue], filename: str | Path | None) -> str:
    """Return `work_dir` of the config, else `work_dirs/<config's name>`: a URI as given, a path made absolute.

    `file://` is a path.
    """
    text = str(cfg.get("work_dir") or Path("work_dirs") / (Path(filename).stem if filename else "run"))
    if is_uri(text) and not text.startswith("file://"):
        return text.rstrip("/")
    path = Path(unquote(urlsplit(text).path) if text.startswith("file://") else text)
    return str(path.expanduser().absolute())


def default_work_dir(cfg: Mapping[str, ConfigValue], filename: str | Path | None) -> Path:
    """Return the local folder for a run's logs: its work dir, or a temporary folder if that is a URI."""
    work_dir = work_dir_of(cfg, filename)
    if not is_uri(work_dir):
        return Path(work_dir)
    digest = hashlib.sha256(work_dir.encode()).hexdigest()[:8]
    name = f"{work_dir.rpartition('/')[2] or 'run'}-{digest}"
    return Path(tempfile.gettempdir(), f"raydet3d-{getpass.getuser()}", name)
