"""FSDP2 on gloo ranks: against DistributedDataParallel, and against itself on other numbers of ranks."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from raydet3d import dist
from raydet3d.checkpoint.completeness import find_fault
from raydet3d.checkpoint.load import load_metadata, load_shards
from raydet3d.checkpoint.sharded import enum_member
from raydet3d.checkpoint.store import CheckpointStore
from raydet3d.errors import InputError
from raydet3d.hooks import EMAHook
from raydet3d.hooks.base import Hooks
from raydet3d.runtime import assemble
from raydet3d.runtime.build import check_ranks
from raydet3d.runtime.ddp import ModelWrapper
from raydet3d.runtime.fsdp import _policy, units
from tests.kit.spawn import run_ranks
from tests.kit.toy import SaveAt, ToyModel, toy_cfg

FSDP = {"type": "MMFullyShardedDataParallel", "min_params": 50}
NO_SAVES = {"type": "CheckpointHook", "save_last": False}


def train(folder: str, changes: dict[str, Any], resume: str | bool = "") -> dict[str, Any]:
    torch.set_num_threads(1)
    runner = assemble(toy_cfg(Path(folder), log_level="ERROR", **changes), resume=resume)
    losses: list[float] = []
    process = runner.message_hub.update_scalar

    def note(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if name == "train/loss":
            losses.append(float(value))
        process(name, value, *args, **kwargs)

    runner.message_hub.update_scalar = note  # type: ignore[method-assign]
    result = runner.train()
    inner = runner.model.module if dist.get_world_size() > 1 else runner.model
    weights = {k: (v.full_tensor() if hasattr(v, "full_tensor") else v) for k, v in inner.state_dict().items()}
    return {
        "losses": losses,
        "weights": {k: v.detach().numpy().copy() for k, v in weights.items()},
        "metrics": result["metrics"],
        "lost": result["not_kept"],
        "sharded": any(hasattr(v, "full_tensor") for v in inner.state_dict().values()),
    }


PARAMWISE = {
    "type": "OptimWrapper",
    "optimizer": {"type": "AdamW", "lr": 0.01, "weight_decay": 0.1},
    "clip_grad": {"max_norm": 1.0},
    "accumulative_counts": 2,
    "paramwise_cfg": {"norm_decay_mult": 0.0, "custom_keys": {"bbox_head": {"lr_mult": 0.1}}},
}


@pytest.mark.parametrize(
    "wrapper",
    [{}, pytest.param({"optim_wrapper": PARAMWISE}, marks=pytest.mark.slow)],
    ids=["plain", "paramwise"],
)
def test_two_sharded_ranks_train_as_two_ranks_do(tmp_path: Path, wrapper: dict[str, Any]) -> None:
    # (A bias before BatchNorm has no gradient but rounding noise, which Adam makes steps of: no norm where it is long.)
    model = {"type": ToyModel, "norm": not wrapper}
    plain = {"model": model, "default_hooks__checkpoint": NO_SAVES, **wrapper}
    if not wrapper:  # unclipped: the guard looks at the shards itself, of which a rank has none of the last bias
        plain["optim_wrapper"] = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01}}
    ddp, _ = run_ranks(train, 2, str(tmp_path / "ddp"), plain)
    one, two = run_ranks(train, 2, str(tmp_path / "fsdp"), {**plain, "model_wrapper_cfg": FSDP})
    assert (ddp["sharded"], one["sharded"]) == (False, True)
    for rank in (one, two):
        assert rank["losses"] == pytest.approx(ddp["losses"] if rank is one else rank["losses"], rel=1e-4)
        assert rank["metrics"] == pytest.approx(ddp["metrics"], rel=1e-4)
    for name, value in ddp["weights"].items():
        assert abs(one["weights"][name] - value).max() < 1e-4, name


@pytest.mark.slow
def test_a_sharded_checkpoint_goes_on_on_two_one_and_three_ranks(tmp_path: Path) -> None:
    changes = {
        "custom_hooks": [{"type": SaveAt, "iters": [9, 12, 18]}],
        "default_hooks__checkpoint": NO_SAVES,
        "optim_wrapper": PARAMWISE,
        "model_wrapper_cfg": FSDP,
        "model": {"type": ToyModel, "dropout": 0.0},
    }
    whole, _ = run_ranks(train, 2, str(tmp_path / "whole"), changes)
    folder = tmp_path / "whole" / "iter_9.pth"
    # iter_9 lies within a group of two iterations: gradients that wait are in it.
    assert sorted(os.listdir(folder / "1")) == [".metadata", "__0_0.distcp", "__1_0.distcp", "state.pth"]
    part, other = run_ranks(train, 2, str(tmp_path / "part"), changes, str(folder))
    assert part["metrics"] == other["metrics"] == whole["metrics"]
    for name, value in whole["weights"].items():
        assert (part["weights"][name] == value).all(), name

    # What is in it, read by one process that knows of no ranks, is what trains on in one and in three.
    stored = load_shards(load_metadata(folder), folder, {})
    assert set(stored["state_dict"]) == set(whole["weights"])
    alone = train(str(tmp_path / "one"), {**changes, "train_cfg": {"by_epoch": True, "max_epochs": 1}}, str(folder))
    assert alone["sharded"] is False
    stop = {**changes, "train_cfg": {"by_epoch": False, "max_iters": 10, "val_interval": 5}}
    scored = assemble(toy_cfg(tmp_path / "score", load_from=str(folder), log_level="ERROR"))
    assert scored.test()["toy/count"] == 9  # what the door to a score does
    for name, value in stored["state_dict"].items():
        assert torch.equal(scored.model.state_dict()[name], value)
    three = run_ranks(train, 3, str(tmp_path / "three"), stop, str(folder))
    assert three[0]["sharded"]
    assert len(three[0]["losses"]) == 1
    # From the whole state into shards, too.
    (tmp_path / "again").mkdir()
    torch.save(stored, tmp_path / "again" / "iter_9.pth")
    again, _ = run_ranks(train, 2, str(tmp_path / "again"), changes, str(tmp_path / "again" / "iter_9.pth"))
    for name, value in whole["weights"].items():
        assert (again["weights"][name] == value).all(), name


def test_three_ranks_load_what_two_ranks_saved(tmp_path: Path) -> None:
    saves = {"custom_hooks": [{"type": SaveAt, "iters": [6]}], "default_hooks__checkpoint": NO_SAVES}
    changes = {**saves, "model_wrapper_cfg": FSDP, "train_cfg": {"by_epoch": True, "max_epochs": 1}}
    run_ranks(train, 2, str(tmp_path / "two"), changes)
    source = tmp_path / "two" / "iter_6.pth"
    two = load_shards(load_metadata(source), source, {})
    run_ranks(rewrite, 3, str(tmp_path / "three"), str(source), changes)
    target = tmp_path / "three" / "copy.pth"
    three = load_shards(load_metadata(target), target, {})
    for name, value in two["state_dict"].items():
        assert torch.equal(value, three["state_dict"][name]), name
    for index, moments in two["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, three["optimizer"]["state"][index][key]), (index, key)


def rewrite(folder: str, source: str, changes: dict[str, Any]) -> None:
    """Load a checkpoint and save it again, without a step in between."""
    runner = assemble(toy_cfg(Path(folder), log_level="ERROR", **changes))
    _ = runner.param_schedulers
    runner.resume(source)
    runner.save_checkpoint(runner.work_dir, "copy.pth")
    runner.store.drain()
    assert not runner.store.lost


def damage(folder: str, changes: dict[str, Any]) -> list[str]:
    """Three checkpoints, the newest of them damaged on rank 0's side; then the same name written again and again."""
    runner = assemble(toy_cfg(Path(folder), log_level="ERROR", **changes))
    _ = runner.param_schedulers
    for i in (1, 2, 3):
        runner.save_checkpoint(runner.work_dir, f"epoch_{i}.pth", group="epoch", limit=2)
    runner.save_checkpoint(runner.work_dir, "epoch_3.pth", group="epoch", limit=2)
    if dist.get_rank() == 0:
        (Path(folder) / ".epoch_4.pth.begun").touch()
        (Path(folder) / "epoch_4.pth").touch()  # where the folder is to be
    runner.save_checkpoint(runner.work_dir, "epoch_4.pth", group="epoch", limit=2)
    runner.store.drain()
    return list(runner.store.lost)


