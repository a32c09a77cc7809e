"""Seed the generators of each sample from (seed, epoch, index), with indices that carry their epoch.

The augmentation of a sample therefore depends on nothing else: not on the number of loader workers, nor on the number
of ranks, nor on where a run was stopped and resumed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from itertools import islice
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.utils.data import BatchSampler, Dataset, Sampler, get_worker_info

from raydet3d import compat

EpochIndex = tuple[int, int]

_EPOCH: ContextVar[int] = ContextVar("epoch", default=0)
_MASK_64 = (1 << 64) - 1


def current_epoch() -> int:
    """Return the epoch of the sample being loaded, counted from 0; 0 outside of a `SeededDataset`."""
    return _EPOCH.get()


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Hash (seed, epoch, index) to 64 bits.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    state = seed & _MASK_64
    for value in (epoch, index):
        state = (state + (value + 1) * 0x9E3779B97F4A7C15) & _MASK_64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK_64
        state ^= state >> 31
    return state


def seed_generators(state: int) -> None:
    """Seed the global generators of numpy, Python and torch's CPU from 64 bits.

    `torch.manual_seed` would also queue a call for every GPU, and numpy's and Python's long seeds cost several times
    their short ones: this takes about 8 microseconds.
    """
    np.random.seed(state & 0xFFFFFFFF)
    random.seed(state >> 32)
    # Not the bits that numpy got: two generators of one kind must not run in step.
    torch.default_generator.manual_seed(state ^ 0x5851F42D4C957F2D)


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Seed the global generators from a run's seed inside of the block, and restore their state after it."""
    with _generators_restored():
        seed_generators(sample_seed(seed, 0, 0))
        yield


class MapDataset(Protocol):
    """A map-style data set."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Return a sample."""


class DatasetProxy(Dataset[Any]):
    """Wrap a data set: attributes other than the wrapper's own are read from and set on the wrapped one.

    Args:
        dataset: Data set to wrap.
    """

    own: ClassVar[tuple[str, ...]] = ("dataset",)

    def __init__(self, dataset: MapDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Private names end here: unpickling looks for some before `dataset` is there.
        if name.startswith("_") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_") or name in self.own:
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)


class SeededDataset(DatasetProxy):
    """Wrap a loader's data set: take (epoch, index), seed the generators, return sample `index`.

    Hooks find the data set's `metainfo` and may replace its `pipeline`; `isinstance` sees the data set's class. A plain
    integer index is passed on without seeding.

    Args:
        dataset: A map-style data set; it receives plain integers.
        seed: The run's seed.
    """

    own = ("dataset", "seed")

    def __init__(self, dataset: MapDataset, seed: int) -> None:
        super().__init__(dataset)
        self.seed = int(seed)

    @property
    def __class__(self) -> Any:
        """The class of the wrapped data set."""
        return type(self.dataset) if "dataset" in vars(self) else type(self)

    @__class__.setter
    def __class__(self, kind: object) -> None:
        raise TypeError("the class of a wrapped data set cannot be set")

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader worker must import the plug-ins before it unpickles objects of their classes.
        return _new_instance, (compat.plugin_state(), type(self)), dict(vars(self))

    def __getitem__(self, item: EpochIndex | int) -> Any:
        """Load the sample of an (epoch, index) pair."""
        if not isinstance(item, tuple):
            return self.dataset[item]
        epoch, index = item
        # A loader worker has its own generators; in the training process their state is restored afterwards.
        with nullcontext() if get_worker_info() is not None else _generators_restored():
            token = _EPOCH.set(epoch)
            try:
                seed_generators(sample_seed(self.seed, epoch, index))
                return self.dataset[index]
            except Exception as error:
                error.add_note(f"(while loading sample {index} of epoch {epoch})")
                raise
            finally:
                _EPOCH.reset(token)


class EpochBatchSampler(Sampler[list[EpochIndex]]):
    """Wrap a loader's batch sampler: yield lists of (epoch, index), beginning at any batch.

    The epoch is the one given to `set_position`; an endless sampler (`endless = True`) counts its passes over the data
    set instead. Skipping batches costs arithmetic with our samplers; with a user's it costs index lists, no data.

    Args:
        batch_sampler: Yields lists of plain indices.
        sampler: The sampler that it draws from, or None. `set_epoch` of both is called where they have it.
    """

    def __init__(self, batch_sampler: Iterable[list[int]], sampler: Iterable[int] | None) -> None:
        self.batch_sampler = batch_sampler
        self.sampler: Any = sampler
        self.batch_size: int = getattr(batch_sampler, "batch_size", 1)
        self.drop_last: bool = getattr(batch_sampler, "drop_last", False)
        self._epoch = 0
        self._done = 0

    def __len__(self) -> int:
        if not isinstance(self.batch_sampler, Sized):
            raise TypeError(f"{type(self.batch_sampler).__name__} has no length")
        return len(self.batch_sampler)

    def set_position(self, epoch: int, batches_done: int = 0) -> None:
        """Set where every following `iter()` begins.

        Args:
            epoch: Epoch, counted from 0.
            batches_done: Batches already used of this epoch (of the whole run, with an endless sampler).
        """
        self._epoch, self._done = int(epoch), int(batches_done)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        # Read the position now, not at the first batch, which loaders request at any later time. It is kept for further
        # calls, because a loader with persistent workers calls `iter()` twice when it starts.
        epoch, done = self._epoch, self._done
        for part in (self.batch_sampler, self.sampler):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        skip = done
        # Only torch's BatchSampler is known to cut the sampler's stream into consecutive groups of batch_size.
        if done and type(self.batch_sampler) is BatchSampler and hasattr(self.sampler, "start_at"):
            self.sampler.start_at(done * self.batch_size)
            skip = 0
        batches = islice(iter(self.batch_sampler), skip, None)
        if getattr(self.sampler, "endless", False):
            return self._count_passes(batches, done * self.batch_size)
        return ([(epoch, index) for index in batch] for batch in batches)

    def _count_passes(self, batches: Iterator[list[int]], drawn: int) -> Iterator[list[EpochIndex]]:
        for batch in batches:
            yield [(self.sampler.pass_of(drawn + i), index) for i, index in enumerate(batch)]
            drawn += len(batch)


def _new_instance(_plugins: compat.PluginState | None, kind: type[SeededDataset]) -> SeededDataset:
    return kind.__new__(kind)


@contextmanager
def _generators_restored() -> Iterator[None]:
    """Restore the states of the global generators at the end."""
    states = np.random.get_state(legacy=False), random.getstate(), torch.default_generator.get_state()
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.default_generator.set_state(states[2])
