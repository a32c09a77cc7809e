"""Numbers and file names of MMEngine's averages, checkpoint hook and early stop: run by a python that has MMEngine.

``python tests/parity/mmengine_hooks.py`` prints them as JSON; ``hooks.json.gz`` beside it holds what 0.10.7 printed.
Everything is drawn from fixed formulas, so that the same can be made without MMEngine.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

AVERAGES: list[dict[str, Any]] = [
    {"type": kind, "interval": interval, "update_buffers": update_buffers, **extra}
    for kind, extras in {
        "ExponentialMovingAverage": [{}, {"momentum": 0.1}],
        "StochasticWeightAverage": [{}],
        "MomentumAnnealingEMA": [{}, {"momentum": 0.4, "gamma": 5}],
    }.items()
    for extra, interval, update_buffers in itertools.product(extras, (1, 3), (False, True))
]
STEPS = 12


def make_model() -> nn.Module:
    """A model with weights, statistics and a count."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    set_to(model, 0)
    return model


def set_to(model: nn.Module, step: int) -> None:
    """Give a model the weights and buffers of a step."""
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            values = torch.arange(tensor.numel()).reshape(tensor.shape) + 1
            tensor.copy_(
                values * (step + 1) if not tensor.is_floating_point() else (values * (0.37 + step)).cos() + number
            )


def average(build: Callable[[dict[str, Any], nn.Module], Any], cfg: Mapping[str, Any]) -> dict[str, list[float]]:
    """The state after some steps."""
    model = make_model()
    averaged = build(dict(cfg), model)
    for step in range(STEPS):
        set_to(model, step)
        averaged.update_parameters(model)
    return {name: tensor.flatten().tolist() for name, tensor in averaged.state_dict().items()}


# -- runs -------------------------------------------------------------------------------------------------------

EPOCHS, BATCHES = 6, 4
CHECKPOINTS: list[dict[str, Any]] = [
    {"interval": 1},
    {"interval": 2},
    {"interval": 2, "save_last": False},
    {"interval": 4, "save_begin": 1},
    {"interval": 1, "save_begin": 3},
    {"interval": 1, "max_keep_ckpts": 2},
    {"interval": 2, "max_keep_ckpts": 1},
    {"interval": 5, "max_keep_ckpts": 1},
    {"interval": -1},
    {"interval": -1, "save_last": False},
    {"interval": 3, "filename_tmpl": "model_{}.pth"},
    {"interval": 7, "by_epoch": False},
    {"interval": 5, "by_epoch": False, "max_keep_ckpts": 2},
    {"interval": 6, "by_epoch": False, "save_best": "m/acc"},
    {"interval": 2, "save_best": "auto"},
    {"interval": 2, "save_best": "m/acc"},
    {"interval": 2, "save_best": "m/loss"},
    {"interval": 2, "save_best": ["m/acc", "m/loss"]},
    {"interval": 2, "save_best": ["m/acc", "m/loss"], "rule": ["less", "greater"]},
    {"interval": 2, "save_best": "m/acc", "rule": "less"},
    {"interval": 2, "save_best": "m/height", "rule": "greater", "max_keep_ckpts": 1},
    {"interval": 2, "save_best": "m/height", "greater_keys": ["height"], "filename_tmpl": "e{}.pth"},
    {"interval": 2, "save_best": "m/height", "less_keys": ["height"]},
    {"interval": 3, "save_best": "m/acc", "published_keys": ["meta", "state_dict"], "max_keep_ckpts": 1},
    {"interval": 2, "out_dir": "elsewhere", "save_best": "m/acc"},
    {"interval": 2, "save_optimizer": False, "save_param_scheduler": False},
]
SCORES = {
    "m/acc": [0.30, 0.50, 0.45, 0.50, 0.62, 0.61],
    "m/loss": [3.0, 2.0, 2.5, 1.5, 1.5, 1.75],
    "m/height": [4.0, 1.0, 5.0, 2.0, 3.0, 0.5],
}
STOPS: list[dict[str, Any]] = [
    {"monitor": monitor, "patience": patience, "min_delta": delta, **extra}
    for monitor, patience, delta, extra in itertools.product(
        ("m/acc", "m/loss"), (1, 2, 3), (0.0, 0.1, 0.6), ({}, {"rule": "less"}, {"stopping_threshold": 0.49})
    )
]
RULES = [
    "acc",
    "top1",
    "AR@10",
    "roc_auc",
    "coco/bbox_mAP",
    "mDice",
    "mIoU",
    "loss",
    "val_loss",
    "accuracy_loss",
    "LOSS_total",
    "height",
]


def make_layer() -> nn.Linear:
    """A layer with fixed weights."""
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(0.75)
        layer.bias.fill_(-0.25)
    return layer


class Toy(nn.Module):
    """A weight that a batch moves."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.layer = make_layer()

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """One step."""
        loss = self.layer(torch.ones(1, 1)).square().sum()
        optim_wrapper.update_params(loss)
        return {"loss": loss.detach()}

    def val_step(self, data: Any) -> list[Any]:
        """A prediction for the batch's one sample."""
        return [{"n": 1}]


