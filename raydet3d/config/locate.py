"""Where a config lies, as a path or among the configs that come with the package; and where its run writes."""

from __future__ import annotations

import difflib
import getpass
import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from raydet3d.config.inheritance import READERS, MissingConfig
from raydet3d.config.shipped_configs import OURS, configs_root, shipped
from raydet3d.errors import InputError


def find_config(path: str | Path) -> Path:
    """The file that ``path`` means.

    That is the path itself where it exists; else the same relative path, with or without the leading ``configs/``,
    among the shipped configs, so that ``configs/demo/x.py`` works from anywhere after ``pip install``; with
    ``mmdet3d::`` in front it is a shipped one in any case.

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
    parts = given.parts[1:] if given.parts[:1] == ("configs",) else given.parts
    known = [
        file.relative_to(root).as_posix()
        for file in sorted(root.rglob("*"))
        if file.suffix in READERS and "_base_" not in file.parts and "__pycache__" not in file.parts
    ]
    near = difflib.get_close_matches("/".join(parts), known, n=2, cutoff=0.6) or [
        name for name in known if Path(name).stem == given.stem
    ]
    hint = f"did you mean {' or '.join(f'configs/{name}' for name in near)}?" if near else f"shipped configs: {root}"
    raise MissingConfig(f"no such config: {given}; {hint}")


def is_uri(text: str) -> bool:
    """Whether a place is named by a URI (``s3://bucket/run``), and not by a path."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", text) is not None


def work_dir_of(cfg: Mapping[str, Any], filename: str | Path | None) -> str:
    """``work_dir`` of the config, else ``work_dirs/<config's name>``: a URI as it is given, a path made absolute.

    ``file://`` is a path.
    """
    given = cfg.get("work_dir") or Path("work_dirs") / (Path(filename).stem if filename else "run")
    text = str(given)
    if is_uri(text) and not text.startswith("file://"):
        return text.rstrip("/")
    path = Path(unquote(urlsplit(text).path)) if text.startswith("file://") else Path(given)
    return str(path.expanduser().absolute())


def default_work_dir(cfg: Mapping[str, Any], filename: str | Path | None) -> Path:
    """Where a run's logs are written: its work dir, or a folder of this machine that stands for one behind a URI."""
    work_dir = work_dir_of(cfg, filename)
    if not is_uri(work_dir):
        return Path(work_dir)
    digest = hashlib.sha256(work_dir.encode()).hexdigest()[:8]
    name = f"{work_dir.rpartition('/')[2] or 'run'}-{digest}"
    return Path(tempfile.gettempdir(), f"raydet3d-{getpass.getuser()}", name)