def test_sharded_checkpoints_have_the_stores_guarantees(tmp_path: Path) -> None:
    lost, _ = run_ranks(damage, 2, str(tmp_path), {"model_wrapper_cfg": FSDP})
    assert lost == ["epoch_4.pth"]
    store = CheckpointStore(tmp_path)
    store.clean_up()
    names = [name for name in store.storage.names() if name.endswith(".pth")]
    assert names == ["epoch_2.pth", "epoch_3.pth", "epoch_4.pth"]
    assert store.latest() == tmp_path / "epoch_3.pth"
    assert os.listdir(tmp_path / "epoch_3.pth") == ["4"]  # what was written first under this name is gone
    os.truncate(tmp_path / "epoch_3.pth" / "4" / "__1_0.distcp", 100)
    assert store.latest() == tmp_path / "epoch_2.pth"
    with pytest.raises(InputError, match=r"epoch_3.pth is damaged"):
        load_shards(load_metadata(tmp_path / "epoch_3.pth"), tmp_path / "epoch_3.pth", {})
    with pytest.raises(InputError, match="is a folder and no checkpoint"):
        load_metadata(tmp_path)
    # Torch keeps its metadata as a pickle: nothing in it is run.
    (tmp_path / "epoch_2.pth" / "2" / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(InputError, match="metadata holds a pathlib"):
        load_shards(load_metadata(tmp_path / "epoch_2.pth"), tmp_path / "epoch_2.pth", {})
    assert not (tmp_path / "ran").exists()


class Evil:
    """An object that touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_which_parts_are_gathered_one_by_one() -> None:
    model = nn.ModuleDict(
        {"a": nn.Sequential(nn.Linear(10, 10), nn.Linear(2, 2)), "b": nn.ModuleList([nn.Linear(9, 9)])}
    )
    assert units(model, 90) == [model["a"][0], model["b"][0]]
    assert units(model, 1000) == []


def test_what_is_refused() -> None:
    class Sharded(ModelWrapper, nn.Module):
        is_sharded = True

    hooks = Hooks()
    hooks.register(EMAHook())
    with pytest.raises(InputError, match="EMAHook needs a copy"):
        check_ranks(Sharded(), hooks, 1)
    with pytest.raises(InputError, match=r"got param_dtype='int8'"):
        _policy({"param_dtype": "int8"})
    assert _policy({"param_dtype": "bfloat16"}).param_dtype is torch.bfloat16


def fail_to_begin(folder: str, changes: dict[str, Any]) -> list[str]:
    """Rank 0 cannot begin the second of three checkpoints."""
    runner = assemble(toy_cfg(Path(folder), log_level="ERROR", **changes))
    _ = runner.param_schedulers
    put = runner.store.storage.put

    def full(name: str, content: bytes) -> None:
        if name.startswith(".epoch_2"):
            raise OSError(28, "No space left on device")
        put(name, content)

    runner.store.storage.put = full  # type: ignore[method-assign]
    for i in (1, 2, 3):
        runner.save_checkpoint(runner.work_dir, f"epoch_{i}.pth", group="epoch")
    runner.store.drain()
    return list(runner.store.lost)


def test_a_checkpoint_that_rank_0_cannot_begin_is_lost_and_no_other(tmp_path: Path) -> None:
    lost, _ = run_ranks(fail_to_begin, 2, str(tmp_path), {"model_wrapper_cfg": FSDP})
    assert lost == ["epoch_2.pth"]
    store = CheckpointStore(tmp_path)
    assert [entry.name for entry in store.manifests()] == ["epoch_1.pth", "epoch_3.pth"]
    assert [find_fault(store.storage, entry) for entry in store.manifests()] == [None, None]


def test_only_members_of_an_enum_are_loaded() -> None:
    """Python up to 3.11.3 writes them by ``getattr``, which could name anything."""
    layout = next(iter(_MEM_FORMAT_ENCODING))
    assert enum_member(_MEM_FORMAT_ENCODING, layout.name) is layout
    for kind, name in ((_MEM_FORMAT_ENCODING, "__init__"), (Path, "cwd"), (os, "system")):
        with pytest.raises((pickle.UnpicklingError, KeyError)):
            enum_member(kind, name)
