"""Rank, world size and collectives (no-ops without a process group), and unwrapping of wrapped models."""

from __future__ import annotations

import os
import pickle
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydet3d.config.section_schemas import DistCfg
from raydet3d.config.type_check import read_section
from raydet3d.registry import MODEL_WRAPPERS

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

REDUCTIONS = ("sum", "mean", "min", "max", "product")


_ranks = 1  # world size of the active run


@contextmanager
def require_process_group() -> Iterator[None]:
    """Make the loss of the process group an error within the `with` block.

    When Ray aborts workers, it destroys their process group from another thread. Otherwise a rank would continue as if
    the world size were 1, and save its part of the state as that of the whole run.
    """
    global _ranks
    before, _ranks = _ranks, get_world_size()
    try:
        yield
    finally:
        _ranks = before


def is_distributed() -> bool:
    """Return whether the process group is initialized.

    Raises:
        RuntimeError: The active run began with a process group of several ranks, which has been destroyed.
    """
    there = torch_dist.is_available() and torch_dist.is_initialized()
    if _ranks > 1 and not there:
        raise RuntimeError(f"the process group of {_ranks} ranks is gone: this process has been given up")
    return there


def get_rank() -> int:
    """Return this process's rank; 0 without a process group."""
    return torch_dist.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return torch_dist.get_world_size() if is_distributed() else 1


def get_dist_info() -> tuple[int, int]:
    """Return rank and world size."""
    return get_rank(), get_world_size()


def is_main_process() -> bool:
    """Return whether this process is rank 0."""
    return get_rank() == 0


def master_only(function: Callable[P, R]) -> Callable[P, R | None]:
    """Decorate a function to run on rank 0 only; on other ranks it returns None."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return function(*args, **kwargs) if is_main_process() else None

    return guarded


def group_options(dist_cfg: Mapping[str, object] | None, *, cuda: bool) -> dict[str, Any]:
    """Return the arguments of `init_process_group` for a run.

    Args:
        dist_cfg: `env_cfg.dist_cfg` of the config: `backend` and `timeout` (in seconds). `nccl`, the default and the
            value in every published config, uses NCCL for tensors on GPUs and Gloo for tensors on the CPU.
        cuda: Whether the ranks have GPUs.
    """
    given = read_section(DistCfg, dist_cfg, "env_cfg.dist_cfg")
    backend = given.backend or "nccl"
    if backend == "nccl":
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    return {"backend": backend} | ({"timeout": timedelta(seconds=given.timeout)} if given.timeout else {})


def join_torchrun(dist_cfg: Mapping[str, object] | None = None) -> torch.device:
    """Join the process group that torchrun's environment describes.

    A rank with only one visible GPU uses that one, independent of its local rank.

    Args:
        dist_cfg: `env_cfg.dist_cfg` of the config.

    Returns:
        This rank's device.
    """
    cuda = torch.cuda.is_available()
    number = int(os.environ["LOCAL_RANK"]) % max(torch.cuda.device_count(), 1)
    device = torch.device("cuda", number) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch_dist.init_process_group(**group_options(dist_cfg, cuda=cuda))
    return device


def barrier() -> None:
    """Wait until all ranks have reached this call."""
    if get_world_size() > 1:
        torch_dist.barrier()


def broadcast(data: Tensor, src: int = 0) -> None:
    """Broadcast a tensor from rank `src`, in place."""
    if get_world_size() > 1:
        torch_dist.broadcast(data, src)


def broadcast_object(value: T, src: int = 0) -> T:
    """Broadcast a picklable object from rank `src` and return it on every rank."""
    if get_world_size() == 1:
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src)
    return box[0]


def on_rank0(function: Callable[[], R]) -> R:
    """Call a function on rank 0 only, and return its result or raise its exception on every rank.

    All ranks thus continue or fail together; no rank waits for one that has exited.

    Args:
        function: The function; its result must be picklable.

    Returns:
        Rank 0's result.

    Raises:
        Exception: The exception raised on rank 0. On the other ranks its attribute `reported_by_rank0` is True,
            because rank 0 reports it.
    """
    if get_world_size() == 1:
        return function()
    failure: Exception | None = None
    packed = b""
    if is_main_process():
        try:
            packed = pickle.dumps((function(), None))
        except Exception as error:  # noqa: BLE001 - any exception must reach the other ranks, else they block
            failure = error
            packed = _pack(error)
    packed = broadcast_object(packed)
    if failure is not None:
        raise failure
    result: R
    result, raised = pickle.loads(packed)
    if raised is not None:
        raised.reported_by_rank0 = True
        raise raised
    return result


def _pack(error: Exception) -> bytes:
    """Pickle an exception for the other ranks; if it cannot be pickled, a RuntimeError with its message."""
    try:
        packed = pickle.dumps((None, error))
        pickle.loads(packed)
    except Exception:  # noqa: BLE001 - pickling an arbitrary exception may raise anything
        packed = pickle.dumps((None, RuntimeError(f"rank 0 failed with {type(error).__name__}: {error}")))
    return packed


def all_gather_object(value: T) -> list[T]:
    """Gather a picklable object from all ranks, in rank order, on every rank."""
    if get_world_size() == 1:
        return [value]
    out = [value] * get_world_size()
    torch_dist.all_gather_object(out, value)
    return out


def gather_object(value: T, dst: int = 0) -> list[T] | None:
    """Gather a picklable object from all ranks, in rank order, on rank `dst`; return None on the others."""
    if get_world_size() == 1:
        return [value]
    out = [value] * get_world_size() if get_rank() == dst else None
    torch_dist.gather_object(value, out, dst)
    return out


def all_gather(data: Tensor) -> list[Tensor]:
    """Gather tensors of equal shape from all ranks, in rank order, on every rank."""
    if get_world_size() == 1:
        return [data]
    out = [data.new_empty(data.shape) for _ in range(get_world_size())]
    torch_dist.all_gather(out, data)
    return out


def gather(data: Tensor, dst: int = 0) -> list[Tensor]:
    """Gather tensors of equal shape from all ranks on rank `dst`, in rank order; return an empty list on the others."""
    parts = all_gather(data)  # not every backend supports gather
    return parts if get_rank() == dst else []


def broadcast_object_list(data: list[T], src: int = 0) -> None:
    """Broadcast a list of picklable objects from rank `src`, in place."""
    data[:] = broadcast_object(data, src)


def sync_random_seed() -> int:
    """Draw a random 31-bit seed, the same on every rank."""
    return int(broadcast_object(secrets.randbelow(2**31)))


def get_backend() -> str | None:
    """Return the name of the process group's backend; None without a process group."""
    return str(torch_dist.get_backend()) if is_distributed() else None


