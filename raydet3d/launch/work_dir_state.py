"""What stands in a work dir before a run begins there: nothing, the same run, one that is finished, another one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet3d.config import Config, is_uri
from raydet3d.errors import InputError
from raydet3d.launch.restart_file import read_reached, read_starts

# Keys that say where and how a run works, and not what it learns.
_ABOUT = ("ray", "work_dir", "resume", "load_from", "log_level", "launcher", "experiment_name", "visualizer")
_MANY = 6  # differences that a message lists


@dataclass(frozen=True, kw_only=True)
class PreviousRun:
    """An earlier run's traces in the work dir.

    Args:
        run: Its name.
        reached: Iterations that it had finished.
        finished: Whether it came to its end.
        result: Its result, if it did.
        differences: What the config says now and did not say then, a line each; None where that is not known.
        saved: Whether it has a checkpoint to go on from. (Another run's, from before, is none.)
    """

    run: str
    reached: int
    finished: bool
    result: dict[str, Any]
    differences: list[str] | None
    saved: bool

    @property
    def is_same(self) -> bool:
        """Whether the config is the one that the run was started with."""
        return self.differences == []

    def describe(self) -> str:
        """The differences in a few words."""
        if not self.differences:
            return "its config is not known" if self.differences is None else "with the same config"
        more = f" and {len(self.differences) - _MANY} more" if len(self.differences) > _MANY else ""
        return f"whose config differs ({'; '.join(self.differences[:_MANY])}{more})"


def inspect_work_dir(work_dir: Path, cfg: Config) -> PreviousRun | None:
    """What stands in the work dir.

    Args:
        work_dir: The folder; where ``cfg.work_dir`` is a URI, the one that stands for it on this machine: what other
            machines have left there is brought first.
        cfg: The config that is to run, before a seed was drawn for it.

    Returns:
        The traces of the run that was there last; None where there are none that can be read.
    """
    home = str(cfg.get("work_dir"))
    savers = _bring(home, work_dir, _config_name(cfg)) if is_uri(home) else _savers(work_dir)
    starts = read_starts(work_dir)
    if not starts:
        return None
    last = starts[-1]
    finished = bool(last.get("finished"))
    run = str(last.get("run", ""))
    return PreviousRun(
        run=run,
        reached=int(last["iter"]) if finished else read_reached(work_dir) or 0,
        finished=finished,
        result=dict(last.get("result") or {}),
        differences=_differences(work_dir, cfg),
        saved=run in savers,
    )


def _savers(work_dir: Path) -> set[str]:
    """The runs that have left something to go on from, in a folder or where its ``last_checkpoint`` leads."""
    folders = {work_dir}
    with suppress(OSError, UnicodeDecodeError):
        folders.add((work_dir / (work_dir / "last_checkpoint").read_text(encoding="utf-8").strip()).parent)
    runs = set()
    for path in (path for folder in folders for path in folder.glob("*.pth.json") if not path.name.startswith(".")):
        with suppress(OSError, ValueError, AttributeError):
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry.get("resumable", True):
                runs.add(str(entry.get("run", "")))
    return runs


def _bring(uri: str, work_dir: Path, config: str) -> set[str]:
    """Bring what other machines have left of a run behind a URI; the runs that have left something to go on from."""
    from raydet3d.checkpoint.log_upload import LogUploader
    from raydet3d.checkpoint.storage import ObjectStorage
    from raydet3d.checkpoint.store import CheckpointStore
    from raydet3d.log import get_logger  # here: they import torch, and a door is to name what is wrong before

    bucket = ObjectStorage.at(uri)
    LogUploader(work_dir, bucket, get_logger()).pull(config)
    return CheckpointStore(uri).savers()


def _config_name(cfg: Config) -> str:
    return Path(cfg.filename).name if cfg.filename else "config.py"


def _differences(work_dir: Path, cfg: Config) -> list[str] | None:
    """What the config that the earlier run has left there says otherwise."""
    try:
        before = Config.fromfile(work_dir / _config_name(cfg)).to_dict()
    except (InputError, OSError):
        return None
    now = cfg.to_dict()
    for one in (before, now):
        for key in _ABOUT:
            one.pop(key, None)
    if (now.get("randomness") or {}).get("seed") is None:  # then one was drawn
        for one in (before, now):
            one["randomness"] = {k: v for k, v in (one.get("randomness") or {}).items() if k != "seed"}
    return [f"{key}: {old} -> {new}" for key, old, new in _compare(_plain(before), _plain(now))]


def _compare(before: Any, now: Any, key: str = "") -> list[tuple[str, str, str]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        out = []
        for name in sorted({*before, *now}, key=str):
            inner = f"{key}.{name}" if key else str(name)
            if name not in before or name not in now:
                values = [_short(one[name]) if name in one else "absent" for one in (before, now)]
                out.append((inner, *values))
            else:
                out += _compare(before[name], now[name], inner)
        return [(where, old, new) for where, old, new in out]
    return [] if before == now else [(key, _short(before), _short(now))]


def _plain(value: Any) -> Any:
    """Lists for tuples: a config that was written and read again has the same ones, but for that."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
