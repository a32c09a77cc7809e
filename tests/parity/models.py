"""Published 3D configs that can be trained: every part that they name is looked up, and their models are built.

    python tests/parity/models.py --root CHECKOUT/configs [--all]

A config is whole when every `type` of its model, data sets, transforms, samplers, metrics, hooks, visualizer, optimizer
and schedules is in a table here, and its model can be built (on torch's meta device, so without memory or time). Of
every other config the missing parts are named, and nothing of it is built.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TASK_UTILS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    Registry,
)

SECTIONS: dict[str, tuple[Registry, ...]] = {
    "model": (MODELS, TASK_UTILS, TRANSFORMS),
    "tta_model": (MODELS,),
    "train_dataloader": (DATASETS, TRANSFORMS, DATA_SAMPLERS, TASK_UTILS),
    "val_dataloader": (DATASETS, TRANSFORMS, DATA_SAMPLERS, TASK_UTILS),
    "test_dataloader": (DATASETS, TRANSFORMS, DATA_SAMPLERS, TASK_UTILS),
    "tta_pipeline": (TRANSFORMS,),
    "val_evaluator": (METRICS,),
    "test_evaluator": (METRICS,),
    "default_hooks": (HOOKS,),
    "custom_hooks": (HOOKS,),
    "visualizer": (VISUALIZERS, VISBACKENDS),
    "optim_wrapper": (OPTIM_WRAPPERS, OPTIMIZERS, OPTIM_WRAPPER_CONSTRUCTORS),
    "param_scheduler": (PARAM_SCHEDULERS,),
    "train_cfg": (LOOPS,),
}
"""Sections of a config, and the tables that the types in them are looked up in."""

LAYERS = ("norm_cfg", "conv_cfg", "act_cfg", "upsample_cfg", "init_cfg", "plugins")
"""Keys whose types name layers and initializers, which the part that gets them looks up when it is built."""


@dataclass
class Finding:
    """What is missing for a config to be whole.

    Args:
        missing: Names that no table has, by the section that they stand in.
        error: Why the model cannot be built, where nothing is missing.
    """

    missing: dict[str, list[str]] = field(default_factory=dict)
    error: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the config can be trained."""
        return not self.missing and self.error is None


def types_in(value: object) -> Iterator[str]:
    """Yield every `type` in a section, those of layers aside."""
    if isinstance(value, Mapping):
        if isinstance(kind := value.get("type"), str):
            yield kind
        for key, below in value.items():
            if key not in LAYERS:
                yield from types_in(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from types_in(below)


def missing_parts(cfg: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the names that no table has, by section."""
    found: dict[str, list[str]] = {}
    for section, tables in SECTIONS.items():
        unknown = {kind for kind in types_in(cfg.get(section)) if not any(kind in table for table in tables)}
        if unknown:
            found[section] = sorted(unknown)
    return found


def inspect_config(path: Path) -> Finding | None:
    """Look a config's parts up, and build its model; None where the file holds no model.

    Raises:
        InputError: The file cannot be read.
    """
    cfg = Config.fromfile(path)
    if "model" not in cfg:
        return None
    if missing := missing_parts(cfg.to_dict()):
        return Finding(missing)
    try:
        with torch.device("meta"):
            MODELS.build(cfg.model)
    except (InputError, NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        return Finding(error=f"{type(error).__name__}: {error}".splitlines()[0])
    return Finding()


def survey(root: Path) -> tuple[dict[str, Finding], list[str]]:
    """Return what is found by config file, and the files that cannot be read."""
    found: dict[str, Finding] = {}
    unread: list[str] = []
    for path in sorted(root.rglob("*.py")):
        if "_base_" in path.parts:
            continue
        name = path.relative_to(root).as_posix()
        try:
            finding = inspect_config(path)
        except InputError as error:
            unread.append(f"{name}: {error}")
            continue
        if finding is not None:
            found[name] = finding
    return found, unread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of config files")
    parser.add_argument("--all", action="store_true", help="also name the configs that are whole")
    args = parser.parse_args()
    found, unread = survey(args.root)
    absent: Counter[str] = Counter()
    for name, finding in found.items():
        if finding.is_whole:
            if args.all:
                print(f"whole    {name}")
        elif finding.missing:
            names = [f"{section}: {', '.join(kinds)}" for section, kinds in finding.missing.items()]
            absent.update({kind for kinds in finding.missing.values() for kind in kinds})
            print(f"missing  {name}: {'; '.join(names)}")
        else:
            print(f"error    {name}: {finding.error}")
    for line in unread:
        print(f"not read {line}")
    print("most wanted:", ", ".join(f"{name} ({count})" for name, count in absent.most_common(25)))
    print(f"{sum(one.is_whole for one in found.values())} of {len(found)} configs are whole, {len(unread)} not read")


if __name__ == "__main__":
    main()