def tidy(names: Sequence[str]) -> list[str]:
    """File names in order, a published one's digest left out."""
    out = []
    for name in sorted(names):
        stem, _, digest = name.removesuffix(".pth").rpartition("-")
        out.append(f"{stem}-########.pth" if stem and len(digest) == 8 else name)
    return sorted(out)


def look(folder: Path) -> dict[str, Any]:
    """What a run left behind."""
    saved = {path.name: path for path in folder.rglob("*.pth")}
    pointer = folder / "work" / "last_checkpoint"
    keys, counts = {}, {}
    for name, path in saved.items():
        content = torch.load(path, map_location="cpu", weights_only=False)
        keys[name] = sorted(set(content) & {"optimizer", "param_schedulers", "state_dict", "meta", "message_hub"})
        counts[name] = [content["meta"]["epoch"], content["meta"]["iter"]]
    return {
        "files": tidy([str(path.relative_to(folder)) for path in saved.values()]),
        "last": Path(pointer.read_text()).name if pointer.is_file() else None,
        "keys": {tidy([name])[0]: value for name, value in keys.items()},
        "counts": {tidy([name])[0]: value for name, value in counts.items()},
    }


def run_mmengine(folder: Path, hook: Mapping[str, Any], custom: Sequence[Any] = ()) -> Any:
    """A run with MMEngine's runner."""
    from mmengine.evaluator import BaseMetric, Evaluator
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(Toy, BaseModel):
        def __init__(self) -> None:
            BaseModel.__init__(self)
            self.layer = make_layer()

        def forward(self, *args: Any, **kwargs: Any) -> None:
            raise NotImplementedError

    class Metric(BaseMetric):
        default_prefix = "m"
        calls = 0

        def process(self, data_batch: Any, data_samples: Any) -> None:
            self.results.append(0)

        def compute_metrics(self, results: list[Any]) -> dict[str, float]:
            self.calls += 1
            return {name.removeprefix("m/"): values[self.calls - 1] for name, values in SCORES.items()}

    loader = {"dataset": list(range(BATCHES)), "sampler": {"type": "DefaultSampler", "shuffle": False}}
    loader |= {"batch_size": 1, "num_workers": 0}
    runner = Runner(
        model=Model(),
        work_dir=str(folder / "work"),
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": EPOCHS},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01}},
        param_scheduler=[{"type": "MultiStepLR", "milestones": [2]}],
        val_dataloader=loader,
        val_cfg={},
        val_evaluator=Evaluator([Metric()]),
        default_hooks={"checkpoint": {"type": "CheckpointHook", **hook}},
        custom_hooks=list(custom),
        log_level="CRITICAL",
        experiment_name=folder.name,
    )
    runner.train()
    return runner


def main() -> int:
    """Print everything as JSON."""
    import warnings

    import mmengine
    from mmengine.hooks import CheckpointHook
    from mmengine.registry import MODELS

    # 0.10.7 cannot read its own files with what torch holds safe; published_keys does read them.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    out: dict[str, Any] = {
        "mmengine": mmengine.__version__,
        "averages": [],
        "checkpoints": [],
        "stops": [],
        "rules": {},
    }
    for cfg in AVERAGES:
        state = average(lambda cfg, model: MODELS.build(cfg, default_args={"model": model}), cfg)
        out["averages"].append({"cfg": cfg, "state": state})
    with tempfile.TemporaryDirectory() as top:
        for number, hook in enumerate(CHECKPOINTS):
            folder = Path(top) / f"checkpoint{number}"
            here = {**hook, **({"out_dir": str(folder / hook["out_dir"])} if "out_dir" in hook else {})}
            run_mmengine(folder, here)
            out["checkpoints"].append({"cfg": hook, **look(folder)})
        run_mmengine(Path(top) / "ema", {"interval": 2}, [{"type": "EMAHook", "momentum": 0.25, "begin_iter": 3}])
        saved = torch.load(Path(top) / "ema" / "work" / "epoch_2.pth", weights_only=False)
        out["ema"] = {
            key: {name: tensor.tolist() for name, tensor in saved[key].items()}
            for key in ("state_dict", "ema_state_dict")
        }
        for number, stop in enumerate(STOPS):
            folder = Path(top) / f"stop{number}"
            quiet = {"interval": -1, "save_last": False}
            runner = run_mmengine(folder, quiet, [{"type": "EarlyStoppingHook", **stop}])
            out["stops"].append({"cfg": stop, "epochs": runner.epoch})
    for metric in RULES:
        try:
            out["rules"][metric] = CheckpointHook(save_best=metric).rules[0]
        except ValueError:
            out["rules"][metric] = None
    sys.stdout = sys.__stdout__
    print(json.dumps(out))
    return 0


if __name__ == "__main__":
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - MMEngine prints
    sys.__stdout__ = stdout  # type: ignore[misc]
    sys.exit(main())
