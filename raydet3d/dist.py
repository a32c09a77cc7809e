"""Rank, world size and collectives over torch.distributed: no-ops when alone; and the model inside its wrapper."""

from __future__ import annotations

import os
import pickle
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from itertools import accumulate
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydet3d.registry import MODEL_WRAPPERS

P = ParamSpec("P")
R = TypeVar("R")

REDUCTIONS = ("sum", "mean", "min", "max", "product")


_ranks = 1  # of the run that is at work


@contextmanager
def require_process_group() -> Iterator[None]:
    """While a run is at work, a process group that goes away is an error, and does not leave this rank alone.

    (When Ray gives workers up it takes their group away from another thread. A rank that went on as if it were the only
    one would save what it has for the whole run.)
    """
    global _ranks
    before, _ranks = _ranks, get_world_size()
    try:
        yield
    finally:
        _ranks = before


def is_distributed() -> bool:
    """Whether a process group is up.

    Raises:
        RuntimeError: There was one when the run at work began, and it is gone.
    """
    there = torch_dist.is_available() and torch_dist.is_initialized()
    if _ranks > 1 and not there:
        raise RuntimeError(f"the process group of {_ranks} ranks is gone: this process has been given up")
    return there


def get_rank() -> int:
    """This process's rank; 0 when alone."""
    return torch_dist.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Number of ranks; 1 when alone."""
    return torch_dist.get_world_size() if is_distributed() else 1


def get_dist_info() -> tuple[int, int]:
    """(rank, world size)."""
    return get_rank(), get_world_size()


def is_main_process() -> bool:
    """Whether this is rank 0."""
    return get_rank() == 0


def master_only(function: Callable[P, R]) -> Callable[P, R | None]:
    """Make a function do nothing on all ranks but 0."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return function(*args, **kwargs) if is_main_process() else None

    return guarded


def group_options(dist_cfg: Mapping[str, Any] | None, *, cuda: bool) -> dict[str, Any]:
    """How the ranks of a run meet: arguments of ``init_process_group``.

    Args:
        dist_cfg: ``env_cfg.dist_cfg``: ``backend`` and ``timeout`` (in seconds). ``nccl``, which every published config
            says, means the GPUs' way where there are some, and gloo for what lies on the host.
        cuda: Whether the ranks have GPUs.
    """
    given = dict(dist_cfg or {})
    backend = given.get("backend") or "nccl"
    if backend == "nccl":
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    timeout = given.get("timeout")
    return {"backend": backend, **({} if timeout is None else {"timeout": timedelta(seconds=float(timeout))})}


def join_torchrun(dist_cfg: Mapping[str, Any] | None = None) -> torch.device:
    """Join the process group that torchrun's environment describes.

    A rank that sees only one GPU takes it, whatever its local rank.

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
    """Wait until every rank is here."""
    if get_world_size() > 1:
        torch_dist.barrier()


def broadcast(data: Tensor, src: int = 0) -> None:
    """Overwrite a tensor with rank ``src``'s, in place."""
    if get_world_size() > 1:
        torch_dist.broadcast(data, src)


def broadcast_object(value: Any, src: int = 0) -> Any:
    """Rank ``src``'s value of a picklable object, on every rank."""
    if get_world_size() == 1:
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src)
    return box[0]


def on_rank0(function: Callable[[], R]) -> R:
    """Let rank 0 alone do something; every rank gets its result, or its failure.

    So all ranks go on, or end, alike: none waits for one that has left.

    Args:
        function: What rank 0 calls; what it returns or raises must be picklable.

    Returns:
        Rank 0's result.

    Raises:
        Exception: What rank 0 raised. On the other ranks it has ``reported_by_rank0`` set: rank 0 says it.
    """
    if get_world_size() == 1:
        return function()
    failure: Exception | None = None
    packed = b""
    if is_main_process():
        try:
            packed = pickle.dumps((function(), None))
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must not wait for ever
            failure = error
            packed = _pack(error)
    packed = broadcast_object(packed)
    if failure is not None:
        raise failure
    result, raised = pickle.loads(packed)
    if raised is not None:
        raised.reported_by_rank0 = True
        raise raised
    value: R = result
    return value


def _pack(error: Exception) -> bytes:
    """A failure for the other ranks; in words where it does not survive the way."""
    try:
        packed = pickle.dumps((None, error))
        pickle.loads(packed)
    except Exception:  # noqa: BLE001 - exceptions may hold anything
        packed = pickle.dumps((None, RuntimeError(f"rank 0 failed with {type(error).__name__}: {error}")))
    return packed


