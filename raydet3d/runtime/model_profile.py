"""Parameters, multiply-adds and activation sizes of a detector's parts for one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg
from raydet3d.models import BaseModel
from raydet3d.models.detector_parts import detector_parts
from raydet3d.models.module import BatchData
from raydet3d.runtime.build import build_model
from raydet3d.runtime.ddp import from_sync_bn

Outputs: TypeAlias = "Tensor | Mapping[str, Outputs] | Sequence[Outputs] | object"


@dataclass(frozen=True)
class PartProfile:
    """Size and cost of a part.

    Attributes:
        name: Name of the model's attribute.
        type: Class.
        parameters: Numbers that are trained or frozen.
        multiply_adds: Multiply-adds of matrix products and convolutions in the forward pass, as
            `torch.utils.flop_counter` counts them (two operations each). Normalization, activations and voxelization
            are not counted.
        output_shapes: Shapes of the part's outputs.
        activation_bytes: Bytes of the outputs of the part's layers, those written in place left out.
    """

    name: str
    type: str
    parameters: int
    multiply_adds: int
    output_shapes: list[list[int]]
    activation_bytes: int


def build_detector(cfg: PartCfg) -> BaseModel:
    """Build a config's model for one process.

    Raises:
        InputError: It has no steps and parts that can be measured.
    """
    if cfg.get("model") is None:
        raise InputError("the config has no model=dict(type=...)")
    model = from_sync_bn(build_model(cfg))
    if not isinstance(model, BaseModel) or "backbone" not in detector_parts(model):
        raise InputError(f"model: {type(model).__name__} is no detector with a backbone (a subclass of BaseModel)")
    return model


def profile_model(model: BaseModel, batch: BatchData) -> list[PartProfile]:
    """Run a detector's forward pass once, up to the maps of its head, and profile its parts.

    Args:
        model: A detector; it is put into evaluation mode.
        batch: Collated frames.

    Returns:
        The parts in the order in which a frame passes through them.
    """
    model.eval()
    parts = {part.name: part.module for part in detector_parts(model).values()}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _watched(parts) as (shapes, sizes), counter:
        model(**model.data_preprocessor(batch, False), mode="tensor")
    flops = {name.rpartition(".")[2]: sum(counts.values()) for name, counts in _top_level(counter, model).items()}
    return [
        PartProfile(
            name,
            type(module).__name__,
            sum(parameter.numel() for parameter in module.parameters()),
            flops.get(name, 0) // 2,
            shapes.get(name, []),
            sizes.get(name, 0),
        )
        for name, module in parts.items()
    ]


def _top_level(counter: FlopCounterMode, model: nn.Module) -> dict[str, Mapping[object, int]]:
    """Return the counts of the model's direct children."""
    root = type(model).__name__
    return {name: counts for name, counts in counter.get_flop_counts().items() if name.rpartition(".")[0] == root}


@contextmanager
def _watched(parts: Mapping[str, nn.Module]) -> Iterator[tuple[dict[str, list[list[int]]], dict[str, int]]]:
    """Record, while the block runs, shapes of the parts' outputs and bytes of their layers' outputs."""
    shapes: dict[str, list[list[int]]] = {}
    sizes: dict[str, int] = {}
    hooks = []
    for name, module in parts.items():

        def see_layer(_: nn.Module, args: tuple[object, ...], output: Outputs, name: str = name) -> None:
            given = {one.untyped_storage().data_ptr() for one in tensors_in(args)}
            new = [one for one in tensors_in(output) if one.untyped_storage().data_ptr() not in given]
            sizes[name] = sizes.get(name, 0) + sum(one.numel() * one.element_size() for one in new)

        def see_part(_: nn.Module, __: tuple[object, ...], output: Outputs, name: str = name) -> None:
            found = list(tensors_in(output))
            shapes[name] = [list(one.shape) for one in found]
            sizes[name] = max(sizes.get(name, 0), sum(one.numel() * one.element_size() for one in found))

        leaves = [one for one in module.modules() if one is not module and not list(one.children())]
        hooks += [leaf.register_forward_hook(see_layer) for leaf in leaves]
        hooks.append(module.register_forward_hook(see_part))
    try:
        yield shapes, sizes
    finally:
        for hook in hooks:
            hook.remove()


def tensors_in(value: Outputs) -> Iterator[Tensor]:
    """Yield the tensors of nested dicts, lists and objects that hold their tensor as `features`."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(features := getattr(value, "features", None), Tensor):  # a sparse map
        yield features
