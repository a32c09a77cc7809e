"""`RunCheckpoints`: the checkpoint stores that a run writes to, and the upload of its logs."""

from __future__ import annotations

import logging
from pathlib import Path

from raydet3d import dist
from raydet3d.checkpoint.load import exists, locate
from raydet3d.checkpoint.log_upload import LogUploader
from raydet3d.checkpoint.storage import Location, ObjectStorage
from raydet3d.checkpoint.store import CheckpointStore


class RunCheckpoints:
    """The stores of one run: the work dir's, and one for each other folder that a hook saves to.

    Args:
        work_dir: Folder of the run on this machine.
        home: Where its checkpoints are kept: `work_dir`, or a URI.
        run: Name under which the first start of the run wrote its checkpoints.
        start: Timestamp of this start.
        seed: The run's seed.
        logger: Where failed writes are reported.
    """

    def __init__(
        self, work_dir: Path, home: Location, *, run: str, start: str, seed: int, logger: logging.Logger
    ) -> None:
        self.work_dir = work_dir
        self.home = home
        self.run = run
        self._start = start
        self._seed = seed
        self._logger = logger
        self.store = self._open(home)
        self._stores: dict[Location, CheckpointStore] = {work_dir: self.store}
        self._uploader: LogUploader | None = None
        if isinstance(self.store.storage, ObjectStorage) and dist.is_main_process():
            self._uploader = LogUploader(work_dir, self.store.storage, logger)
            self.store.after_write = self._uploader.push

    def _open(self, folder: Location) -> CheckpointStore:
        return CheckpointStore(
            folder, run=self.run, start=self._start, seed=self._seed, logger=self._logger, pointer_dir=self.home
        )

    @property
    def stores(self) -> list[CheckpointStore]:
        """The stores that this run has saved to, the work dir's first."""
        return list(self._stores.values())

    def store_in(self, folder: Location) -> CheckpointStore:
        """Return the store of a folder."""
        folder = self.work_dir if folder == self.home else folder
        if folder not in self._stores:
            self._stores[folder] = self._open(folder)
        return self._stores[folder]

    def begin(self) -> None:
        """Remove unfinished files of earlier starts, and fetch the logs that lie beside the checkpoints."""
        self.store.clean_up()
        if self._uploader is not None:
            self._uploader.pull()

    def push_logs(self) -> None:
        """Copy logs and pictures to the work dir, where that is not on this machine."""
        if self._uploader is not None:
            self._uploader.push()

    def drain(self) -> None:
        """Wait for what is being written."""
        for store in self._stores.values():
            store.drain()

    def finish(self) -> None:
        """Wait for what is being written; all ranks fail together if no checkpoint could be kept.

        Raises:
            RuntimeError: Checkpoints were to be kept, and none could be written.
        """
        self.drain()
        lost = [store.failure for store in self._stores.values() if store.failure and not store.has_own()]
        failure = dist.broadcast_object(lost[0] if lost else None)
        if failure:
            raise RuntimeError(failure)

    def not_kept(self) -> dict[str, str]:
        """Return the checkpoints that this start could not write, with the reasons; every rank calls it."""
        lost: dict[str, str] = {name: why for store in self._stores.values() for name, why in store.lost.items()}
        told: dict[str, str] = dist.broadcast_object(lost)
        return told

    def existing(self, best: str | None, last: str | None) -> tuple[str | None, str | None]:
        """Return the best and the last checkpoint as far as they exist; every rank calls it."""
        return dist.on_rank0(lambda: self._existing(best, last))

    def _existing(self, best: str | None, last: str | None) -> tuple[str | None, str | None]:
        if last is not None and not exists(locate(last)):
            newest = self.store_in(locate(last.rpartition("/")[0])).newest_own()
            self._logger.error("the last checkpoint %s was not written; the newest one is %s", last, newest)
            last = None if newest is None else str(newest)
        if best is not None and not exists(locate(best)):
            self._logger.error("the best checkpoint %s does not exist", best)
            best = None
        return best, last
