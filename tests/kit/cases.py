"""Cases of optimizers, param groups and schedules, drawn at random, and what a run of each shows at every iteration."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Case = dict[str, Any]

# Optimizers of torch with arguments to draw from; (name, fixed arguments, arguments that may be there).
OPTIMIZERS: list[tuple[str, dict[str, list[Any]]]] = [
    ("SGD", {"momentum": [0.0, 0.5, 0.9, 0.937], "nesterov": [False], "dampening": [0, 0.1]}),
    ("Adam", {"betas": [(0.9, 0.999), (0.95, 0.99), (0.8, 0.9)], "amsgrad": [False, True], "eps": [1e-8, 1e-6]}),
    ("AdamW", {"betas": [(0.9, 0.999), (0.95, 0.99)], "eps": [1e-8, 1e-5]}),
    ("RMSprop", {"momentum": [0.0, 0.9], "alpha": [0.99, 0.9], "centered": [False, True]}),
    ("Adamax", {"betas": [(0.9, 0.999), (0.85, 0.99)]}),
    ("NAdam", {"betas": [(0.9, 0.999)], "momentum_decay": [0.004, 0.01]}),
    ("RAdam", {"betas": [(0.9, 0.999), (0.8, 0.99)]}),
    ("Adagrad", {"lr_decay": [0.0, 0.01]}),
    ("Adadelta", {"rho": [0.9, 0.8]}),
    ("ASGD", {"lambd": [1e-4], "alpha": [0.75]}),
]
WITH_MOMENTUM = {"SGD", "RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"}
KEYS = ["backbone", "img_backbone", "bbox_head", "bbox_head.decoder_layers", "cls", ".scale", "norm", "0", "weight"]
CURVES = (
    "Constant",
    "CosineAnnealing",
    "CosineRestart",
    "Exponential",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Poly",
    "ReduceOnPlateau",
    "Step",
)
RULES = ("bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult", "flat_decay_mult")


def names() -> list[str]:
    """All scheduler names that MMEngine has: every curve for each kind of field, but no OneCycleMomentum."""
    suffixes = ("LR", "Momentum", "ParamScheduler")
    return [c + s for c in CURVES for s in suffixes if c + s != "OneCycleMomentum"]


# ---------------------------------------------------------------------------------------------------- drawing


def draw_optimizer(rng: random.Random) -> dict[str, Any]:
    """An optimizer's config."""
    kind, options = rng.choice(OPTIMIZERS)
    cfg: dict[str, Any] = {"type": kind, "lr": rng.choice([0.1, 0.02, 1e-3, 3e-4]) * rng.uniform(0.5, 1)}
    if rng.random() < 0.8:
        cfg["weight_decay"] = rng.choice([0.0, 1e-4, 0.01, 0.05])
    for name, values in options.items():
        if rng.random() < 0.6:
            cfg[name] = rng.choice(values)
    if kind == "SGD" and cfg.get("momentum") and not cfg.get("dampening"):
        cfg["nesterov"] = rng.random() < 0.5
    return cfg


def draw_paramwise(rng: random.Random, optimizer: dict[str, Any]) -> dict[str, Any] | None:
    """Rules for parameters, or none; multipliers of the weight decay only where the optimizer has one."""
    if rng.random() < 0.35:
        return None
    decays = "weight_decay" in optimizer
    rules: dict[str, Any] = {}
    for name in RULES:
        if (decays or "decay" not in name) and rng.random() < 0.35:
            rules[name] = rng.choice([0.0, 0.1, 0.5, 1.0, 2.0])
    if rng.random() < 0.6:
        keys = {}
        for key in rng.sample(KEYS, rng.randint(1, 3)):
            own: dict[str, Any] = {}
            if rng.random() < 0.8:
                own["lr_mult"] = rng.choice([0.0, 0.1, 0.5, 2.0])
            if decays and rng.random() < 0.5:
                own["decay_mult"] = rng.choice([0.0, 0.5, 3.0])
            if rng.random() < 0.15:
                own["lr"] = 0.005
            keys[key] = own
        rules["custom_keys"] = keys
    if rng.random() < 0.2:
        rules["bypass_duplicate"] = True
    return rules or None


def draw_scheduler(rng: random.Random, name: str, case: Case, groups: int) -> dict[str, Any]:
    """A scheduler's config for a run; measured in epochs, iterations, or epochs that become iterations."""
    curve = next(c for c in sorted(CURVES, key=len, reverse=True) if name.startswith(c))
    cfg: dict[str, Any] = {"type": name}
    field = "lr"
    if name.endswith("Momentum"):
        field = "momentum"
    elif name.endswith("ParamScheduler"):
        fields = (
            ["lr"] + ["weight_decay"] * ("weight_decay" in case["optimizer"]) + ["eps"] * ("eps" in case["optimizer"])
        )
        field = cfg["param_name"] = "lr" if curve == "OneCycle" else rng.choice(fields)
    beat = "epoch" if curve == "ReduceOnPlateau" else rng.choice(["epoch", "iter", "convert"])
    total = case["max_epochs"] * (case["epoch_length"] if beat == "iter" else 1)
    if beat == "iter":
        cfg["by_epoch"] = False
    elif rng.random() < 0.5 or beat == "convert":
        cfg["by_epoch"] = True
    if beat == "convert":
        cfg["convert_to_iter_based"] = True
    begin = rng.choice([0, 0, 0, rng.randint(0, max(total - 2, 0))])
    end = rng.choice([None, rng.randint(begin + 2, total + 3)])
    if begin or rng.random() < 0.3:
        cfg["begin"] = begin
    if end is not None:
        cfg["end"] = end
    cfg.update(ARGUMENTS[curve](rng, field, case, (total if end is None else end) - begin, groups))
    return cfg


