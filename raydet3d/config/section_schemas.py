"""The sections of a config that the runtime reads: their keys, types, ranges and defaults.

`RunConfig` is the typed view of a whole config. Everything else at the top level of a config is a variable of its own
(`lr`, `class_names`, `train_pipeline`). Arguments of registered parts (`dict(type=..., ...)`) are checked where the
part is built.
"""

from __future__ import annotations

import dataclasses
import logging
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from raydet3d.config.config_dict import ConfigValue
from raydet3d.config.type_check import (
    Described,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    TypeForm,
    field_types,
    read_section,
)
from raydet3d.errors import InputError

Parts = Part | Sequence[Part]
"""One part or a list of them."""

PartNames = Annotated[Sequence[str], Described("a list of names of the model's parts")]
"""Names of submodules, as in `named_modules`."""


@dataclass(frozen=True, kw_only=True)
class MultiprocessingCfg:
    """`env_cfg.mp_cfg`: how the loaders' worker processes start."""

    mp_start_method: Literal["fork", "spawn", "forkserver"] | None = None
    opencv_num_threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class DistCfg:
    """`env_cfg.dist_cfg`: the process group; `timeout` in seconds."""

    backend: str | None = None
    timeout: PositiveFloat | None = None
    init_backend: str | None = None
    port: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class EnvCfg:
    """`env_cfg`: what is set in each process."""

    cudnn_benchmark: bool = False
    mp_cfg: MultiprocessingCfg = MultiprocessingCfg()
    dist_cfg: DistCfg = DistCfg()
    resource_limit: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class Randomness:
    """`randomness`: the seed (None draws one) and whether torch uses deterministic algorithms."""

    seed: NonNegativeInt | None = None
    deterministic: bool = False
    diff_rank_seed: bool = False


@dataclass(frozen=True, kw_only=True)
class AutoScaleLR:
    """`auto_scale_lr`: scale the learning rate by the ratio of the global batch size to `base_batch_size`."""

    enable: bool = False
    base_batch_size: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.enable and self.base_batch_size is None:
            raise InputError(
                "auto_scale_lr.base_batch_size must be an integer of at least 1 with enable=True, got None"
            )


@dataclass(frozen=True, kw_only=True)
class CompileCfg:
    """`compile`: arguments of `torch.nn.Module.compile`, and `parts`: what to compile instead of the whole model."""

    parts: PartNames | None = None
    fullgraph: bool = False
    dynamic: bool | None = None
    backend: str | Callable[..., Any] = "inductor"
    mode: str | None = None
    options: Mapping[str, Any] | None = None
    disable: bool = False


@dataclass(frozen=True, kw_only=True)
class DataLoaderCfg:
    """`train_dataloader`, `val_dataloader`, `test_dataloader`.

    `num_batch_per_epoch` shortens an epoch to so many batches; what is None is left to `torch.utils.data.DataLoader`.
    """

    dataset: Part
    sampler: Part | None = None
    batch_sampler: Part | None = None
    batch_size: PositiveInt = 1
    drop_last: bool = False
    collate_fn: Part | None = None
    worker_init_fn: Part | None = None
    num_batch_per_epoch: PositiveInt | None = None
    num_workers: NonNegativeInt = 0
    persistent_workers: bool | None = None
    pin_memory: bool | None = None
    pin_memory_device: str | None = None
    prefetch_factor: PositiveInt | None = None
    timeout: NonNegativeFloat | None = None


