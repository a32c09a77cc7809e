"""A model whose parameters, gradients and moments are sharded over the ranks: FSDP2 behind MMEngine's name.

Every rank keeps its share; a layer's parameters are put together for as long as it computes. What is trained is what
DistributedDataParallel trains, up to the order in which gradients are summed.

Not supported: ``EMAHook`` (an average needs a copy of the model), ``sync_bn``, and ``detect_anomalous_params``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.registry import MODEL_WRAPPERS
from raydet3d.runtime.wrapper_steps import Steps

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@MODEL_WRAPPERS.register_module()
class MMFullyShardedDataParallel(Steps, nn.Module):
    """``fully_shard`` with ``train_step``, ``val_step`` and ``test_step``.

    The model gets its first values before it is sharded, so they are those of an unsharded run.

    Args:
        module: The model.
        min_params: Children of the model with at least this many parameters (and stages in them, likewise) are
            gathered one after the other; what is left is gathered with the whole model.
        reshard_after_forward: Let go of a unit's parameters between its forward and its backward pass; saves memory,
            costs another exchange.
        mixed_precision: ``dict(param_dtype='bfloat16', reduce_dtype='float32')``: types to compute and to sum
            gradients in; parameters and moments stay as they are.
        cpu_offload: Keep parameters, gradients and moments on the host.
        device_ids: Accepted for DistributedDataParallel's sake, as are the two below.
        broadcast_buffers: Buffers are the ranks' own while training, and rank 0's in a validation and in checkpoints.
        find_unused_parameters: A parameter that no loss reaches keeps its values.
    """

    def __init__(
        self,
        module: nn.Module,
        min_params: int = 100_000,
        reshard_after_forward: bool = True,
        mixed_precision: Mapping[str, str] | None = None,
        cpu_offload: bool = False,
        device_ids: Any = None,
        broadcast_buffers: bool = False,
        find_unused_parameters: bool = False,
    ) -> None:
        super().__init__()
        # Here, not above: half of torch.distributed, which other runs do not need.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        init = getattr(module, "init_weights", None)
        if init is not None:
            init()
        for tensor in module.state_dict().values():
            dist.broadcast(tensor)
        for parameter in module.parameters():  # shards are cut along the first axis of plain rows
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
    """Parts of a model to gather one by one, inner ones first; none holds another's parameters alone.

    A part must be called as a module, so containers (``ModuleList``, ``ModuleDict``) and heads, which are asked for
    their ``loss``, are looked into and not taken.
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


def is_sharded_model(model: nn.Module) -> bool:
    """Whether a model stands in the wrapper that shards."""
    return isinstance(model, MMFullyShardedDataParallel)


def asks_others(model: nn.Module) -> bool:
    """Whether a model's passes ask other ranks: for shards, for SyncBatchNorm's statistics."""
    return is_sharded_model(model) or any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def refuse_hooks(hooks: Iterable[Any]) -> None:
    """Refuse hooks that need a copy of the model, which a sharded one cannot give.

    Raises:
        InputError: There is one.
    """
    for hook in hooks:
        if any(kind.__name__ == "EMAHook" for kind in type(hook).__mro__):
            raise InputError("EMAHook needs a copy of the model, which MMFullyShardedDataParallel cannot give it")


def _policy(given: Mapping[str, str] | None) -> Any:
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
