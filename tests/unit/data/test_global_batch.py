"""Whatever the number of ranks, an iteration has the samples that as many ranks as logical ranks would draw."""

from __future__ import annotations

import pytest
from torch.utils.data import BatchSampler

from raydet3d.data.global_batch import ElasticBatchSampler
from raydet3d.data.samplers import DefaultSampler, InfiniteSampler
from raydet3d.data.seeded import EpochBatchSampler


def stream(kind, slot, logical, size, batch, drop_last=False):
    sampler = kind(range(size), seed=5, rank=slot, world_size=logical)
    return EpochBatchSampler(BatchSampler(sampler, batch, drop_last), sampler)


def ranks_of(kind, logical, world, size, batch, **more):
    return [
        ElasticBatchSampler(
            [stream(kind, s, logical, size, batch, **more) for s in range(logical)], rank=r, world_size=world
        )
        for r in range(world)
    ]


def take(batches, count):
    iterator = iter(batches)
    return [next(iterator) for _ in range(count)]


def reference(kind, logical, size, batch, count, epoch=0, done=0, **more):
    """Each iteration's (epoch, index) pairs from the plain samplers of as many ranks as logical ranks."""
    streams = [stream(kind, s, logical, size, batch, **more) for s in range(logical)]
    for one in streams:
        one.set_position(epoch, done)
    return [sorted(x for part in turn for x in part) for turn in zip(*[take(s, count) for s in streams], strict=True)]


@pytest.mark.parametrize("kind", [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize(("logical", "world"), [(2, 1), (4, 2), (3, 2), (2, 3), (1, 3), (3, 4)])
def test_ranks_split_exactly_the_global_batches(kind, logical, world) -> None:
    size, batch = 48, 3
    count = size // (logical * batch)
    ranks = ranks_of(kind, logical, world, size, batch)
    for epoch, done in ((0, 0), (1, 2)):
        for rank in ranks:
            rank.set_position(epoch, done)
        mine = [take(rank, count - done) for rank in ranks]
        shared = [sorted(x for part in turn for x in part) for turn in zip(*mine, strict=True)]
        assert shared == reference(kind, logical, size, batch, count - done, epoch, done)


def test_a_micro_batch_is_one_logical_ranks_batch() -> None:
    # So that BatchNorm and normalisers of losses see the very batches that the logical rank would have.
    alone = next(iter(ranks_of(DefaultSampler, 3, 1, 30, 4)[0]))
    for slot in range(3):
        assert alone[slot::3] == next(iter(stream(DefaultSampler, slot, 3, 30, 4)))


def test_weights_make_the_mean_over_ranks_the_mean_over_logical_ranks() -> None:
    for logical, world in ((4, 1), (4, 2), (3, 2), (5, 3)):
        shares = [rank.micro_batch_weights(0) for rank in ranks_of(DefaultSampler, logical, world, 60, 2)]
        # DDP divides the sum over ranks by their number; each logical rank's mean loss must count 1 / logical.
        assert all(weight / world == pytest.approx(1 / logical) for share in shares for weight in share)
        assert sum(map(len, shares)) == logical


def test_more_ranks_than_logical_ranks_weigh_by_samples_also_in_the_last_batch() -> None:
    ranks = ranks_of(DefaultSampler, 2, 3, 10, 2)  # iterations of 4, 4 and 2 samples
    batches = [list(rank) for rank in ranks]
    for i, total in enumerate((4, 4, 2)):
        counts = [round(rank.micro_batch_weights(i)[0] * total / 3) for rank in ranks]
        assert counts == {4: [2, 1, 1], 2: [1, 1, 0]}[total]
        # The idle rank takes part with a sample of weight 0.
        assert [len(own[i]) for own in batches] == [max(n, 1) for n in counts]


def test_length_does_not_depend_on_the_number_of_ranks() -> None:
    for world in (1, 2, 3, 4):
        for rank in ranks_of(DefaultSampler, 3, world, 31, 2):
            assert len(rank) == len(list(rank)) == 6
            assert rank.global_batch_size == 6
