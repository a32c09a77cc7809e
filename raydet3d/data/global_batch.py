"""Batches of an iteration that do not depend on how many ranks are running.

A run is configured for a number of logical ranks (the workers it was laid out for). One iteration is one batch of each
logical rank, together the *global batch*. With as many ranks, each draws its own batch. Fewer ranks draw the batches of
several logical ranks each and train on them one after the other; more ranks split the global batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from torch.utils.data import Sampler

from raydet3d.data.seeded import EpochBatchSampler, EpochIndex


class ElasticBatchSampler(Sampler[list[EpochIndex]]):
    """Yield a rank's share of each global batch, in the order of the data.

    Args:
        streams: The batch samplers of all logical ranks, in order.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(self, streams: Sequence[EpochBatchSampler], *, rank: int, world_size: int) -> None:
        self.num_logical_ranks = len(streams)
        self.rank, self.world_size = rank, world_size
        self.batch_size = streams[0].batch_size
        self.global_batch_size = self.num_logical_ranks * self.batch_size
        self.sampler = streams[0].sampler
        self._endless = bool(getattr(self.sampler, "endless", False))
        self._splits = world_size > self.num_logical_ranks
        self._num_samples = 0 if self._endless else sum(len(stream.sampler) for stream in streams)
        self._length = len(streams[0])
        self._streams = list(streams if self._splits else streams[rank::world_size])

    def __len__(self) -> int:
        return self._length

    def set_position(self, epoch: int, batches_done: int = 0) -> None:
        """Set where every following `iter()` begins.

        Args:
            epoch: Epoch, counted from 0.
            batches_done: Finished iterations of this epoch (of the whole run, with an endless sampler).
        """
        for stream in self._streams:
            stream.set_position(epoch, batches_done)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        for batches in zip_longest(*self._streams, fillvalue=()):
            # Samples are dealt to logical ranks round-robin, so taking them round-robin restores the order of the data.
            rounds = zip_longest(*batches)
            merged = [item for one_round in rounds for item in one_round if item is not None]
            # A rank without a sample of its own takes part with one whose loss has weight 0.
            yield (merged[self.rank :: self.world_size] or merged[:1]) if self._splits else merged

    def micro_batch_weights(self, batch: int) -> list[float]:
        """Weight the losses of this rank's micro-batches so that the mean over ranks is the global batch's mean.

        Args:
            batch: Number of the iteration within its pass over the data, from 0.

        Returns:
            One weight for each micro-batch; micro-batch k holds every len(weights)-th sample, from the k-th on.
        """
        if not self._splits:
            return [self.world_size / self.num_logical_ranks] * len(self._streams)
        size = self.global_batch_size
        if not self._endless:
            size = min(size, self._num_samples - batch * size)
        return [len(range(self.rank, size, self.world_size)) * self.world_size / size]
