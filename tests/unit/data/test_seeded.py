"""Draws depend on (seed, epoch, index) alone; any position is reached; the training process keeps its generators."""

from __future__ import annotations

import pickle
import random
import time
import timeit

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from raydet3d.data.samplers import DefaultSampler, InfiniteSampler
from raydet3d.data.seeded import EpochBatchSampler, SeededDataset, current_epoch, sample_seed, seed_generators


class Drawing:
    """A data set whose samples are random draws."""

    pipeline = "the inner data set's"

    def __init__(self, size: int = 11) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, int, float, float, float]:
        draws = np.random.rand(), random.random(), torch.rand(()).item()
        return (current_epoch(), index, *draws)


class Broken(Drawing):
    def __getitem__(self, index: int) -> tuple[int, int, float, float, float]:
        raise ValueError("no such cloud")


def loader(
    *, batch: int, world: int = 1, rank: int = 0, workers: int = 0, at: tuple[int, int] = (0, 0), size: int = 11
) -> list[list[tuple]]:
    dataset = Drawing(size)
    sampler = DefaultSampler(dataset, seed=5, rank=rank, world_size=world)
    batches = EpochBatchSampler(BatchSampler(sampler, batch, drop_last=False), sampler)
    batches.set_position(*at)
    return list(DataLoader(SeededDataset(dataset, 5), batch_sampler=batches, num_workers=workers, collate_fn=list))


def test_draws_depend_on_seed_epoch_and_index_alone() -> None:
    seeded = SeededDataset(Drawing(), seed=3)
    first = seeded[(2, 7)]
    np.random.rand(100), random.random(), torch.rand(9)
    assert seeded[(2, 7)] == first
    assert first[:2] == (2, 7)
    others = [seeded[(2, 8)], seeded[(3, 7)], SeededDataset(Drawing(), seed=4)[(2, 7)]]
    draws = {value for sample in [first, *others] for value in sample[2:]}
    assert len(draws) == 12


def test_sample_seeds_do_not_collide() -> None:
    seeds = {sample_seed(seed, epoch, index) for seed in range(5) for epoch in range(20) for index in range(200)}
    assert len(seeds) == 5 * 20 * 200
    # Neighbouring indices: half of the 64 bits differ, on average.
    flips = [bin(sample_seed(0, 0, i) ^ sample_seed(0, 0, i + 1)).count("1") for i in range(500)]
    assert 31 < np.mean(flips) < 33
    assert sample_seed(-1, 0, 0) != sample_seed(1, 0, 0)


def test_generators_of_the_training_process_are_restored() -> None:
    np.random.seed(1), random.seed(1), torch.manual_seed(1)
    wanted = np.random.rand(3).tolist(), random.random(), torch.rand(3).tolist()
    np.random.seed(1), random.seed(1), torch.manual_seed(1)
    assert SeededDataset(Drawing(), 0)[(0, 0)] == SeededDataset(Drawing(), 0)[(0, 0)]
    with pytest.raises(ValueError, match="no such cloud"):
        SeededDataset(Broken(), 0)[(0, 0)]
    assert (np.random.rand(3).tolist(), random.random(), torch.rand(3).tolist()) == wanted
    assert current_epoch() == 0


def test_a_failing_sample_is_named() -> None:
    with pytest.raises(ValueError, match="no such cloud") as caught:
        SeededDataset(Broken(), 0)[(4, 9)]
    assert "sample 9 of epoch 4" in caught.value.__notes__[0]


def test_seeding_is_cheap() -> None:
    # Processor time, and the best of many: other processes must not count.
    runs = timeit.repeat(
        lambda: seed_generators(sample_seed(0, 3, 1234)), number=500, repeat=30, timer=time.thread_time
    )
    best = min(runs) / 500
    assert best < 15e-6, f"{best * 1e6:.1f} us"


def test_attributes_are_forwarded_also_after_pickling() -> None:
    seeded = pickle.loads(pickle.dumps(SeededDataset(Drawing(), 0)))
    assert seeded.pipeline == "the inner data set's"
    assert len(seeded) == 11
    assert not hasattr(seeded, "no_such_thing")
    assert seeded[3][1] == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_change_nothing(workers: int) -> None:
    assert loader(batch=3, workers=workers, at=(4, 0)) == loader(batch=3, at=(4, 0))


@pytest.mark.parametrize("done", range(5))
def test_any_batch_of_an_epoch_is_reached(done: int) -> None:
    assert loader(batch=3, at=(2, done)) == loader(batch=3, at=(2, 0))[done:]


def test_two_ranks_make_the_batches_of_one() -> None:
    alone = loader(batch=4, at=(1, 0), size=12)
    ranks = [loader(batch=2, world=2, rank=rank, at=(1, 0), size=12) for rank in range(2)]
    for together, *shares in zip(alone, *ranks, strict=True):
        assert together == [sample for pair in zip(*shares, strict=True) for sample in pair]


def test_persistent_workers_know_the_epoch() -> None:
    dataset = Drawing()
    sampler = DefaultSampler(dataset, seed=0)
    batches = EpochBatchSampler(BatchSampler(sampler, 4, drop_last=True), sampler)
    loading = DataLoader(
        SeededDataset(dataset, 0), batch_sampler=batches, num_workers=1, persistent_workers=True, collate_fn=list
    )
    for epoch in range(2):
        batches.set_position(epoch, 0)
        assert {sample[0] for batch in loading for sample in batch} == {epoch}
    assert len(loading) == len(batches) == 2


def test_a_users_batch_sampler_is_skipped_without_loading() -> None:
    class Pairs:
        def __init__(self, sampler: DefaultSampler) -> None:
            self.sampler = sampler

        def __iter__(self):
            order = list(self.sampler)
            yield from ([a, b] for a, b in zip(order[::2], order[1::2], strict=False))

    sampler = DefaultSampler(range(10), seed=0, rank=0, world_size=1)
    batches = EpochBatchSampler(Pairs(sampler), sampler)
    batches.set_position(3, 0)
    whole = list(batches)
    batches.set_position(3, 2)
    assert list(batches) == whole[2:]
    assert all(epoch == 3 for batch in whole for epoch, _ in batch)
    with pytest.raises(TypeError, match="no length"):
        len(batches)


@pytest.mark.parametrize("done", [0, 1, 3, 4, 50])
def test_endless_sampler_counts_passes_as_epochs(done: int) -> None:
    def first(skip: int, count: int) -> list[list[tuple[int, int]]]:
        sampler = InfiniteSampler(range(7), seed=0, rank=1, world_size=2)
        batches = EpochBatchSampler(BatchSampler(sampler, 3, drop_last=True), sampler)
        batches.set_position(0, skip)
        walk = iter(batches)
        return [next(walk) for _ in range(count)]

    assert first(done, 4) == first(0, done + 4)[done:]
    if not done:
        # Rank 1 of 2 holds places 1, 3, 5 | 7, 9, 11 | 13, ... of passes of 7 samples each.
        assert [[epoch for epoch, _ in batch] for batch in first(0, 3)] == [[0, 0, 0], [1, 1, 1], [1, 2, 2]]


def test_position_is_read_when_iter_is_called() -> None:
    sampler = DefaultSampler(range(6), seed=0, rank=0, world_size=1)
    batches = EpochBatchSampler(BatchSampler(sampler, 2, drop_last=False), sampler)
    batches.set_position(1, 2)
    waiting = iter(batches)
    batches.set_position(0, 0)
    assert len(list(waiting)) == 1
    assert len(list(batches)) == 3
