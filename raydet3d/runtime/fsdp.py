"""Sharded training: PyTorch's `fully_shard` (FSDP2) under MMEngine's name.

The module is optional: no other module imports it. Each rank keeps a shard of the parameters, gradients and optimizer
state; a unit's parameters are gathered for its forward and backward passes. The result is that of
`DistributedDataParallel`, up to the order in which gradients are summed.

Not supported: hooks that copy the model (`EMAHook`), `sync_bn`, and `detect_anomalous_params`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from raydet3d import dist
from raydet3d.config.type_check import NonNegativeInt
from raydet3d.errors import InputError
from raydet3d.registry import MODEL_WRAPPERS
from raydet3d.runtime.ddp import ModelWrapper

if TYPE_CHECKING:
    from torch.distributed.fsdp import MixedPrecisionPolicy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@MODEL_WRAPPERS.register_module()
class MMFullyShardedDataParallel(ModelWrapper, nn.Module):
    """`fully_shard` with `train_step`, `val_step` and `test_step`.

    Weights are initialized before the model is sharded, so they equal those of an unsharded run.

    Args:
        module: The model.
        min_params: Submodules with at least this many parameters are sharded as units of their own; the rest is
            sharded with the whole model.
        reshard_after_forward: Free a unit's parameters between its forward and backward passes; saves memory, costs
            another all-gather.
        mixed_precision: Data types of the computation and of the gradient reduction, such as
            `dict(param_dtype='bfloat16', reduce_dtype='float32')`; the sharded parameters and the optimizer state keep
            theirs.
        cpu_offload: Keep parameters, gradients and optimizer state in host memory.
        device_ids: Argument of `DistributedDataParallel`; no effect, like the two below.
        broadcast_buffers: No effect: each rank has its own buffers in training; validation and checkpoints use rank
            0's.
        find_unused_parameters: No effect: a parameter that the loss does not depend on keeps its values.
    """

    is_sharded: ClassVar[bool] = True

    def __init__(
        self,
        module: nn.Module,
        min_params: NonNegativeInt = 100_000,
        reshard_after_forward: bool = True,
        mixed_precision: Mapping[str, str] | None = None,
        cpu_offload: bool = False,
        device_ids: Sequence[int | torch.device] | None = None,
        broadcast_buffers: bool = False,
        find_unused_parameters: bool = False,
    ) -> None:
        super().__init__()
        # Imported here because it loads large parts of torch.distributed that other runs do not need.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        init = getattr(module, "init_weights", None)
        if init is not None:
            init()
        for tensor in module.state_dict().values():
            dist.broadcast(tensor)
        for parameter in module.parameters():  # fully_shard slices along the first dimension
            parameter.data = parameter.data.contiguous()
        kind = next((p.device.type for p in module.parameters()), "cpu")
        options: dict[str, Any] = {
            "mesh": init_device_mesh(kind, (dist.get_world_size(),)),
            "reshard_after_forward": reshard_after_forward,
            "mp_policy": _policy(mixed_precision),
            "offload_policy": CPUOffloadPolicy() if cpu_offload else OffloadPolicy(),
        }
        for unit in units(module, min_params):
            fully_shard(unit, **options)
        fully_shard(module, **options)
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.module(*args, **kwargs)


def units(module: nn.Module, min_params: int) -> list[nn.Module]:
    """Return the submodules to shard as units, inner ones first.

    The parameters of a unit are gathered when the module is called. Containers (`ModuleList`, `ModuleDict`) and heads
    (called through `loss`) are therefore not units themselves; their children may be.
    """
    found: list[nn.Module] = []
    for child in module.children():
        inner = units(child, min_params)
        found += inner
        taken = {id(p) for unit in inner for p in unit.parameters()}
        own = sum(p.numel() for p in child.parameters() if id(p) not in taken)
        called = not isinstance(child, (nn.ModuleList, nn.ModuleDict)) and not hasattr(child, "loss")
        if own >= min_params and called:
            found.append(child)
    return found


def _policy(given: Mapping[str, str] | None) -> MixedPrecisionPolicy:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    types: dict[str, Any] = {}
    for key, value in (given or {}).items():
        if key not in ("param_dtype", "reduce_dtype", "output_dtype") or value not in DTYPES:
            raise InputError(
                f"mixed_precision takes param_dtype, reduce_dtype and output_dtype out of {', '.join(DTYPES)}, "
                f"got {key}={value!r}"
            )
        types[key] = DTYPES[value]
    return MixedPrecisionPolicy(**types)
