"""The end of a run in a few lines: the scores that count, the best checkpoint, where logs and pictures lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydet3d import dist
from raydet3d.checkpoint.load import exists, locate

FEW = 12  # metrics that are all shown; where there are more, hooks say which


def headline(metrics: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, float]:
    """The metrics that count, by the last part of their name.

    Args:
        metrics: All of a validation.
        wanted: Parts of the names that count; where none is found, all count if they are few.
    """
    scalars = {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}
    found = {key: value for key, value in scalars.items() if any(part in key for part in wanted)}
    if not found and len(scalars) <= FEW:
        found = scalars
    short = [key.rsplit("/", 1)[-1] for key in found]
    unique = len(set(short)) == len(short)
    return dict(zip(short if unique else found, found.values(), strict=True))


def summarize(runner: Any, *, seconds: float) -> dict[str, Any]:
    """What ``Runner.train`` returns; every rank calls it, once all that was saved is written."""
    info = runner.message_hub.get_info
    metrics = {k: v for k, v in info("val_metrics", {}).items() if isinstance(v, (int, float))}
    pictures = runner.log_dir / "vis_data" / "vis_image"
    best, last = dist.on_rank0(lambda: _in_place(runner))
    return {
        "metrics": metrics,
        "headline": runner.headline(metrics),
        "best_score": info("best_score"),
        "best_checkpoint": best,
        "last_checkpoint": last,
        "not_kept": runner.not_kept(),
        "log_dir": str(runner.log_dir),
        "picture_dir": str(pictures) if pictures.is_dir() else None,
        "epoch": runner.epoch,
        "iter": runner.iter,
        "seconds": seconds,
    }


def _in_place(runner: Any) -> tuple[str | None, str | None]:
    """The best and the last checkpoint, as far as they are there: writing one may have failed."""
    best, last = (runner.message_hub.get_info(key) for key in ("best_ckpt", "last_ckpt"))
    if last is not None and not exists(locate(last)):
        newest = runner.store_in(locate(last.rpartition("/")[0])).newest_own()
        runner.logger.error("the last checkpoint %s was not written; the newest one is %s", last, newest)
        last = None if newest is None else str(newest)
    if best is not None and not exists(locate(best)):
        runner.logger.error("the best checkpoint %s is not there", best)
        best = None
    return best, last


def to_lines(summary: Mapping[str, Any]) -> str:
    """A summary as text."""
    lines = [f"done in {summary['seconds']:.0f} s"]
    lines += [f"  {name}: {value:.4f}" for name, value in summary["headline"].items()]
    places = ("best_checkpoint", "last_checkpoint", "log_dir", "picture_dir")
    lines += [f"  {key.replace('_', ' ')}: {summary[key]}" for key in places if summary[key]]
    lines += [f"  not kept: {name}: {why}" for name, why in summary.get("not_kept", {}).items()]
    return "\n".join(lines)
