"""Samplers, against MMEngine's rules written out: randperm of seed + epoch, padded by repetition, dealt in turn."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet3d.data.samplers import DefaultSampler, InfiniteSampler
from raydet3d.errors import InputError


def permutation(size: int, seed: int) -> list[int]:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()


def test_one_rank_yields_the_permutation_of_seed_plus_epoch() -> None:
    sampler = DefaultSampler(range(10), seed=3, rank=0, world_size=1)
    assert list(sampler) == permutation(10, 3)
    sampler.set_epoch(4)
    assert list(sampler) == permutation(10, 7)
    assert list(DefaultSampler(range(4), shuffle=False, rank=0, world_size=1)) == [0, 1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_ranks_share_the_data(size: int, world: int, round_up: bool) -> None:
    ranks = [DefaultSampler(range(size), seed=0, round_up=round_up, rank=r, world_size=world) for r in range(world)]
    shares = [list(sampler) for sampler in ranks]
    assert [len(sampler) for sampler in ranks] == [len(share) for share in shares]
    order = permutation(size, 0)
    if round_up:
        assert len({len(share) for share in shares}) == 1
        total = len(shares[0]) * world
        assert [shares[i % world][i // world] for i in range(total)] == (order * total)[:total]
    else:
        assert sorted(index for share in shares for index in share) == list(range(size))


@pytest.mark.parametrize("start", range(4))
def test_a_sampler_begins_anywhere(start: int) -> None:
    sampler = DefaultSampler(range(7), seed=0, rank=1, world_size=2)
    whole = list(sampler)
    sampler.start_at(start)
    assert list(sampler) == whole[start:]
    assert list(sampler) == whole, "a start holds once"


def test_a_random_seed_is_shared_by_all_ranks() -> None:
    sampler = DefaultSampler(range(100), rank=0, world_size=1)
    assert list(sampler) == list(sampler)
    assert list(DefaultSampler(range(100), rank=0, world_size=1)) != list(sampler)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(InputError, match="the data set is empty"):
        DefaultSampler([], rank=0, world_size=1)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_endless_stream_is_one_permutation_after_the_other(world: int) -> None:
    stream = [index for number in range(20) for index in permutation(5, 9 + number)]
    for rank in range(world):
        sampler = InfiniteSampler(range(5), seed=9, rank=rank, world_size=world)
        assert list(islice(sampler, 12)) == stream[rank::world][:12]
        sampler.start_at(7)
        assert list(islice(sampler, 5)) == stream[rank::world][7:12]
        assert len(sampler) == 5
        assert [sampler.pass_of(k) for k in range(12)] == [(k * world + rank) // 5 for k in range(12)]
