"""Random optimizers, param groups and schedules: ours against an installed MMEngine, iteration by iteration.

    RAYDET3D_MMENGINE_PYTHON=/path/to/python python tests/parity/mmengine_optim.py [--cases 400] [--seed 0] [--write]

The other Python is one that can import mmengine and torch; it answers the cases in a process of its own. ``--write``
puts the result beside this file (``mmengine_optim.md``). Exits with 1 where a case differs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import platform
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.kit.cases import CURVES, Case, draw_case, draw_several, names, run_case  # noqa: E402
from tests.kit.optim import toy_model  # noqa: E402

TABLE = Path(__file__).with_suffix(".md")
RECORDED = Path(__file__).with_name("schedules_more.json.gz")
SHOWN = 1e-12  # relative; learning rates and the like are the same arithmetic
WEIGHTS = 1e-4  # relative; sums over a group run in another order


def groups_of(case: Case) -> int:
    """Number of param groups that MMEngine has, the base one included."""
    trained = sum(p.requires_grad for p in toy_model().parameters())
    return trained + 1 if case["paramwise_cfg"] else 1


def draw(count: int, seed: int) -> list[Case]:
    """Cases; every scheduler's name comes first in turn."""
    rng = random.Random(seed)
    return [draw_case(rng, groups_of, names()[i % len(names())]) for i in range(count)]


def draw_lacking(seed: int) -> list[Case]:
    """Cases of what the older tables (``schedules.json.gz``) have nothing of, to be recorded."""
    rng = random.Random(seed)
    lacking = [n for n in names() if n.endswith("ParamScheduler") or n.startswith("ReduceOnPlateau")]
    cases = [draw_case(rng, groups_of, name) for name in lacking for _ in range(5)]
    listed: list[Case] = []
    while len(listed) < 8:
        case = draw_case(rng, groups_of, "OneCycleLR")
        if isinstance(case["param_scheduler"][0]["eta_max"], list):
            listed.append(case)
    for case in (*cases, *listed):
        case["param_scheduler"] = case["param_scheduler"][:2]
        case["max_epochs"], case["epoch_length"] = min(case["max_epochs"], 6), min(case["epoch_length"], 3)
    return [*cases, *listed, *(draw_several(rng, groups_of) for _ in range(12))]


def wrapper_cfg(case: Case) -> dict[str, Any]:
    """The config of a case's optim wrapper."""
    optimizer = {k: tuple(v) if isinstance(v, list) else v for k, v in case["optimizer"].items()}
    keys = ("paramwise_cfg", "accumulative_counts", "clip_grad")
    return {"optimizer": optimizer, **{key: json.loads(json.dumps(case.get(key))) for key in keys if case.get(key)}}


def build_ours(model: Any, case: Case) -> tuple[Any, list[Any]]:
    """Wrapper and schedulers by this package."""
    from raydet3d.optim import OptimWrapperDict, build_optim_wrapper, build_param_scheduler

    epochs, length = case["max_epochs"], case["epoch_length"]
    wrapper: Any
    if "several" in case:
        parts = case["several"].items()
        wrapper = OptimWrapperDict(**{n: build_optim_wrapper(getattr(model, n), wrapper_cfg(c)) for n, c in parts})
    else:
        wrapper = build_optim_wrapper(model, wrapper_cfg(case))
    made = build_param_scheduler(
        case["param_scheduler"], wrapper, epoch_length=length, max_epochs=epochs, max_iters=epochs * length
    )
    return wrapper, made if isinstance(made, list) else [scheduler for some in made.values() for scheduler in some]


def build_theirs(model: Any, case: Case) -> tuple[Any, list[Any]]:
    """Wrapper and schedulers by MMEngine, as its Runner makes them."""
    from mmengine.optim import OptimWrapperDict, build_optim_wrapper
    from mmengine.registry import PARAM_SCHEDULERS

    def build(cfgs: list[Any], wrapper: Any) -> list[Any]:
        made = []
        for cfg in cfgs:
            args = {**cfg}
            last = case["max_epochs"] * (1 if args.get("by_epoch", True) else case["epoch_length"])
            args.setdefault("end", last)
            given = {"optimizer": wrapper, "epoch_length": case["epoch_length"]}
            made.append(PARAM_SCHEDULERS.build(args, default_args=given))
        return made

    schedule = case["param_scheduler"]
    if "several" not in case:
        wrapper = build_optim_wrapper(model, {"type": "OptimWrapper", **wrapper_cfg(case)})
        return wrapper, build(schedule, wrapper)
    parts = {
        name: build_optim_wrapper(getattr(model, name), {"type": "OptimWrapper", **wrapper_cfg(cfg)})
        for name, cfg in case["several"].items()
    }
    lists = {name: schedule[name] if isinstance(schedule, dict) else schedule for name in parts}
    made = [scheduler for name, part in parts.items() for scheduler in build(lists[name], part)]
    return OptimWrapperDict(**parts), made


