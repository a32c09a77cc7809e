"""Loaders: forms of their config, and what is refused."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from raydet3d.errors import InputError
from raydet3d.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from raydet3d.runtime.loaders import Slice, build_dataloader, check_data, release
from tests.kit.toy import ToyData


def cfg(**changes: Any) -> dict[str, Any]:
    return {"dataset": {"type": ToyData, "size": 10}, "sampler": {"type": "DefaultSampler"}, "batch_size": 3, **changes}


def order(loader: DataLoader[Any]) -> list[list[int]]:
    return [[sample.sample_idx for sample in batch["data_samples"]] for batch in loader]


def test_batches_are_lists_and_the_last_may_be_smaller() -> None:
    loader = build_dataloader(cfg(), seed=1)
    batches = list(loader)
    assert [len(batch["inputs"]) for batch in batches] == [3, 3, 3, 1]
    assert isinstance(batches[0]["inputs"], list)
    assert len(build_dataloader(cfg(drop_last=True), seed=1)) == 3
    assert loader.dataset.metainfo == {"classes": ("toy",)}


def test_the_seed_decides_and_drawing_leaves_no_trace() -> None:
    assert order(build_dataloader(cfg(), seed=1)) == order(build_dataloader(cfg(), seed=1))
    assert order(build_dataloader(cfg(), seed=1)) != order(build_dataloader(cfg(), seed=2))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(build_dataloader(cfg(num_workers=2), seed=1))
    list(build_dataloader(cfg(), seed=1))
    assert torch.rand(1) == expected


def test_options_that_mean_nothing_without_workers_are_no_error() -> None:
    loader = build_dataloader(cfg(persistent_workers=True, prefetch_factor=2, pin_memory=False), seed=1)
    assert not loader.persistent_workers
    loader = build_dataloader(
        cfg(num_workers=1, persistent_workers=True, prefetch_factor=3), seed=1, mp_start_method="fork"
    )
    assert (loader.persistent_workers, loader.prefetch_factor) == (True, 3)
    list(loader)
    release(loader)
    assert loader._iterator is None


def test_a_part_of_the_data_only() -> None:
    loader = build_dataloader(cfg(num_batch_per_epoch=2), seed=1)
    assert len(loader) == 2
    assert {i for batch in order(loader) for i in batch} == set(range(6))
    part = Slice(ToyData(5), 100)
    assert len(part) == 5
    assert part.metainfo == ToyData.metainfo


class Piped(ToyData):
    """Gives what its pipeline says."""

    pipeline = "first"

    def __getitem__(self, index: int) -> Any:
        return self.pipeline


@pytest.mark.parametrize("persistent", [False, True])
def test_a_hook_may_put_another_pipeline_in_place(persistent: bool) -> None:
    given = cfg(num_batch_per_epoch=2, num_workers=1, persistent_workers=persistent, dataset={"type": Piped})
    loader: Any = build_dataloader(given, seed=1)
    assert {sample for batch in loader for sample in batch} == {"first"}
    loader.dataset.pipeline = "second"
    if persistent:  # what mmdet's PipelineSwitchHook does to have new workers
        loader._DataLoader__initialized = False
        loader._iterator = None
    assert {sample for batch in loader for sample in batch} == {"second"}
    assert loader.dataset.dataset.dataset.pipeline == "second"
    release(loader)


def test_batch_samplers_collate_functions_and_worker_functions_of_a_users_own() -> None:
    def pairs(sampler: Any, batch_size: int) -> Any:
        indices = list(sampler)
        return [indices[i : i + 2] for i in range(0, len(indices), 2)]

    def count(batch: list[Any], start: int) -> int:
        return start + len(batch)

    calls: list[dict[str, Any]] = []

    def init(worker_id: int, **kwargs: Any) -> None:
        calls.append(kwargs)

    with (
        DATA_SAMPLERS.temporary(pairs=pairs),
        FUNCTIONS.temporary(count=count, init=init),
    ):
        made = cfg(
            batch_sampler={"type": "pairs"}, collate_fn={"type": "count", "start": 10}, worker_init_fn={"type": "init"}
        )
        loader = build_dataloader(made, seed=1)
    assert list(loader) == [12] * 5
    loader.worker_init_fn(0)
    assert calls == [{"num_workers": 0, "rank": 0, "seed": 1}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler": None}, "has no sampler"),
        ({"dataset": None}, "has no dataset"),
        ({"timeout": 5}, "d.timeout .* needs num_workers of at least 1, got timeout=5"),
        ({"timeout": -1, "num_workers": 1}, "d.timeout must be a number of at least 0"),
        ({"drop_last": 1}, "d.drop_last must be True or False"),
        ({"batch_size": 0}, "d.batch_size must be an integer of at least 1, got 0"),
        ({"num_workers": -1}, "d.num_workers must be an integer of at least 0, got -1"),
        ({"batch_size": "4"}, "got '4'"),
        ({"shuffle": True}, "d has no 'shuffle'"),
        ({"collate_fn": {"type": "default_colate"}}, "d.collate_fn: unknown function type"),
        ({"collate_fn": {}, "worker_init_fn": {"seed": 1}}, "d.worker_init_fn: needs a type"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_dataloader(cfg(**changes), seed=1, key="d")


def test_more_that_is_refused() -> None:
    with pytest.raises(InputError, match="d must be a dict, got 3"):
        build_dataloader(3, seed=1, key="d")
    with pytest.raises(InputError, match="d has no dataset"):
        build_dataloader({"sampler": {"type": "DefaultSampler"}}, seed=1, key="d")


class OwnLoader(DataLoader[Any]):
    def __iter__(self) -> Any:
        self.iterated = True
        return super().__iter__()


@pytest.mark.parametrize("kind", [DataLoader, OwnLoader])
def test_a_ready_loader_stays_the_same_object_of_its_class(kind: type[DataLoader[Any]]) -> None:
    called = multiprocessing.Value("i", 0)

    def count(worker_id: int) -> None:
        with called.get_lock():
            called.value += 1

    plain = kind([1, 2])  # type: ignore[arg-type]
    assert build_dataloader(plain, seed=1) is plain
    assert type(plain) is kind
    ready = kind([1, 2], num_workers=2, persistent_workers=True, worker_init_fn=count)  # type: ignore[arg-type]
    list(ready)
    for _ in range(2):
        assert build_dataloader(ready, seed=1) is ready
        assert isinstance(ready, kind)
        assert [batch.item() for batch in ready] == [1, 2]
    release(ready)
    assert called.value == 4  # two before the run, two of the run's
    assert getattr(ready, "iterated", kind is DataLoader)


def test_data_are_made_ready_through_wrappers(tmp_path: Path) -> None:
    asked: list[str] = []

    class Town:
        @classmethod
        def check_data(cls, cfg: Any) -> None:
            asked.append(cfg["data_root"])
            if cfg["data_root"] == "nowhere":
                raise InputError("nowhere does not exist; prepare it so and so")

    with DATASETS.temporary(Town=Town):
        inner = {"type": "RepeatDataset", "times": 2, "dataset": {"type": "Town", "data_root": "a"}}
        whole = {
            "train_dataloader": {"dataset": inner},
            "val_dataloader": {"dataset": {"type": "Town", "data_root": "b"}},
            "test_dataloader": None,
        }
        check_data(whole)
        assert asked == ["a", "b"]
        with pytest.raises(InputError, match=r"val_dataloader.dataset: nowhere does not exist; prepare it"):
            check_data({"val_dataloader": {"dataset": {"type": "Town", "data_root": "nowhere"}}})