def all_gather_object(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    if get_world_size() == 1:
        return [value]
    out: list[Any] = [None] * get_world_size()
    torch_dist.all_gather_object(out, value)
    return out


def gather_object(value: Any, dst: int = 0) -> list[Any] | None:
    """Every rank's value in rank order on rank ``dst``; None on the others."""
    if get_world_size() == 1:
        return [value]
    out: list[Any] | None = [None] * get_world_size() if get_rank() == dst else None
    torch_dist.gather_object(value, out, dst)
    return out


def all_gather(data: Tensor) -> list[Tensor]:
    """Every rank's tensor, of the same shape, in rank order, on every rank."""
    if get_world_size() == 1:
        return [data]
    out = [data.new_empty(data.shape) for _ in range(get_world_size())]
    torch_dist.all_gather(out, data)
    return out


def gather(data: Tensor, dst: int = 0) -> list[Tensor]:
    """Every rank's tensor, of the same shape, in rank order on rank ``dst``; an empty list on the others."""
    parts = all_gather(data)  # not every backend can gather
    return parts if get_rank() == dst else []


def broadcast_object_list(data: list[Any], src: int = 0) -> None:
    """Overwrite the items of a list with rank ``src``'s, in place."""
    data[:] = broadcast_object(data, src)


def sync_random_seed() -> int:
    """A random seed that is the same on every rank."""
    return int(broadcast_object(secrets.randbelow(2**31)))


def get_backend() -> str | None:
    """Name of the process group's backend; None when alone."""
    return str(torch_dist.get_backend()) if is_distributed() else None


def get_local_rank() -> int:
    """This process's place among those of its machine; 0 when alone."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_distributed() else 0


def get_device() -> str:
    """Return `cuda` where torch has a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def all_reduce(data: Tensor, op: str = "sum") -> None:
    """Combine a tensor over all ranks, in place.

    Args:
        data: Tensor of the same shape on every rank.
        op: ``sum``, ``mean``, ``min``, ``max`` or ``product``.

    Raises:
        ValueError: ``op`` is none of them.
    """
    if op not in REDUCTIONS:
        raise ValueError(f"op must be one of {', '.join(REDUCTIONS)}, got {op!r}")
    if get_world_size() == 1:
        return
    if op == "mean":  # not every backend has an average of its own
        torch_dist.all_reduce(data, torch_dist.ReduceOp.SUM)
        data.div_(get_world_size())
        return
    torch_dist.all_reduce(data, getattr(torch_dist.ReduceOp, op.upper()))


def all_reduce_dict(data: dict[str, Tensor], op: str = "sum") -> None:
    """Combine each tensor of a dict over all ranks, in place."""
    for name in sorted(data):
        all_reduce(data[name], op)


def all_reduce_params(params: Iterable[Tensor], op: str = "mean") -> None:
    """Combine parameters or buffers over all ranks, in place; those of one type travel together."""
    if get_world_size() == 1:
        return
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in params:
        kinds.setdefault(tensor.dtype, []).append(tensor.detach())
    for tensors in kinds.values():
        sizes = [tensor.numel() for tensor in tensors]
        flat = tensors[0].new_empty(sum(sizes))
        parts = [flat[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
        for tensor, part in zip(tensors, parts, strict=True):
            part.copy_(tensor.reshape(-1))
        all_reduce(flat, op)
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def collect_results(results: list[Any], size: int, device: str = "cpu", tmpdir: str | None = None) -> list[Any] | None:
    """One list of all ranks' results in data set order, on rank 0.

    A sampler deals samples out in turn (rank r holds r, r + world, ...), so the lists are interleaved; what the
    sampler repeated to even out the ranks is cut off.

    Args:
        results: This rank's results, in the order of its samples.
        size: Number of samples in the data set.
        device: Accepted for MMEngine's sake, as is ``tmpdir``: nothing goes through files.
        tmpdir: See ``device``.

    Returns:
        ``size`` results on rank 0, None elsewhere.
    """
    parts = gather_object(results)
    if parts is None:
        return None
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)][:size]


def broadcast_buffers(module: nn.Module) -> None:
    """Give every rank rank 0's buffers (BatchNorm statistics), so that all evaluate the same model."""
    if get_world_size() > 1:
        for buffer in module.buffers():
            torch_dist.broadcast(buffer, 0)


def is_model_wrapper(model: nn.Module) -> bool:
    """Whether a module stands round a model, as ``module``."""
    kinds = tuple(kind for kind in map(MODEL_WRAPPERS.get, MODEL_WRAPPERS) if isinstance(kind, type))
    return isinstance(model, (DistributedDataParallel, *kinds))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself."""
    inner = model.module if is_model_wrapper(model) else model
    assert isinstance(inner, nn.Module)
    return inner