def read_loader(given: Mapping[str, ConfigValue], where: str) -> DataLoaderCfg:
    """Read the dict of a data loader.

    Raises:
        InputError: A key or value is wrong, there is no sampler, or `timeout` has no worker process to wait for.
    """
    loader = read_section(DataLoaderCfg, given, where)
    if loader.sampler is None and loader.batch_sampler is None:
        raise InputError(f"{where} has no sampler, such as dict(type='DefaultSampler', shuffle=True)")
    if loader.timeout and not loader.num_workers:
        raise InputError(
            f"{where}.timeout limits the wait for a worker process and needs num_workers of at least 1, "
            f"got timeout={loader.timeout!r} with num_workers=0"
        )
    return loader


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the runtime reads of a config."""

    model: Part | None = None
    data_preprocessor: Part | None = None
    train_dataloader: Part | None = None
    val_dataloader: Parts | None = None
    test_dataloader: Parts | None = None
    train_cfg: Part | None = None
    val_cfg: Part | None = None
    test_cfg: Part | None = None
    val_evaluator: Part | Sequence[Parts] | None = None
    test_evaluator: Part | Sequence[Parts] | None = None
    optim_wrapper: Part | None = None
    param_scheduler: Parts | Mapping[str, Parts] | None = None
    default_hooks: Mapping[str, Part | None] | None = None
    custom_hooks: Sequence[Part] | None = None
    log_processor: Part | None = None
    visualizer: Part | None = None
    model_wrapper_cfg: Part | None = None
    tta_model: Part | None = None
    tta_pipeline: Sequence[Any] | Part | None = None
    env_cfg: EnvCfg = EnvCfg()
    randomness: Randomness = Randomness()
    auto_scale_lr: AutoScaleLR = AutoScaleLR()
    compile: bool | CompileCfg = False
    sync_bn: Literal["torch", "mmcv", False] | None = None
    find_unused_parameters: bool = False
    activation_checkpointing: PartNames | None = None
    frozen_parts: PartNames | None = None
    ray: Mapping[str, Any] | None = None
    custom_imports: Mapping[str, Any] | None = None
    default_scope: str | None = None
    experiment_name: str | None = None
    launcher: str | None = None
    load_from: str | None = None
    log_level: str | int = "INFO"
    resume: bool | str = False
    runner_type: str | None = None
    work_dir: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.log_level, str) and self.log_level not in logging.getLevelNamesMapping():
            raise InputError(f"log_level must be DEBUG, INFO, WARNING, ERROR or CRITICAL, got {self.log_level!r}")
        for mode in ("train", "val", "test"):
            key = f"{mode}_dataloader"
            given = getattr(self, key)
            loaders = enumerate(given) if isinstance(given, list | tuple) else [(None, given)]
            for index, loader in loaders:
                if isinstance(loader, Mapping):
                    read_loader(loader, key if index is None else f"{key}[{index}]")


def read_run_config(cfg: Mapping[str, ConfigValue]) -> RunConfig:
    """Check the sections of a config and return them as a typed view; a section that is None has its default.

    Raises:
        InputError: A section has an unknown key, or a value of the wrong type or range.
    """
    return read_section(RunConfig, {key: cfg[key] for key in KNOWN_KEYS if cfg.get(key) is not None}, "")


def _shapes(annotation: TypeForm) -> tuple[type, ...]:
    """Return the top-level types of an annotation's values: dict, list, tuple, str, bool, int or None."""
    if annotation == Part:
        return (dict,)
    kind, args = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _shapes(args[0])
    if kind in (Union, types.UnionType):
        shapes = [shape for arg in args for shape in _shapes(arg)]
        return tuple(shape for shape in shapes if shape is not type(None) or str in shapes)
    if kind is Literal:
        return tuple(type(arg) for arg in args)
    if kind is Sequence:
        return (list, tuple)
    if kind is Mapping or dataclasses.is_dataclass(annotation):
        return (dict,)
    return (annotation,) if isinstance(annotation, type) else ()


# --------------------------------------------------------------------------------------------------------- top level

KNOWN_KEYS: Mapping[str, tuple[type, ...]] = {key: _shapes(item) for key, item in field_types(RunConfig).items()}
"""Each top-level key that the runtime reads, with the types that its value may have."""

VARIABLE_NAMES = frozenset({"eval_dataloader"})
"""Names that published configs use for variables, although they are one edit away from a known key."""


def misspelled_key(key: str, value: ConfigValue, present: Iterable[str]) -> str | None:
    """Return the known key that `key` is a misspelling of, or None where it is a variable of the config.

    A key of 5 letters or more is a misspelling if it is one edit away (two from 8 letters on) from a known key that is
    absent, and holds a value of the type that the known key takes.

    Args:
        key: A top-level key.
        value: What the config holds under it.
        present: The top-level keys that are there.
    """
    if key in KNOWN_KEYS or key in VARIABLE_NAMES:
        return None
    there = set(present)
    for known, shapes in KNOWN_KEYS.items():
        if known not in there and isinstance(value, shapes) and is_misspelling(key, known):
            return known
    return None


def is_misspelling(written: str, meant: str) -> bool:
    """Whether `written` is so similar to `meant` that it must be a misspelling of it."""
    allowed = 0 if len(written) < 5 else 1 if len(written) < 8 else 2
    return written != meant and abs(len(written) - len(meant)) <= allowed and distance(written, meant) <= allowed


def distance(a: str, b: str) -> int:
    """Return the Levenshtein distance of two strings."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (letter != other))
    return row[-1]
