"""The runtime sections of a checkout's configs of MMDetection3D, built by ours and stepped on a toy model.

    python tests/parity/sections.py --root CHECKOUT [--all]

Of every config that trains, old style and new: ``optim_wrapper``, ``param_scheduler``, the loops, the hooks, the log
processor, the visualizer and what else the runtime reads, round a model whose parts have a detector's names and two
batches of made-up numbers. A recipe that several configs share is run once. Prints one line a recipe that fails
(``--all``: every recipe), the first file that has it, and a count; ends with 1 where some fail.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]
os.environ.setdefault("WANDB_MODE", "offline")  # some of them write there

from torch import nn  # noqa: E402

from raydet3d.config import Config  # noqa: E402
from raydet3d.errors import InputError  # noqa: E402
from raydet3d.hooks import Hook  # noqa: E402
from raydet3d.runtime import Runner  # noqa: E402
from tests.kit.toy import ToyMetric, ToyModel, toy_cfg  # noqa: E402
from tests.parity.configs import files_of  # noqa: E402

SECTIONS = (
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
    "val_cfg",
    "default_hooks",
    "custom_hooks",
    "log_processor",
    "log_level",
    "visualizer",
    "env_cfg",
    "auto_scale_lr",
    "randomness",
    "find_unused_parameters",
    "resume",
)


class Parts(ToyModel):
    """The toy, with a backbone and a normalisation for ``paramwise_cfg`` to find."""

    def __init__(self) -> None:
        super().__init__(norm=True)
        self.backbone = self.first
        self.img_backbone = nn.Linear(2, 2)
        self.img_backbone.requires_grad_(False)


class Scores(ToyMetric):
    """The toy's scores, and those that the checkpoint hook is told to watch.

    Args:
        also: Their names.
    """

    default_prefix = None

    def __init__(self, also: Sequence[str] = ()) -> None:
        super().__init__()
        self.also = also

    def compute_metrics(self, results: list[tuple[int, float]]) -> dict[str, float]:
        """Compute."""
        return {**super().compute_metrics(results), **dict.fromkeys(self.also, 0.5)}


class Stop(Hook):
    """Ends training after its first epoch, and says how far it came."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count."""
        self.steps = runner.iter + 1

    def after_train_epoch(self, runner: Any) -> None:
        """Stop."""
        runner.train_loop.stop_training = True


def recipe_of(cfg: Config) -> dict[str, Any]:
    """The runtime sections of a config, as plain data."""
    plain = cfg.to_dict()
    return {key: plain[key] for key in SECTIONS if plain.get(key) is not None}


def run(recipe: dict[str, Any]) -> int:
    """Build everything and train an epoch.

    Returns:
        How many steps were made.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = toy_cfg(Path(folder), model={"type": Parts}, train_dataloader__num_batch_per_epoch=3)
        for key in SECTIONS:
            if key in cfg:
                del cfg[key]
        for key, value in recipe.items():
            cfg[key] = value
        watched = (recipe.get("default_hooks", {}).get("checkpoint") or {}).get("save_best") or []
        cfg["val_evaluator"] = {"type": Scores, "also": [watched] if isinstance(watched, str) else watched}
        stop = Stop()
        runner = Runner.from_cfg(cfg, extra_hooks=[stop])
        try:
            runner.train()
        finally:
            runner.close()
    return stop.steps


def main(argv: Sequence[str] | None = None) -> int:
    """Run each recipe once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--all", action="store_true", help="a line for every recipe")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    sys.path.insert(0, str(root))
    recipes: dict[str, tuple[Path, dict[str, Any]]] = {}
    shared: dict[str, int] = {}
    for file in files_of(root):
        try:
            cfg = Config.fromfile(file, import_custom_modules=False)
        except InputError:
            continue  # the other script's business
        if cfg.get("optim_wrapper") and cfg.get("train_cfg") and cfg.get("model"):
            recipe = {**recipe_of(cfg), "log_level": "ERROR"}
            key = json.dumps(recipe, sort_keys=True, default=str)
            recipes.setdefault(key, (file, recipe))
            shared[key] = shared.get(key, 0) + 1
    failed = 0
    for key, (file, recipe) in recipes.items():
        try:
            said = f"{run(recipe)} steps"
        except Exception as error:  # noqa: BLE001 - a line of the table, whatever it is
            failed += 1
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if args.all or not said.endswith(" steps"):
            print(f"{file.relative_to(root)} (and {shared[key] - 1} more): {said}")
    print(f"{sum(shared.values())} configs that train, {len(recipes)} recipes: {failed} fail")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
