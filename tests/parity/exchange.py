"""Checkpoints both ways: a run that ours and MMEngine's loop can each begin, and the other go on with.

    python tests/parity/exchange.py --mmengine PYTHON

Both train the same small model on the same batches with AdamW, a param group of its own for the head, two schedules,
and (in half of the rows) an average of the weights; each goes on from the other's checkpoint of the first epoch, and
what comes out of the second is held against the run that was not handed over. The result is printed as a table.

The part below ``RUN`` is executed in MMEngine's python too, so nothing of this package is imported at the top.
``torch.load`` is told ``weights_only=False`` for MMEngine's own files there: its 0.10.7 cannot resume them otherwise.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, BATCH, SAMPLES = 2, 4, 24


# RUN ---------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A layer, a norm and a head; no dropout, since MMEngine's checkpoints hold no generator's state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.backbone = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.backbone(x)).relu()).squeeze(1)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
        with optim_wrapper.optim_context(self):
            loss = (self(data[0]) - data[1]).square().mean()
        optim_wrapper.update_params(loss)
        return {"loss": loss.detach()}


class Points(torch.utils.data.Dataset):
    """Points on a plane."""

    metainfo = {"classes": ("point",)}  # noqa: RUF012 - MMEngine wants a dict

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SAMPLES, 6, generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.x[index].sum()


def config(work_dir: Path, *, average: bool, optimizer: str = "AdamW") -> dict[str, Any]:
    """The run, in words that both understand."""
    settings = {"AdamW": {"weight_decay": 0.01}, "SGD": {"momentum": 0.9}}[optimizer]
    return {
        "work_dir": str(work_dir),
        "train_dataloader": {
            "dataset": Points(),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": BATCH,
            "num_workers": 0,
            "collate_fn": torch.utils.data.default_collate,
        },
        "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": optimizer, "lr": 0.02, **settings},
            "paramwise_cfg": {"custom_keys": {"head": {"lr_mult": 0.5}}},
            "clip_grad": {"max_norm": 1.0},
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 8},
            {"type": "CosineAnnealingLR", "T_max": 2, "end": 2, "by_epoch": True, "convert_to_iter_based": True},
        ],
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}] if average else [],
        "visualizer": {"type": "Visualizer", "vis_backends": []},
        "randomness": {"seed": 0},
        "log_level": "ERROR",
    }


def train_theirs(work_dir: Path, checkpoint: Path | None, *, average: bool, optimizer: str) -> None:
    """Train with MMEngine, from a checkpoint or from the beginning."""
    from mmengine.runner import Runner

    # Only here, in this comparison: its history objects are no weights.
    torch.load = functools.partial(torch.load, weights_only=False)
    cfg = config(work_dir, average=average, optimizer=optimizer)
    runner = Runner(
        model=Net(), **cfg, resume=checkpoint is not None, load_from=None if checkpoint is None else str(checkpoint)
    )
    runner.train()


def read_theirs(checkpoint: Path, out: Path) -> None:
    """Load a checkpoint's weights with MMEngine's own loader, as torch's defaults have it, and save what arrived."""
    from mmengine.runner import load_checkpoint

    model = Net()
    load_checkpoint(model, str(checkpoint), map_location="cpu", strict=True)
    torch.save(model.state_dict(), out)


# OURS --------------------------------------------------------------------------------------------------------------


def train_ours(work_dir: Path, checkpoint: Path | None, *, average: bool, optimizer: str) -> None:
    """Train with ours, from a checkpoint or from the beginning."""
    from raydet3d.config import Config
    from raydet3d.runtime import assemble

    cfg = Config({**config(work_dir, average=average, optimizer=optimizer), "model": {"type": Net}})
    runner = assemble(cfg, resume=False if checkpoint is None else str(checkpoint))
    runner.train()
    runner.close()


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, float]:
    """Largest differences between two checkpoints of the same point: weights, moments, learning rates, counts."""
    out = {"weights": _apart(a["state_dict"], b["state_dict"])}
    moments = [
        {f"{i}.{key}": value for i, slot in state["optimizer"]["state"].items() for key, value in slot.items()}
        for state in (a, b)
    ]
    out["moments"] = _apart(*moments)
    rates = [
        {str(i): torch.tensor(float(group["lr"])) for i, group in enumerate(state["optimizer"]["param_groups"])}
        for state in (a, b)
    ]
    out["lr"] = _apart(*rates)
    counts = [{key: torch.tensor(float(state["meta"][key])) for key in ("epoch", "iter")} for state in (a, b)]
    out["counts"] = _apart(*counts)
    if "ema_state_dict" in a or "ema_state_dict" in b:
        plain = [{k: v for k, v in s.get("ema_state_dict", {}).items() if k != "steps"} for s in (a, b)]
        out["without average"] = _apart(*plain)
    return out


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    if set(a) != set(b):
        raise AssertionError(f"names differ: {sorted(set(a) ^ set(b))}")
    tensors = [(torch.as_tensor(a[key]).double(), torch.as_tensor(b[key]).double()) for key in a if a[key] is not None]
    return max(((x - y).abs().max().item() for x, y in tensors), default=0.0)


def rows(
    python: str, folder: Path, *, averages: tuple[bool, ...] = (False, True)
) -> Iterator[tuple[str, dict[str, float]]]:
    """Each comparison, and its largest differences."""
    from raydet3d.checkpoint.safe_load import read_checkpoint

    def theirs(*args: Any) -> None:
        command = [python, __file__, "--side", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])

    for optimizer in ("AdamW", "SGD"):
        for average in averages:
            name = f"{optimizer}{', average of the weights' if average else ''}"
            how = {"average": average, "optimizer": optimizer}
            place = folder / f"{optimizer}-{average}"
            train_ours(place / "ours", None, **how)
            theirs("train", place / "theirs", "-", int(average), optimizer)
            mine, other = place / "ours", place / "theirs"
            yield f"{name}: trained side by side", compare(*(read_checkpoint(p / "epoch_2.pth") for p in (mine, other)))
            train_ours(place / "ours-goes-on", other / "epoch_1.pth", **how)
            pair = (place / "ours-goes-on" / "epoch_2.pth", other / "epoch_2.pth")
            yield f"{name}: ours goes on from theirs", compare(*map(read_checkpoint, pair))
            theirs("train", place / "theirs-goes-on", mine / "epoch_1.pth", int(average), optimizer)
            pair = (place / "theirs-goes-on" / "epoch_2.pth", mine / "epoch_2.pth")
            yield f"{name}: theirs goes on from ours", compare(*map(read_checkpoint, pair))
            theirs("read", mine / "epoch_2.pth", place / "read.pth")
            weights = torch.load(place / "read.pth", weights_only=True)
            wanted = read_checkpoint(mine / "epoch_2.pth")["state_dict"]
            yield f"{name}: their loader reads ours", {"weights": _apart(weights, wanted)}


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mmengine", default=os.environ.get("RAYDET3D_MMENGINE_PYTHON", sys.executable))
    parser.add_argument("--side", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.side:
        what, source, target, *rest = args.side
        if what == "read":
            read_theirs(Path(source), Path(target))
        else:
            start = None if target == "-" else Path(target)
            train_theirs(Path(source), start, average=bool(int(rest[0])), optimizer=rest[1])
        return
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        for title, apart in rows(args.mmengine, Path(folder)):
            print(f"{title:<60} {json.dumps(apart)}", flush=True)


if __name__ == "__main__":
    main()
