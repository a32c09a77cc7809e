"""Download checkpoints behind `http(s)://` once, into torch.hub's cache.

(`torch.hub.download_url_to_file` has no timeout and takes a broken transfer for a whole file.)
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import overload
from urllib.parse import unquote, urlsplit

import torch

from raydet3d.errors import InputError
from raydet3d.files import locked
from raydet3d.log import get_logger

TIMEOUT_S = 30
# Names that MMEngine looks up in tables of its own.
_NICKNAMES = re.compile(r"(torchvision|open-?mmlab|mmcls|jhu|pavi|petrel)://")
_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party/{}.pth"
PRETRAINED = {
    f"open-mmlab://{name}": _OPENMMLAB.format(f"{name}-{digest}")
    for name, digest in {
        "regnetx_400mf": "a5b10d96",
        "regnetx_800mf": "1f4be4c7",
        "regnetx_1.6gf": "5791c176",
        "regnetx_3.2gf": "c2599b0f",
        "regnetx_4.0gf": "a88f671e",
        "regnetx_6.4gf": "006af45d",
        "regnetx_8.0gf": "3c68abe7",
        "regnetx_12gf": "4c2a3350",
    }.items()
}
"""URLs of the pretrained backbones that published configs of the models here name."""


@overload
def fetch(source: str) -> str: ...
@overload
def fetch(source: None) -> None: ...
def fetch(source: str | None) -> str | None:
    """Return the local path of a checkpoint: of a URL its copy in the cache, of anything else itself.

    Every process may call it for the same URL: one process of a machine downloads, the others wait.

    Args:
        source: A path, an `http://` or `https://` URL, or None.

    Raises:
        InputError: The download failed (nothing is left of it), or the scheme is unknown.
    """
    if source is None:
        return None
    source = PRETRAINED.get(source, source)
    if nickname := _NICKNAMES.match(source):
        raise InputError(f"{source}: {nickname[1]}:// is not known here; give a path or an http(s) URL")
    if not is_url(source):
        return source
    target = cached(source)
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with locked(target.parent / ".downloads.lock", timeout_s=-1, busy="", required=False):
                if not target.is_file():
                    _download(source, target)
        except (OSError, HTTPException) as error:
            shown = source.partition("?")[0]
            raise InputError(
                f"cannot download {shown}: {_reason(error)}; fetch it elsewhere and give its path, "
                f"or put it at {target}"
            ) from None
    return str(target)


def is_url(source: str) -> bool:
    """Return whether a checkpoint is named by an `http(s)://` URL."""
    return source.lower().startswith(("http://", "https://"))


def cached(url: str) -> Path:
    """Return the path of a URL's copy: torch.hub's folder of checkpoints, which other programs share.

    A file name that ends with a hash of its content, as published ones do, is kept; any other gets one of the URL, so
    that the `latest.pth` of two sites do not collide.
    """
    name = Path(unquote(urlsplit(url).path)).name or "checkpoint.pth"
    stem, dot, suffix = name.rpartition(".")
    if not re.search(r"-[0-9a-f]{8,}$", stem):
        name = f"{stem or suffix}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{dot and stem and f'.{suffix}'}"
    return Path(torch.hub.get_dir(), "checkpoints", name)


def _download(url: str, target: Path) -> None:
    """Download to a temporary file beside the target and rename it once it is whole."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    get_logger().info("downloading %s to %s", url.partition("?")[0], target)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "raydet3d"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
            size, expected = file.tell(), answer.headers.get("Content-Length")
        if expected is not None and size != int(expected):
            raise OSError(f"it broke off after {size} of {expected} bytes")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)