def run(cases: Iterable[Case], build: Any) -> list[Any]:
    """What each case shows, or the error that it ends with."""
    import torch

    torch.set_num_threads(1)
    seen = []
    for case in cases:
        torch.manual_seed(0)
        try:
            seen.append(list(run_case(case, toy_model(), build)))
        except Exception as error:  # noqa: BLE001 - to be compared with the other side's
            seen.append(f"{type(error).__name__}: {error}")
    return seen


def answer() -> None:
    """The other process: cases come in, what MMEngine shows goes out."""
    import logging
    import warnings

    import mmengine
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed goes to the terminal, not into the answer
    seen = run(json.load(sys.stdin), build_theirs)
    json.dump({"mmengine": mmengine.__version__, "torch": torch.__version__, "seen": seen}, out)
    out.flush()


def ask(cases: list[Case], python: str) -> dict[str, Any]:
    """MMEngine's answer to some cases."""
    done = subprocess.run(
        [python, __file__, "--answer"],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the other Python failed:\n{done.stderr[-3000:]}")
    reply: dict[str, Any] = json.loads(done.stdout)
    return reply


def record(reply: dict[str, Any], cases: list[Case]) -> None:
    """Keep what MMEngine shows; cases that it cannot run are left out."""
    kept = [
        {**case, "seen": seen} for case, seen in zip(cases, reply["seen"], strict=True) if not isinstance(seen, str)
    ]
    whole = {
        "about": f"MMEngine {reply['mmengine']}, torch {reply['torch']}; made by mmengine_optim.py --record",
        "cases": kept,
    }
    packed = gzip.compress(json.dumps(whole, separators=(",", ":")).encode(), mtime=0)
    RECORDED.write_bytes(packed)
    print(f"{len(kept)} of {len(cases)} cases, {len(packed) / 1000:.0f} kB in {RECORDED.name}")
    for seen in reply["seen"]:
        if isinstance(seen, str):
            print(f"  left out: {seen}")


def difference(ours: Any, theirs: Any) -> dict[str, float]:
    """The largest relative difference of each thing that is shown; infinite where the two do not match at all."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return {} if isinstance(ours, str) and isinstance(theirs, str) else {"refused": math.inf}
    worst: dict[str, float] = {}
    for mine, other in zip(ours, theirs, strict=True):
        if mine.keys() != other.keys():
            return {"names": math.inf}
        for key in mine:
            if len(mine[key]) != len(other[key]):
                return {key: math.inf}
            for a, b in zip(mine[key], other[key], strict=True):
                if key == "weights" and not math.isfinite(b):
                    continue  # theirs has run away; ours leaves such steps out
                far = abs(a - b) / max(abs(a), abs(b), 1e-12)
                worst[key] = max(worst.get(key, 0.0), far if math.isfinite(far) else math.inf)
    return worst


def is_good(found: dict[str, float]) -> bool:
    """Whether all differences are within their bounds."""
    return all(value <= (WEIGHTS if key == "weights" else SHOWN) for key, value in found.items())


def recorded() -> Counter[str]:
    """In how many committed cases each scheduler stands; they are checked wherever the tests run."""
    counts: Counter[str] = Counter()
    for path in (RECORDED, RECORDED.with_name("schedules.json.gz")):
        for case in json.loads(gzip.decompress(path.read_bytes()))["cases"]:
            schedule = case["param_scheduler"]
            for some in schedule.values() if isinstance(schedule, dict) else [schedule]:
                counts.update(cfg["type"] for cfg in some)
    return counts


def report(cases: list[Case], ours: list[Any], reply: dict[str, Any]) -> tuple[str, list[int]]:
    """The table as text, and the numbers of the cases that differ."""
    theirs = reply["seen"]
    found = [difference(a, b) for a, b in zip(ours, theirs, strict=True)]
    bad = [i for i, f in enumerate(found) if not is_good(f)]
    both = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if isinstance(a, str) and isinstance(b, str)]
    ran = [i for i in range(len(cases)) if i not in both and i not in bad]
    worst: dict[str, float] = {}
    for i in ran:
        for key, value in found[i].items():
            worst[key] = max(worst.get(key, 0.0), value)
    arguments: dict[str, Counter[str]] = {name: Counter() for name in names()}
    largest = dict.fromkeys(names(), 0.0)
    pairs: Counter[tuple[str, str]] = Counter()
    optimizers: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    for i in ran:
        case = cases[i]
        optimizers[case["optimizer"]["type"]] += 1
        rules.update(list(case["paramwise_cfg"] or ["none"]))
        shown = max((v for k, v in found[i].items() if k != "weights"), default=0.0)
        for cfg in case["param_scheduler"]:
            arguments[cfg["type"]].update(
                f"{k}[]" if isinstance(v, list) and k in ("eta_max", "min_value") else k
                for k, v in cfg.items()
                if k != "type"
            )
            arguments[cfg["type"]]["cases"] += 1
            largest[cfg["type"]] = max(largest[cfg["type"]], shown)
        for one, two in pairwise(case["param_scheduler"]):
            pairs[curve_of(one["type"]), curve_of(two["type"])] += 1
    lines = [
        "# Random optimizers, param groups and schedules against MMEngine",
        "",
        f"Made by `tests/parity/mmengine_optim.py`: MMEngine {reply['mmengine']} on torch {reply['torch']}, "
        f"Python {platform.python_version()}.",
        "",
        f"{len(cases)} cases, {sum(len(c['param_scheduler']) for c in cases)} schedulers: {len(ran)} agree, "
        f"{len(bad)} differ, {len(both)} are refused by both"
        f"{' (' + '; '.join(sorted({ours[i] for i in both})) + ')' if both else ''}.",
        "",
        "Compared before each iteration and at the end: learning rate and momentum of every param group (as many as "
        "MMEngine has), every other field that is scheduled, and the weights at the end.",
        "",
        "| what | largest relative difference | bound |",
        "|---|---|---|",
        *(f"| {k} | {v:.1e} | {WEIGHTS if k == 'weights' else SHOWN:.0e} |" for k, v in sorted(worst.items())),
        "",
        "## Schedulers: how many agreeing cases give each argument",
        "",
        "Beside the random cases: in how many committed cases (`schedules.json.gz`, `schedules_more.json.gz`) it "
        "stands; those are checked in every test run.",
        "",
        "| scheduler | committed | random | largest difference | arguments |",
        "|---|---|---|---|---|",
    ]
    committed = recorded()
    for name, counts in arguments.items():
        own = ", ".join(f"{k} {n}" for k, n in sorted(counts.items()) if k != "cases")
        lines.append(f"| {name} | {committed[name]} | {counts['cases']} | {largest[name]:.1e} | {own} |")
    lines += ["", "## One after the other: agreeing cases of each pair", "", f"| first, then | {' | '.join(CURVES)} |"]
    lines.append("|---|" + "---|" * len(CURVES))
    for one in CURVES:
        lines.append(f"| {one} | {' | '.join(str(pairs[one, two]) for two in CURVES)} |")
    lines += ["", "## Optimizers and rules", ""]
    lines.append("Optimizers: " + ", ".join(f"{k} {n}" for k, n in sorted(optimizers.items())) + ".")
    lines.append("")
    lines.append("Rules of paramwise_cfg: " + ", ".join(f"{k} {n}" for k, n in sorted(rules.items())) + ".")
    return "\n".join(lines) + "\n", bad


def curve_of(name: str) -> str:
    """The curve of a scheduler's name."""
    return next(c for c in sorted(CURVES, key=len, reverse=True) if name.startswith(c))


def main() -> int:
    """Draw, run on both sides, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name} instead")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        answer()
        return 0
    python = os.environ.get("RAYDET3D_MMENGINE_PYTHON")
    if not python:
        parser.error("RAYDET3D_MMENGINE_PYTHON must name a Python that can import mmengine")
    if args.record:
        record(ask(lacking := json.loads(json.dumps(draw_lacking(args.seed))), python), lacking)
        return 0
    cases = json.loads(json.dumps(draw(args.cases, args.seed)))
    reply = ask(cases, python)
    import logging

    logging.disable(logging.CRITICAL)
    ours = run(cases, build_ours)
    text, bad = report(cases, ours, reply)
    if args.write:
        TABLE.write_text(text, encoding="utf-8")
    print(text)
    for i in bad:
        mine, other = ours[i], reply["seen"][i]
        print(f"case {i} differs: {difference(mine, other)}\n  {json.dumps(cases[i])}")
        for side, seen in (("ours", mine), ("theirs", other)):
            if isinstance(seen, str):
                print(f"  {side}: {seen}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