def get_local_rank() -> int:
    """Return this process's local rank (`LOCAL_RANK`); 0 without a process group."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_distributed() else 0


def get_device() -> str:
    """Return `cuda` if PyTorch has a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def all_reduce(data: Tensor, op: str = "sum") -> None:
    """Reduce a tensor over all ranks, in place.

    Args:
        data: Tensor of the same shape on every rank.
        op: `sum`, `mean`, `min`, `max` or `product`.

    Raises:
        ValueError: `op` is none of them.
    """
    if op not in REDUCTIONS:
        raise ValueError(f"op must be one of {', '.join(REDUCTIONS)}, got {op!r}")
    if get_world_size() == 1:
        return
    if op == "mean":  # not every backend supports ReduceOp.AVG
        torch_dist.all_reduce(data, torch_dist.ReduceOp.SUM)
        data.div_(get_world_size())
        return
    torch_dist.all_reduce(data, getattr(torch_dist.ReduceOp, op.upper()))


def reduce_mean(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks; the tensor itself where there is one."""
    if get_world_size() == 1:
        return tensor
    total = tensor.clone()
    all_reduce(total)
    return total / get_world_size()


def all_reduce_dict(data: dict[str, Tensor], op: str = "sum") -> None:
    """Reduce each tensor of a dict over all ranks, in place; the keys must be the same on every rank."""
    for name in sorted(data):
        all_reduce(data[name], op)


def all_reduce_params(params: Iterable[Tensor], op: str = "mean") -> None:
    """Reduce parameters or buffers over all ranks, in place, with one collective for each dtype."""
    if get_world_size() == 1:
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in params:
        kinds.setdefault(tensor.dtype, []).append(tensor.detach())
    for tensors in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        all_reduce(flat, op)
        for tensor, part in zip(tensors, flat.split_with_sizes([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def collect_results(results: list[T], size: int, device: str = "cpu", tmpdir: str | None = None) -> list[T] | None:
    """Gather the results of all ranks on rank 0, in dataset order.

    The sampler distributes samples round-robin (rank r has r, r + world size, ...), so the lists are interleaved; the
    padding samples that it repeats to make the ranks' lengths equal are dropped.

    Args:
        results: This rank's results, in the order of its samples.
        size: Number of samples in the dataset.
        device: Ignored; accepted for compatibility with MMEngine.
        tmpdir: Ignored as well: no files are used.

    Returns:
        `size` results on rank 0, None on the other ranks.
    """
    parts = gather_object(results)
    if parts is None:
        return None
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)][:size]


def broadcast_buffers(module: nn.Module) -> None:
    """Broadcast buffers (BatchNorm statistics) from rank 0, so that all ranks evaluate the same model."""
    if get_world_size() > 1:
        for buffer in module.buffers():
            torch_dist.broadcast(buffer, 0)


def is_model_wrapper(model: nn.Module) -> bool:
    """Return whether a module is a model wrapper: torch's, or a class in `MODEL_WRAPPERS`."""
    kinds = tuple(kind for kind in map(MODEL_WRAPPERS.get, MODEL_WRAPPERS) if isinstance(kind, type))
    return isinstance(model, (DistributedDataParallel, nn.DataParallel, *kinds))


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model without its wrapper."""
    inner = model.module if is_model_wrapper(model) else model
    assert isinstance(inner, nn.Module)
    return inner
