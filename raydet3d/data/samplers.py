"""Samplers: seeded, sharded over ranks, and able to begin at any position."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized
from itertools import islice

import torch
from torch.utils.data import Sampler

from raydet3d import dist
from raydet3d.config.type_check import NonNegativeInt, PositiveInt
from raydet3d.errors import InputError
from raydet3d.registry import DATA_SAMPLERS


def _permutation(size: int, seed: int) -> list[int]:
    generator = torch.Generator()
    generator.manual_seed(seed)
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order


class _Shared(Sampler[int]):
    """Base of the samplers: size of the data set, seed, and rank."""

    def __init__(
        self, dataset: Sized, shuffle: bool, seed: int | None, rank: int | None, world_size: int | None
    ) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        # Drawn on rank 0 and broadcast, so that all ranks use the same permutation.
        self.seed: int = dist.broadcast_object(random.SystemRandom().getrandbits(31)) if seed is None else int(seed)
        self.rank = dist.get_rank() if rank is None else rank
        self.world_size = dist.get_world_size() if world_size is None else world_size
        self.epoch = 0
        self._start = 0
        if len(dataset) == 0:
            raise InputError("the data set is empty: nothing to sample from (see its ann_file, classes and filters)")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next `iter()`, which begins at its first sample."""
        self.epoch = epoch
        self._start = 0

    def start_at(self, samples: int) -> None:
        """Let the next `iter()` skip this many samples of this rank."""
        self._start = samples

    def _take_start(self) -> int:
        start, self._start = self._start, 0
        return start

    def _order(self, epoch: int) -> list[int]:
        return _permutation(len(self.dataset), self.seed + epoch) if self.shuffle else list(range(len(self.dataset)))


@DATA_SAMPLERS.register_module()
class DefaultSampler(_Shared):
    """Sample one epoch: a permutation of (seed, epoch), dealt to the ranks round-robin.

    Args:
        dataset: Data set; only its length is used.
        shuffle: Whether to permute the samples.
        seed: Seed of the permutations; by default a random one, shared by all ranks.
        round_up: Repeat the first samples until all ranks have equally many; else ranks may differ in length.
        rank: This process's rank; that of torch.distributed by default.
        world_size: Number of ranks; that of torch.distributed by default.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: NonNegativeInt | None = None,
        round_up: bool = True,
        *,
        rank: NonNegativeInt | None = None,
        world_size: PositiveInt | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed, rank, world_size)
        self.round_up = round_up

    @property
    def total_size(self) -> int:
        """Return the number of samples of one epoch over all ranks, repeated ones included."""
        size = len(self.dataset)
        return -(-size // self.world_size) * self.world_size if self.round_up else size

    def __len__(self) -> int:
        """Return the number of samples of one epoch on this rank."""
        return -(-(self.total_size - self.rank) // self.world_size)

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's samples of the epoch."""
        order = self._order(self.epoch)
        total = self.total_size
        order = (order * -(-total // len(order)))[:total]
        return iter(order[self.rank + self._take_start() * self.world_size : total : self.world_size])


@DATA_SAMPLERS.register_module()
class InfiniteSampler(_Shared):
    """Sample without end: one permutation of the data set after the other, dealt to the ranks round-robin.

    Pass p is a permutation of (seed, p), so any position is found by arithmetic. Every `iter()` begins at the first
    sample or where `start_at` says; `set_epoch` has no effect, and the length is the data set's.

    Args:
        dataset: Data set; only its length is used.
        shuffle: Whether to permute the samples.
        seed: Seed of the permutations; by default a random one, shared by all ranks.
        rank: This process's rank; that of torch.distributed by default.
        world_size: Number of ranks; that of torch.distributed by default.
    """

    endless = True

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: NonNegativeInt | None = None,
        *,
        rank: NonNegativeInt | None = None,
        world_size: PositiveInt | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed, rank, world_size)

    def __len__(self) -> int:
        """Return the size of the data set."""
        return len(self.dataset)

    def pass_of(self, drawn: int) -> int:
        """Return the pass over the data set of this rank's sample number `drawn`."""
        return (drawn * self.world_size + self.rank) // len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's samples, without end."""
        return self._stream(self._take_start())

    def _stream(self, drawn: int) -> Iterator[int]:
        size = len(self.dataset)
        place = drawn * self.world_size + self.rank
        while True:
            number, first = divmod(place, size)
            for index in islice(self._order(number), first, None, self.world_size):
                yield index
                place += self.world_size
