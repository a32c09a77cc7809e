"""Slots: an iteration's samples do not depend on how many ranks share them.

A run is laid out for a number of slots: the workers that it was configured for. An iteration is one batch of each slot,
together the *global batch*. Where as many ranks are there, each draws its slot's batch. Fewer ranks draw several slots'
batches each and train on them one after the other; more ranks deal the global batch out among themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from torch.utils.data import Sampler

from raydet3d.data.seeded import Stamp, StampedBatches


class SlotBatches(Sampler[list[Stamp]]):
    """A rank's share of each global batch, in the order of the data.

    Args:
        streams: The batches of each slot, all slots in order.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(self, streams: Sequence[StampedBatches], *, rank: int, world_size: int) -> None:
        self.slots = len(streams)
        self.rank, self.world_size = rank, world_size
        self.batch_size = streams[0].batch_size
        self.global_batch_size = self.slots * self.batch_size
        self.sampler = streams[0].sampler
        self._endless = bool(getattr(self.sampler, "endless", False))
        self._deals = world_size > self.slots
        self._samples = 0 if self._endless else sum(len(stream.sampler) for stream in streams)
        self._length = len(streams[0])
        self._streams = list(streams if self._deals else streams[rank::world_size])

    def __len__(self) -> int:
        return self._length

    def set_position(self, epoch: int, batches_done: int = 0) -> None:
        """Say where every `iter()` from now on begins.

        Args:
            epoch: Epoch, counted from 0.
            batches_done: Iterations of this epoch (of the whole run, with an endless sampler) that were done already.
        """
        for stream in self._streams:
            stream.set_position(epoch, batches_done)

    def __iter__(self) -> Iterator[list[Stamp]]:
        for batches in zip_longest(*self._streams, fillvalue=()):
            # Samples are dealt out to slots in turn, so taking them in turn brings back the order of the data.
            turns = zip_longest(*batches)
            merged = [stamp for turn in turns for stamp in turn if stamp is not None]
            # A rank with nothing to do takes part with a sample that counts nothing.
            yield (merged[self.rank :: self.world_size] or merged[:1]) if self._deals else merged

    def shares(self, batch: int) -> list[float]:
        """What the loss of each part of this rank's share weighs, so that the ranks' mean is the global batch's.

        Args:
            batch: Number of the iteration within its pass, from 0.

        Returns:
            A weight for each part; part k is every len(parts)-th sample, from the k-th on.
        """
        if not self._deals:
            return [self.world_size / self.slots] * len(self._streams)
        size = self.global_batch_size
        if not self._endless:
            size = min(size, self._samples - batch * size)
        return [len(range(self.rank, size, self.world_size)) * self.world_size / size]
