"""The command `python -m raydet3d.show config|schedule|hooks|groups|model|ray|data|registry ...`: what a run does."""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from raydet3d.cli import add_config, add_ray, make_command_parser, read_config, run_command
from raydet3d.config import Config
from raydet3d.config.dump import redact
from raydet3d.errors import InputError, nearest
from raydet3d.launch.ray_options import RayOptions, describe
from raydet3d.registry import tables

EXAMPLES = """examples:
  python -m raydet3d.show config CONFIG                         the config with its bases and overrides, as it will run
  python -m raydet3d.show config CONFIG --diff OTHER            what differs from another config
  python -m raydet3d.show schedule CONFIG --png schedule.png    learning rate and momentum over the whole run
  python -m raydet3d.show schedule CONFIG --epoch-length 619    the same where the data are not on this machine
  python -m raydet3d.show hooks CONFIG                          which hook is called at which stage, in order
  python -m raydet3d.show groups CONFIG                         which parameters train with which settings
  python -m raydet3d.show model CONFIG                          parameters, multiply-adds and activations of each part
  python -m raydet3d.show ray CONFIG --workers 1-8              what a run will ask of the cluster
  python -m raydet3d.show data CONFIG --n 8                     samples before and after augmentation; label counts
  python -m raydet3d.show registry                              the tables of what a config may name by type=...
  python -m raydet3d.show registry OPTIMIZERS                   what one of them holds, and where it comes from

exit codes: 0 done; 2 the config or a flag is wrong"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_command_parser(
        "show",
        "Show what a run with a config will do. Nothing is trained; only `model` and `data` read the data.",
        EXAMPLES,
    )
    views = parser.add_subparsers(
        dest="view", required=True, metavar="config|schedule|hooks|groups|model|ray|data|registry"
    )
    for name, (show, help_text) in VIEWS.items():
        view = views.add_parser(name, help=help_text, description=f"Show {help_text}.")
        view.set_defaults(show=show)
        add_config(view)
        if name == "config":
            view.add_argument("--diff", metavar="OTHER", help="show only what differs from this config")
        if name == "ray":
            add_ray(view)
        if name == "hooks":
            view.add_argument("--workers", metavar="N", help="as for train, which adds hooks of its own")
        if name == "model":
            view.add_argument("--json", action="store_true", help="print JSON")
        if name == "data":
            view.add_argument("--split", choices=["train", "val", "test"], default="train", help="default: train")
            view.add_argument("--n", type=int, default=4, metavar="N", help="samples, evenly spaced (default: 4)")
            view.add_argument(
                "--aug",
                type=int,
                nargs="?",
                const=1,
                default=1,
                metavar="N",
                help="augmented versions of each sample: those of the first N epochs (default: 1; 0: none)",
            )
            view.add_argument("--page", metavar="DIR", help="folder of page and pictures (default: WORK_DIR/data)")
        if name == "schedule":
            view.add_argument(
                "--epoch-length",
                type=int,
                metavar="N",
                help="iterations of an epoch; by default worked out from the data, if they are on this machine",
            )
            view.add_argument("--workers", metavar="N", help="as for train: they share an epoch's samples")
            view.add_argument(
                "--rows", type=int, default=24, metavar="N", help="rows of the table, about (default: 24)"
            )
            view.add_argument("--csv", type=Path, metavar="FILE", help="write every iteration's values to this file")
            view.add_argument("--png", type=Path, metavar="FILE", help="draw the curves into this file")
    view = views.add_parser(
        "registry",
        help="what a config may name by type=...",
        description="Show the tables of what a config may name by type=..., or what one of them holds.",
    )
    view.add_argument("table", nargs="?", metavar="TABLE", help="HOOKS, OPTIMIZERS, ... (default: all tables)")
    view.add_argument("--config", metavar="CONFIG", help="import first what this config's custom_imports names")
    return parser


# ------------------------------------------------------------------------------------------------------------ config


def show_config(cfg: Config, args: argparse.Namespace) -> None:
    """Print the resolved config, or its differences from another one."""
    if args.diff is None:
        print(cfg.pretty_text, end="")
    else:
        print(Config.diff(Config.fromfile(args.diff), cfg) or "no difference")


def print_contradictions(cfg: Config) -> None:
    """Print to standard error where sections of the config contradict each other. Imports torch."""
    from raydet3d.runtime.consistency import find_contradictions

    sys.stdout.flush()
    for found in find_contradictions(cfg):
        kind = "training would be refused" if found.is_error else "warning"
        print(f"raydet3d: {kind}: {found.message}", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------- schedule


@dataclass(frozen=True)
class Curves:
    """Learning rate and momentum at every iteration of a run.

    Attributes:
        epoch_length: Iterations of an epoch.
        lr: Learning rate of each iteration.
        momentum: Momentum of each iteration (the first of `betas` for optimizers without momentum).
        corners: Iterations at which some schedule begins or ends.
    """

    epoch_length: int
    lr: list[float]
    momentum: list[float]
    corners: list[int]


def trace_schedule(cfg: Mapping[str, Any], *, epoch_length: int, workers: int = 1) -> Curves:
    """Run the config's schedules without a model and record the values of each iteration.

    Args:
        cfg: The config.
        epoch_length: Iterations of an epoch.
        workers: Training processes, for `auto_scale_lr`.
    """
    from torch import nn

    from raydet3d.optim import Schedule, build_param_scheduler
    from raydet3d.runtime.build import build_optim, lr_ratio
    from raydet3d.runtime.validate import refuse_deleted_optimizer

    # The curve is that of parameters without rules in paramwise_cfg or a constructor.
    given = _needed(cfg, "optim_wrapper")
    refuse_deleted_optimizer(cfg)
    plain = {key: value for key, value in given.items() if key not in ("paramwise_cfg", "constructor")}
    wrapper = build_optim({"optim_wrapper": plain}, nn.Linear(1, 1))
    if cfg.get("auto_scale_lr"):
        samples = workers * int(_needed(cfg, "train_dataloader").get("batch_size", 1))
        wrapper.scale_lr(lr_ratio(cfg["auto_scale_lr"], samples) or 1.0)
    loop = _needed(cfg, "train_cfg")
    max_epochs, max_iters = (None if loop.get(key) is None else int(loop[key]) for key in ("max_epochs", "max_iters"))
    by_epoch = max_epochs is not None
    total = max_iters if max_epochs is None else max_epochs * epoch_length
    if total is None:
        raise InputError("train_cfg has neither max_epochs nor max_iters, so the run has no length")
    schedulers = build_param_scheduler(
        cfg.get("param_scheduler"), wrapper, epoch_length=epoch_length, max_epochs=max_epochs, max_iters=max_iters
    )
    assert isinstance(schedulers, list)  # of one optimizer
    curves = [item for item in schedulers if not getattr(item, "need_val_args", False)]
    schedule = Schedule(schedulers)
    lr, momentum = [], []
    for i in range(1, total + 1):
        lr.append(float(wrapper.get_lr()["lr"][0]))
        momentum.append(float(wrapper.get_momentum()["momentum"][0]))
        schedule.advance(iters=1)
        if by_epoch and i % epoch_length == 0:  # a run of iterations is one epoch, which ends after the last one
            schedule.advance(epochs=1)
    beats = {tick * (epoch_length if item.by_epoch else 1) for item in curves for tick in (item.begin, item.end)}
    return Curves(epoch_length, lr, momentum, sorted(int(beat) for beat in beats if beat < total))


def show_schedule(cfg: Config, args: argparse.Namespace) -> None:
    """Print learning rate and momentum as a table; write them to CSV and PNG files on request."""
    options = RayOptions.from_config(cfg.get("ray"), workers=args.workers)
    workers = options.resolved_batch_workers or options.max_workers or 1
    if args.rows < 2:
        raise InputError(f"--rows must be 2 or more, got {args.rows}")
    if args.epoch_length is None and counts_iterations(cfg):
        length, origin = int(_needed(cfg, "train_cfg")["max_iters"]), "the run counts iterations, not epochs"
    else:
        length, origin = epoch_length(cfg, given=args.epoch_length, workers=workers)
    curves = trace_schedule(cfg, epoch_length=length, workers=workers)
    total = len(curves.lr)
    print(f"{total} iterations; an epoch has {length} ({origin})\n")
    print(f"{'epoch':>6} {'iteration':>10} {'lr':>12} {'momentum':>9}")
    for i in sample_rows(curves, args.rows):
        print(f"{i // length + 1:>6} {i + 1:>10} {curves.lr[i]:>12.4e} {curves.momentum[i]:>9.5f}")
    print()
    for name, values in (("lr", curves.lr), ("momentum", curves.momentum)):
        low, high = (values.index(pick(values)) for pick in (min, max))
        print(f"{name}: {values[low]:.6g} (iteration {low + 1}) to {values[high]:.6g} (iteration {high + 1})")
    for item in _param_schedulers(cfg):
        if str(item.get("type", "")).rpartition(".")[2].startswith("ReduceOnPlateau"):
            print(f"{item['type']} depends on a metric of the run and is left out")
    if args.csv is not None:
        _into(args.csv, lambda: write_csv(args.csv, curves))
    if args.png is not None:
        _into(args.png, lambda: write_png(args.png, curves, title=Path(cfg.filename or "").stem))


def sample_rows(curves: Curves, rows: int) -> list[int]:
    """Return the iterations to print: the first, the last, the begin and end of schedules, and even steps between.

    With enough epochs, the steps are first iterations of epochs.
    """
    total, length = len(curves.lr), curves.epoch_length
    step = max(total / rows, 1)
    if step > length:
        step = math.ceil(step / length) * length
    even = [round(k * step) for k in range(math.ceil(total / step))]
    wanted = {0, total - 1, *curves.corners, *(corner - 1 for corner in curves.corners if corner > 0), *even}
    return sorted(i for i in wanted if 0 <= i < total)


def write_csv(path: Path, curves: Curves) -> None:
    """Write one line for each iteration: iteration and epoch, both counted from 1, learning rate, momentum."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["iteration", "epoch", "lr", "momentum"])
        for i, (lr, momentum) in enumerate(zip(curves.lr, curves.momentum, strict=True)):
            writer.writerow([i + 1, i // curves.epoch_length + 1, repr(lr), repr(momentum)])


def write_png(path: Path, curves: Curves, *, title: str) -> None:
    """Plot learning rate above momentum."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6), constrained_layout=True)
    places = [i / curves.epoch_length for i in range(len(curves.lr))]
    for axis, values, name in zip(axes, (curves.lr, curves.momentum), ("learning rate", "momentum"), strict=True):
        axis.plot(places, values, linewidth=1.5)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_title(title)
    axes[1].set_xlabel("epoch")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def epoch_length(cfg: Mapping[str, Any], *, given: int | None, workers: int) -> tuple[int, str]:
    """Return the iterations of an epoch, and where the number comes from.

    Args:
        cfg: The config.
        given: The value of `--epoch-length`, which overrides the data.
        workers: Training processes, which share the samples of an epoch.

    Raises:
        InputError: The data are not on this machine and `given` is None, or `given` is less than 1.
    """
    if given is not None:
        if given < 1:
            raise InputError(f"--epoch-length must be 1 or more, got {given}")
        return given, "--epoch-length"
    from raydet3d.runtime.example_frames import info_files

    loader = _needed(cfg, "train_dataloader")
    for file in info_files(loader["dataset"]):
        if not file.is_file():
            raise InputError(
                f"{file} does not exist, so the length of an epoch is unknown; "
                "prepare the data, or give --epoch-length N (iterations)"
            )
    from raydet3d.registry import DATASETS

    samples, batch = len(DATASETS.build(loader["dataset"])), loader["batch_size"]
    share = math.ceil(samples / workers)
    length = share // batch if loader.get("drop_last") else math.ceil(share / batch)
    if length == 0:
        raise InputError(f"{samples} samples are less than one batch of {batch} for {workers} workers (drop_last)")
    return length, f"{samples} samples / {workers} workers / batches of {batch}"


def counts_iterations(cfg: Mapping[str, Any]) -> bool:
    """Whether neither the run nor its schedules depend on the length of an epoch."""
    loop = _needed(cfg, "train_cfg")
    given = _param_schedulers(cfg)
    return bool(loop.get("max_iters")) and not any(item.get("by_epoch", True) for item in given)


# ---------------------------------------------------------------------------------------------------- hooks and groups


def show_hooks(cfg: Config, args: argparse.Namespace) -> None:
    """Print the hooks of each stage, in calling order: the config's, and those that `train` adds."""
    from raydet3d.launch.launcher_hooks import hooks_to_show
    from raydet3d.runtime.build import build_hooks

    options = RayOptions.from_config(cfg.get("ray"), workers=args.workers)
    print(build_hooks(cfg, hooks_to_show(options)).table())


def show_groups(cfg: Config, args: argparse.Namespace) -> None:
    """Print the param groups in memory: their settings and parameters."""
    from raydet3d.runtime.build import build_model, build_optim

    for key in ("model", "optim_wrapper"):
        _needed(cfg, key)
    model = build_model(cfg)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    groups = build_optim(cfg, model).describe_groups()
    trained = {name for names, _ in groups for name in names}
    print(f"{type(model).__name__}: {len(sizes)} parameters, {sum(sizes.values()):,} numbers, {len(groups)} groups")
    alike = {key for key, value in groups[0][1].items() if all(other.get(key) == value for _, other in groups)}
    print("all groups: " + _settings({key: value for key, value in groups[0][1].items() if key in alike}))
    for i, (names, settings) in enumerate(groups):
        own = _settings({key: value for key, value in settings.items() if key not in alike})
        print(f"\ngroup {i}: {len(names)} parameters, {sum(sizes[name] for name in names):,} numbers  {own}".rstrip())
        print("\n".join(f"  {line}" for line in _shortened(names)))
    still = [name for name in sizes if name not in trained]
    if still:
        print(f"\nin no group: {len(still)} parameters")
        print("\n".join(f"  {line}" for line in _shortened(still)))


def _settings(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value:g}" if type(value) is float else f"{key}={value}" for key, value in settings.items())


def _shortened(names: Sequence[str], limit: int = 8) -> list[str]:
    return (
        list(names) if len(names) <= limit else [*names[: limit - 2], f"... {len(names) - limit + 1} more", names[-1]]
    )


# ------------------------------------------------------------------------------------------------------------- model


def show_model(cfg: Config, args: argparse.Namespace) -> None:
    """Print parameters, multiply-adds and activation sizes of the model's parts for one frame, in float32."""
    from raydet3d.runtime.example_frames import example_frames
    from raydet3d.runtime.model_profile import build_detector, profile_model

    model = build_detector(cfg)
    frames = example_frames(cfg, model, 1)
    parts = profile_model(model, frames.batch(1))
    total = sum(parameter.numel() for parameter in model.parameters())
    if args.json:
        whole = {
            "model": type(model).__name__,
            "frame": frames.source,
            "parameters": total,
            "multiply_adds": sum(part.multiply_adds for part in parts),
            "activation_bytes": sum(part.activation_bytes for part in parts),
            "parts": [asdict(part) for part in parts],
        }
        print(json.dumps(whole, indent=1))
        return
    print(f"{type(model).__name__}, one frame in float32: {frames.source}\n")
    rows = [(part.name, part.type, part.parameters, part.multiply_adds, part.activation_bytes) for part in parts]
    sums = tuple(sum(row[i] for row in rows) for i in (3, 4))  # type: ignore[misc]
    width = max(len(f"{row[0]} ({row[1]})") for row in rows)
    print(f"{'part':<{width}} {'parameters':>12} {'multiply-adds':>15} {'activations':>12}  output")
    for part, (name, kind, numbers, products, size) in zip(parts, rows, strict=True):
        shapes = ", ".join(map(str, part.output_shapes[:3])) + (", ..." if len(part.output_shapes) > 3 else "")
        print(f"{f'{name} ({kind})':<{width}} {numbers:>12,} {products / 1e9:>13.3f} G {size / 1e6:>9.1f} MB  {shapes}")
    print(f"{'all':<{width}} {total:>12,} {sums[0] / 1e9:>13.3f} G {sums[1] / 1e6:>9.1f} MB")


# --------------------------------------------------------------------------------------------------------------- ray


def show_ray(cfg: Config, args: argparse.Namespace) -> None:
    """Print what a run will ask of the cluster, and each option with its value and whether that is the default."""
    options = RayOptions.from_config(cfg.get("ray"), workers=args.workers)
    print("\n".join(describe(options)))
    given = set(cfg.get("ray") or {}) | ({"num_workers"} if args.workers is not None else set())
    print()
    for item in fields(options):
        value = getattr(options, item.name)
        if item.name in ("env_vars", "runtime_env"):
            value = redact({item.name: value})[item.name]
        print(f"{item.name:<22} {value!r:<24} {'' if item.name in given else '(default)'}".rstrip())


# -------------------------------------------------------------------------------------------------------------- data


def show_samples(cfg: Config, args: argparse.Namespace) -> None:
    """Show samples before and after augmentation. Imports torch."""
    from raydet3d.show_data import show_data

    show_data(cfg, args)


# ---------------------------------------------------------------------------------------------------------- registry


def show_registry(table: str | None) -> None:
    """Print all tables with their names, or one table with a line for each name.

    Args:
        table: `HOOKS`, in any case, also in the singular; None for all.
    """
    known = tables()
    if table is None:
        width = max(map(len, known))
        for name, one in sorted(known.items()):
            print(f"{name:<{width}}  {len(one):>3}  {_cut(', '.join(one), width + 7)}".rstrip())
        return
    names = {word: name for name in known for word in (name, name.removesuffix("S"))}
    if table.upper() not in names:
        hint = nearest(table.upper(), known) or f"; there are {', '.join(sorted(known))}"
        raise InputError(f"no table {table!r}{hint}")
    rows = known[names[table.upper()]].describe()
    if not rows:
        print(f"{names[table.upper()]} is empty; what a plug-in registers there can be named by type=...")
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    for title, module, doc in rows:
        print(f"{title:<{widths[0]}}  {module:<{widths[1]}}  {_cut(doc, sum(widths) + 4)}".rstrip())


def _cut(text: str, column: int) -> str:
    """Cut a text to the rest of a terminal's line from a column on; return it whole if stdout is no terminal."""
    room = shutil.get_terminal_size().columns - column
    return text if not sys.stdout.isatty() or len(text) <= room else f"{text[: max(room - 3, 8)]}..."


# ------------------------------------------------------------------------------------------------------------- shared


def _needed(cfg: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = cfg.get(key)
    if not isinstance(value, Mapping):
        raise InputError(f"the config has no {key}, so there is nothing to show")
    return value


def _param_schedulers(cfg: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = cfg.get("param_scheduler")
    return [given] if isinstance(given, Mapping) else list(given or [])


def _into(path: Path, write: Callable[[], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except (OSError, ValueError) as error:  # ValueError: matplotlib knows no such picture format
        raise InputError(f"cannot write {path}: {error}") from error
    print(f"wrote {path}")


VIEWS: Mapping[str, tuple[Callable[[Config, argparse.Namespace], None], str]] = {
    "config": (show_config, "the resolved config, as python"),
    "schedule": (show_schedule, "learning rate and momentum over the run"),
    "hooks": (show_hooks, "the hooks of each stage, in calling order"),
    "groups": (show_groups, "the param groups of the model"),
    "model": (show_model, "parameters, multiply-adds and activation sizes of the model's parts for one frame"),
    "ray": (show_ray, "what a run asks of the cluster"),
    "data": (show_samples, "samples before and after augmentation, and label counts"),
}


def main() -> int:
    """Parse the command line and show."""
    args = make_parser().parse_args()
    if args.view == "registry":
        if args.config is not None:
            Config.fromfile(args.config)
        show_registry(args.table)
        return 0
    cfg = read_config(args)
    with cfg.origin.located():
        args.show(cfg, args)
    if args.view != "ray":
        print_contradictions(cfg)
    return 0


if __name__ == "__main__":
    run_command(main)
