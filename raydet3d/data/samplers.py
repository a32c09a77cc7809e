"""Samplers: which rank sees which sample, in which order. Seeded, sharded, and able to begin anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized
from itertools import islice

import torch
from torch.utils.data import Sampler

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.registry import DATA_SAMPLERS


def _permutation(size: int, seed: int) -> list[int]:
    generator = torch.Generator()
    generator.manual_seed(seed)
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order


class _Shared(Sampler[int]):
    """What both samplers know: the data set's size, the seed, and this rank's place."""

    def __init__(
        self, dataset: Sized, shuffle: bool, seed: int | None, rank: int | None, world_size: int | None
    ) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        # Drawn once and told to every rank, so that all walk the same permutation.
        self.seed: int = dist.broadcast_object(random.SystemRandom().getrandbits(31)) if seed is None else int(seed)
        self.rank = dist.get_rank() if rank is None else rank
        self.world_size = dist.get_world_size() if world_size is None else world_size
        self.epoch = 0
        self._start = 0
        if len(dataset) == 0:
            raise InputError("the data set is empty: nothing to sample from (see its ann_file, classes and filters)")

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch that the next `iter()` walks through, from its beginning."""
        self.epoch = epoch
        self._start = 0

    def start_at(self, samples: int) -> None:
        """Let the next `iter()` begin after this many samples of this rank."""
        self._start = samples

    def _take_start(self) -> int:
        start, self._start = self._start, 0
        return start

    def _order(self, epoch: int) -> list[int]:
        return _permutation(len(self.dataset), self.seed + epoch) if self.shuffle else list(range(len(self.dataset)))


@DATA_SAMPLERS.register_module()
class DefaultSampler(_Shared):
    """One epoch of the data set: a permutation of (seed, epoch), dealt out to the ranks in turn.

    Args:
        dataset: What is sampled from; only its length matters.
        shuffle: False keeps the data set's order.
        seed: Seed of the permutations; by default a random one that all ranks share.
        round_up: Repeat the first samples until every rank has equally many. False leaves ranks of unequal length.
        rank: This process's rank; asked from torch.distributed by default.
        world_size: Number of ranks; likewise.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed, rank, world_size)
        self.round_up = round_up

    @property
    def total_size(self) -> int:
        """Samples of one epoch over all ranks, repeated ones included."""
        size = len(self.dataset)
        return -(-size // self.world_size) * self.world_size if self.round_up else size

    def __len__(self) -> int:
        """Samples of one epoch on this rank."""
        return -(-(self.total_size - self.rank) // self.world_size)

    def __iter__(self) -> Iterator[int]:
        """This rank's share of the epoch that `set_epoch` named."""
        order = self._order(self.epoch)
        total = self.total_size
        order = (order * -(-total // len(order)))[:total]
        return iter(order[self.rank + self._take_start() * self.world_size : total : self.world_size])


@DATA_SAMPLERS.register_module()
class InfiniteSampler(_Shared):
    """A stream without end: one permutation of the data set after the other, dealt out to the ranks in turn.

    Pass p is a permutation of (seed, p), so any place in the stream is found by arithmetic. Every `iter()` begins at
    the stream's beginning, or where `start_at` says; `set_epoch` changes nothing, and the length is the data set's.

    Args:
        dataset: What is sampled from; only its length matters.
        shuffle: False keeps the data set's order.
        seed: Seed of the permutations; by default a random one that all ranks share.
        rank: This process's rank; asked from torch.distributed by default.
        world_size: Number of ranks; likewise.
    """

    endless = True

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed, rank, world_size)

    def __len__(self) -> int:
        """Size of the data set."""
        return len(self.dataset)

    def pass_of(self, drawn: int) -> int:
        """The pass over the data set that this rank's sample number `drawn` belongs to."""
        return (drawn * self.world_size + self.rank) // len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        """This rank's share of the stream."""
        return self._stream(self._take_start())

    def _stream(self, drawn: int) -> Iterator[int]:
        size = len(self.dataset)
        place = drawn * self.world_size + self.rank
        while True:
            number, first = divmod(place, size)
            for index in islice(self._order(number), first, None, self.world_size):
                yield index
                place += self.world_size
