"""dist: two real gloo ranks against results worked out by hand; and the same calls when a process is alone."""

import pytest
import torch

from raydet3d import dist
from raydet3d.errors import InputError
from tests.kit.spawn import run_ranks


def ask_everything() -> dict[str, object]:
    rank = dist.get_rank()
    out: dict[str, object] = {"info": dist.get_dist_info(), "main": dist.is_main_process()}
    out["gathered"] = dist.all_gather_object({"from": rank})
    out["on_1"] = dist.gather_object(rank * 10, dst=1)
    out["told"] = dist.broadcast_object("zero" if rank == 0 else "one", src=1)
    # 5 samples over 2 ranks, padded by repetition: rank 0 has samples 0, 2, 4 and rank 1 has 1, 3, 0 (the padding).
    out["collected"] = dist.collect_results([[0, 2, 4], [1, 3, 0]][rank], 5)
    for op in ("sum", "mean", "min", "max", "product"):
        value = torch.tensor([2.0, 3.0]) + rank
        dist.all_reduce(value, op)
        out[op] = value.tolist()
    value = torch.full((2,), float(rank))
    dist.broadcast(value, src=1)
    out["broadcast"] = value.tolist()
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(7.0 + rank)
    norm.num_batches_tracked.fill_(3 + rank)
    dist.broadcast_buffers(norm)
    out["buffers"] = (norm.running_mean.tolist(), int(norm.num_batches_tracked))
    out["tensors"] = [part.tolist() for part in dist.all_gather(torch.tensor([rank]))]
    out["tensors_on_1"] = [part.tolist() for part in dist.gather(torch.tensor([rank]), dst=1)]
    values = {"a": torch.tensor([1.0 + rank]), "b": torch.tensor([4.0 * rank])}
    dist.all_reduce_dict(values, "mean")
    out["dict"] = {key: value.tolist() for key, value in values.items()}
    params = [torch.full((2, 2), float(rank)), torch.tensor([rank]), torch.full((3,), 2.0 * rank)]
    dist.all_reduce_params(params, "sum")
    out["params"] = [value.flatten()[0].item() for value in params]
    objects: list[object] = [rank, {"from": rank}]
    dist.broadcast_object_list(objects, src=1)
    out["objects"] = objects
    out["seed"] = dist.sync_random_seed()
    out["backend"] = dist.get_backend()
    out["guarded"] = dist.master_only(lambda: "done")()
    dist.barrier()
    return out


def test_two_ranks() -> None:
    first, second = run_ranks(ask_everything, 2)
    assert (first["info"], second["info"]) == ((0, 2), (1, 2))
    assert (first["main"], second["main"]) == (True, False)
    assert (first["on_1"], second["on_1"]) == (None, [0, 10])
    assert (first["collected"], second["collected"]) == ([0, 1, 2, 3, 4], None)
    assert (first["guarded"], second["guarded"]) == ("done", None)
    for out in (first, second):
        assert out["gathered"] == [{"from": 0}, {"from": 1}]
        assert out["told"] == "one"
        assert out["sum"] == [5.0, 7.0]
        assert out["mean"] == [2.5, 3.5]
        assert out["min"] == [2.0, 3.0]
        assert out["max"] == [3.0, 4.0]
        assert out["product"] == [6.0, 12.0]
        assert out["broadcast"] == [1.0, 1.0]
        assert out["buffers"] == ([7.0, 7.0], 3)
        assert out["tensors"] == [[0], [1]]
        assert out["dict"] == {"a": [1.5], "b": [2.0]}
        assert out["params"] == [1.0, 1, 2.0]
        assert out["objects"] == [1, {"from": 1}]
        assert out["backend"] == "gloo"
    assert (first["tensors_on_1"], second["tensors_on_1"]) == ([], [[0], [1]])
    assert first["seed"] == second["seed"]


def uneven() -> list[int] | None:
    return dist.collect_results([[0, 2], [1]][dist.get_rank()], 3)


def test_collects_parts_of_unequal_length() -> None:
    assert run_ranks(uneven, 2) == [[0, 1, 2], None]


def fail_on_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("broken on purpose")
    dist.barrier()


def test_failing_rank_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"rank [01] failed"):
        run_ranks(fail_on_one, 2, timeout_s=60)


class Stubborn(Exception):
    """Does not survive pickling."""

    def __init__(self, *, needed: str) -> None:
        super().__init__(needed)


def only_rank_0(kind: str) -> object:
    """What a rank meets that asks for something that rank 0 alone does."""

    def do() -> object:
        assert dist.get_rank() == 0
        if kind == "sentence":
            raise InputError("a.pkl does not exist")
        if kind == "stubborn":
            raise Stubborn(needed="x")
        return (lambda: 1) if kind == "unpicklable" else {"from": dist.get_rank()}

    try:
        out: object = dist.on_rank0(do)
    except Exception as error:  # noqa: BLE001
        out = (type(error).__name__, str(error), hasattr(error, "reported_by_rank0"))
    dist.barrier()  # nobody has left
    return out


def test_on_rank0_returns_or_raises_on_all_ranks() -> None:
    assert run_ranks(only_rank_0, 2, "well") == [{"from": 0}] * 2
    told = [("InputError", "a.pkl does not exist", mark) for mark in (False, True)]
    assert run_ranks(only_rank_0, 2, "sentence") == told
    first, second = run_ranks(only_rank_0, 2, "stubborn")
    assert first == ("Stubborn", "x", False)
    assert second == ("RuntimeError", "rank 0 failed with Stubborn: x", True)
    first, second = run_ranks(only_rank_0, 2, "unpicklable")
    assert first[0] == second[0] != "function"


def test_collectives_without_process_group_are_no_ops() -> None:
    assert dist.get_dist_info() == (0, 1)
    assert not dist.is_distributed()
    assert dist.is_main_process()
    assert dist.all_gather_object("x") == ["x"]
    assert dist.gather_object("x") == ["x"]
    assert dist.broadcast_object("x") == "x"
    assert dist.on_rank0(lambda: "x") == "x"
    assert dist.collect_results([1, 2, 3, 1], 3) == [1, 2, 3]
    value = torch.tensor([1.0, 2.0])
    for op in ("sum", "mean", "max"):
        dist.all_reduce(value, op)
    dist.broadcast(value)
    dist.all_reduce_dict({"a": value})
    dist.all_reduce_params([value])
    dist.barrier()
    assert dist.all_gather(value)[0] is dist.gather(value)[0] is value
    assert (dist.get_backend(), dist.get_local_rank()) == (None, 0)
    assert value.tolist() == [1.0, 2.0]


def test_unknown_reduction_is_refused_without_process_group() -> None:
    with pytest.raises(ValueError, match="avg"):
        dist.all_reduce(torch.ones(1), "avg")


def test_group_options() -> None:
    """Published configs say nccl; on a machine without GPUs that means gloo (D2), and no launcher is asked for (D3)."""
    assert dist.group_options(None, cuda=False) == {"backend": "gloo"}
    assert dist.group_options({"backend": "nccl"}, cuda=False) == {"backend": "gloo"}
    assert dist.group_options({"backend": "nccl"}, cuda=True) == {"backend": "cpu:gloo,cuda:nccl"}
    options = dist.group_options({"backend": "gloo", "timeout": 90}, cuda=True)
    assert (options["backend"], options["timeout"].total_seconds()) == ("gloo", 90)
