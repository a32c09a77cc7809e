"""Predict on files with a pool of Ray actors.

Clouds and predictions never travel through Ray: a worker reads a file where it lies and writes its results where they
belong. So the memory of driver and object store does not grow with the number of files.

Not by Ray Data: its pool tries the files of a worker that died again without end (the options that bound it are
deprecated and will go), or drops all files of a block, so that a cloud that kills its process could not be named.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import ray

from raydet3d.launch.failures import describe_failure
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.worker import enter_process
from raydet3d.runtime.infer_files import CloudFile, FileInferencer, InferJob, Outcome

if TYPE_CHECKING:
    from ray.actor import ActorHandle

BATCHES_IN_CALL = 4
POLL_S = 1.0  # a signal is handled between two waits
Files: TypeAlias = Sequence[CloudFile]


class InferWorker:
    """A worker of the pool.

    Args:
        job: What to predict with and what to write.
    """

    def __init__(self, job: InferJob) -> None:
        enter_process(job.cwd, job.modules, job.threads)
        self._inferencer = FileInferencer(job)

    def ready(self) -> None:
        """Do nothing; returns once the model is loaded."""

    def run(self, files: Files) -> list[Outcome]:
        """Predict on files and write their results."""
        return self._inferencer.run(files)


class InferPool:
    """Workers, and the files that each is predicting on.

    A worker whose process dies is replaced. Its files are tried again one by one; one with which that happens more than
    `ray.max_failures` times has failed.

    Args:
        job: What to predict with and what to write.
        files: The files.
        options: What the workers ask of Ray, without open values.
    """

    def __init__(self, job: InferJob, files: Files, options: RayOptions) -> None:
        size = min(BATCHES_IN_CALL * job.batch_size, -(-len(files) // (4 * options.max_workers)))  # all end together
        self._calls = deque(files[start : start + size] for start in range(0, len(files), max(size, 1)))
        self._max_failures = options.max_failures
        self._num_workers = min(options.max_workers, len(self._calls))
        bundle = dict(options.bundle)
        self._actor = ray.remote(InferWorker).options(
            num_cpus=bundle.pop("CPU", 0),
            num_gpus=bundle.pop("GPU", 0),
            resources=bundle,
            accelerator_type=options.accelerator_type,
            label_selector=dict(options.label_selector) or None,
            runtime_env=options.worker_runtime_env or None,
            max_restarts=0,
        )
        self._job = ray.put(job)
        self._starting: dict[ray.ObjectRef, ActorHandle] = {}
        self._running: dict[ray.ObjectRef, tuple[ActorHandle, Files]] = {}
        self._deaths: Counter[str] = Counter()
        self._failed_starts = 0

    def run(self) -> Iterator[list[Outcome]]:
        """Predict on all files.

        Yields:
            Outcomes, as they come.

        Raises:
            RuntimeError: Workers die before they have loaded the model.
        """
        try:
            while self._calls or self._running:
                for _ in range(min(self._num_workers - self.num_workers, len(self._calls) - len(self._starting))):
                    actor = self._actor.remote(self._job)
                    self._starting[actor.ready.remote()] = actor
                done, _ = ray.wait([*self._running, *self._starting], num_returns=1, timeout=POLL_S)
                for ref in done:
                    if ref in self._starting:
                        self._take_ready(ref)
                    else:
                        yield self._take_outcomes(ref)
        finally:
            for actor in [*self._starting.values(), *(actor for actor, _ in self._running.values())]:
                ray.kill(actor)

    @property
    def num_workers(self) -> int:
        """Workers that are there or are starting."""
        return len(self._starting) + len(self._running)

    def _take_ready(self, ref: ray.ObjectRef) -> None:
        actor = self._starting.pop(ref)
        try:
            ray.get(ref)
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts > self._max_failures:
                raise RuntimeError(
                    f"workers die before they have loaded the model: {describe_failure(error)}"
                ) from error
            return
        self._failed_starts = 0
        self._give_call(actor)

    def _give_call(self, actor: ActorHandle) -> None:
        """Give a worker its next files; one without any ends when its handle goes."""
        if self._calls:
            files = self._calls.popleft()
            self._running[actor.run.remote(files)] = (actor, files)

    def _take_outcomes(self, ref: ray.ObjectRef) -> list[Outcome]:
        actor, files = self._running.pop(ref)
        try:
            outcomes: list[Outcome] = ray.get(ref)
        except ray.exceptions.RayTaskError:
            raise  # not of a cloud: the worker returns those
        except ray.exceptions.RayError as error:
            return self._take_death(files, error)
        self._give_call(actor)
        return outcomes

    def _take_death(self, files: Files, error: ray.exceptions.RayError) -> list[Outcome]:
        """Return the outcomes of files that will not be tried again; put the others back."""
        self._deaths.update(file.path for file in files)
        lost = [file for file in files if self._deaths[file.path] > self._max_failures]
        self._calls.extend([file] for file in files if file not in lost)
        return [Outcome(file.path, describe_failure(error)) for file in lost]