def _value(case: Case, field: str) -> float:
    optimizer = case["optimizer"]
    return float({"lr": optimizer["lr"], "momentum": 0.9}.get(field, optimizer.get(field, 0.01)))


def _maybe(rng: random.Random, **options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if rng.random() < 0.6}


def _floor(rng: random.Random, field: str, case: Case) -> dict[str, Any]:
    value = _value(case, field)
    return rng.choice(
        [{}, {"eta_min": value * rng.choice([0.0, 0.1, 0.9, 1.05])}, {"eta_min_ratio": rng.choice([0.0, 0.1, 0.5])}]
    )


def _restarts(rng: random.Random, field: str, case: Case, length: int, groups: int) -> dict[str, Any]:
    count = rng.randint(1, 3)
    weights = [rng.choice([1, 0.5, 0.25]) for _ in range(count)]
    floor = _floor(rng, field, case) or {"eta_min": 0.0}
    return {"periods": [rng.randint(1, max(length // 2, 1)) for _ in range(count)], "restart_weights": weights, **floor}


def _one_cycle(rng: random.Random, field: str, case: Case, length: int, groups: int) -> dict[str, Any]:
    peak = _value(case, field) * rng.choice([1.0, 5.0])
    listed = [peak * (1 + i % 3) for i in range(groups)]
    options = _maybe(
        rng,
        pct_start=rng.choice([0.3, 0.5, 0.25]),
        anneal_strategy=rng.choice(["cos", "linear"]),
        div_factor=rng.choice([25.0, 10.0, 2.0]),
        final_div_factor=rng.choice([1e4, 100.0]),
        three_phase=rng.choice([True, False]),
    )
    # Longer than the window, since a step beyond the total is an error; and not so short that a leg has no length.
    return {
        "eta_max": listed if rng.random() < 0.4 else peak,
        "total_steps": max(length, 8) + rng.randint(0, 3),
        **options,
    }


def _plateau(rng: random.Random, field: str, case: Case, length: int, groups: int) -> dict[str, Any]:
    floor = _value(case, field) * 0.05
    return {
        "monitor": rng.choice(["loss", "AP"]),
        "patience": rng.choice([0, 1, 2]),
        **_maybe(
            rng,
            rule=rng.choice(["less", "greater"]),
            factor=rng.choice([0.1, 0.5, 0.9]),
            threshold=rng.choice([1e-4, 0.05, 0.3]),
            threshold_rule=rng.choice(["rel", "abs"]),
            cooldown=rng.choice([0, 1, 2]),
            # One for each real group; the base one follows the last.
            min_value=rng.choice([0.0, floor, [floor * (1 + i % 2) for i in range(max(groups - 1, 1))]]),
            eps=rng.choice([1e-8, 1e-4]),
        ),
    }


ARGUMENTS: dict[str, Callable[[random.Random, str, Case, int, int], dict[str, Any]]] = {
    "Constant": lambda rng, *_: _maybe(rng, factor=rng.choice([0.1, 1 / 3, 0.5, 1.0])),
    "CosineAnnealing": lambda rng, field, case, length, _: {
        **_maybe(rng, T_max=max(1, length + rng.randint(-2, 3))),
        **_floor(rng, field, case),
    },
    "CosineRestart": _restarts,
    "Exponential": lambda rng, *_: {"gamma": rng.choice([0.5, 0.9, 0.99, 1.01])},
    "Linear": lambda rng, *_: _maybe(
        rng, start_factor=rng.choice([1e-3, 0.1, 0.5, 1.0]), end_factor=rng.choice([0.1, 0.5, 1.0])
    ),
    "MultiStep": lambda rng, field, case, length, _: {
        "milestones": sorted(rng.randint(1, max(length, 1)) for _ in range(rng.randint(1, 3))),
        **_maybe(rng, gamma=rng.choice([0.1, 0.5, 1.1])),
    },
    "OneCycle": _one_cycle,
    "Poly": lambda rng, field, case, *_: _maybe(
        rng, eta_min=_value(case, field) * rng.choice([0.0, 0.1]), power=rng.choice([0.5, 0.9, 1.0, 2.0])
    ),
    "ReduceOnPlateau": _plateau,
    "Step": lambda rng, field, case, length, _: {
        "step_size": rng.randint(1, max(length // 2, 1)),
        **_maybe(rng, gamma=rng.choice([0.1, 0.5, 0.9])),
    },
}


def draw_case(rng: random.Random, groups_of: Callable[[Case], int], first: str | None = None) -> Case:
    """A whole case; ``first`` is the name of its first scheduler.

    Args:
        rng: What to draw from.
        groups_of: Number of param groups that lists are for.
        first: A scheduler's name.
    """
    optimizer = draw_optimizer(rng)
    while first is not None and first.endswith("Momentum") and optimizer["type"] not in WITH_MOMENTUM:
        optimizer = draw_optimizer(rng)
    case: Case = {
        "optimizer": optimizer,
        "paramwise_cfg": draw_paramwise(rng, optimizer),
        "accumulative_counts": rng.choice([1, 1, 1, 2, 3]),
        "clip_grad": rng.choice(
            [None, {"max_norm": 1.0}, {"max_norm": 0.5, "norm_type": 1}, {"type": "value", "clip_value": 0.2}]
        ),
        "max_epochs": rng.randint(2, 8),
        "epoch_length": rng.randint(1, 6),
    }
    case["metrics"] = [{"loss": rng.uniform(0.5, 1.5), "AP": rng.uniform(10, 20)} for _ in range(case["max_epochs"])]
    usable = [n for n in names() if optimizer["type"] in WITH_MOMENTUM or not n.endswith("Momentum")]
    chosen = [first or rng.choice(usable)]
    for _ in range(rng.randint(0, 3)):
        # One cycle at most: of two, MMEngine gives both the second one's peak.
        cycled = any(name.startswith("OneCycle") for name in chosen)
        chosen.append(rng.choice([n for n in usable if not (cycled and n.startswith("OneCycle"))]))
    groups = groups_of(case)
    case["param_scheduler"] = [draw_scheduler(rng, name, case, groups) for name in chosen]
    return case


def draw_several(rng: random.Random, groups_of: Callable[[Case], int]) -> Case:
    """A case of two optimizers, each for a part of the toy, with schedules by their names or one list for both."""
    parts = {"backbone": draw_case(rng, groups_of), "bbox_head": draw_case(rng, groups_of)}
    for part in parts.values():  # lists are for one number of groups, momentum for some optimizers
        part["accumulative_counts"] = 1
        if part["paramwise_cfg"]:
            part["paramwise_cfg"].pop("custom_keys", None)
    names_of_lr = [n for n in names() if n.endswith("LR") and not n.startswith(("OneCycle", "ReduceOnPlateau"))]
    whole = next(iter(parts.values()))

    def some() -> list[dict[str, Any]]:
        return [draw_scheduler(rng, rng.choice(names_of_lr), whole, 1) for _ in range(rng.randint(1, 2))]

    schedule: Any = {name: some() for name in parts} if rng.random() < 0.6 else some()
    return {
        "several": {k: {n: v for n, v in part.items() if n != "param_scheduler"} for k, part in parts.items()},
        **{key: whole[key] for key in ("max_epochs", "epoch_length", "metrics")},
        "param_scheduler": schedule,
    }


# ---------------------------------------------------------------------------------------------------- running


def toy_loss(model: nn.Module, iteration: int) -> Any:
    """A loss whose gradients differ between parameters and iterations."""
    total: Any = 0.0
    for i, param in enumerate(p for p in model.parameters() if p.requires_grad):
        total = total + ((param - 0.1 * math.sin(1 + i + iteration)) ** 2).mean()
    return total


def show(wrapper: Any, fields: list[str]) -> dict[str, list[float]]:
    """What a run shows: learning rate and momentum of every group, and every field that is scheduled."""
    shown = {key: [float(v) for v in values] for key, values in {**wrapper.get_lr(), **wrapper.get_momentum()}.items()}
    if fields:
        state = wrapper.state_dict()
        groups = [*state["param_groups"], *([state["base_param_settings"]] if "base_param_settings" in state else [])]
        shown |= {field: [float(group[field]) for group in groups] for field in fields}
    return shown


def run_case(case: Case, model: nn.Module, build: Callable[[nn.Module, Case], tuple[Any, list[Any]]]) -> Iterator[Any]:
    """Train a toy through a case; gives what is shown before each iteration and at the end, then the weights' sizes.

    Args:
        case: The case.
        model: The toy.
        build: Makes wrapper and schedulers for it.
    """
    wrapper, schedulers = build(model, case)
    given = [] if "several" in case else case["param_scheduler"]
    fields = sorted({s["param_name"] for s in given if s.get("param_name", "lr") != "lr"})
    total = case["max_epochs"] * case["epoch_length"]
    if "several" in case:
        parts = [(getattr(model, name), part) for name, part in wrapper.items()]
    else:
        parts = [(model, wrapper)]
        wrapper.initialize_count_status(model, 0, total)
    yield show(wrapper, fields)
    for iteration in range(total):
        for module, part in parts:
            part.update_params(toy_loss(module, iteration))
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if (iteration + 1) % case["epoch_length"] == 0:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()
            for scheduler in schedulers:
                if getattr(scheduler, "need_val_args", False):
                    scheduler.step(case["metrics"][(iteration + 1) // case["epoch_length"] - 1])
        yield show(wrapper, fields)
    with torch.no_grad():
        yield {"weights": [float(p.double().square().sum()) for p in model.parameters()]}
