"""A Ray to work on: joined where one is named, started on this machine where none is, and looked over before use."""

from __future__ import annotations

import logging
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from raydet3d.config import is_uri
from raydet3d.errors import InputError
from raydet3d.launch import preflight
from raydet3d.launch.capacity import read_nodes, workers_on
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.signals import detached_children


@dataclass(frozen=True)
class ClusterHandle:
    """A cluster that was found fit for a run.

    Args:
        options: What the run asks for, without open values.
        where: What to call the cluster in messages.
        wait_s: How long to wait for resources that are to come.
        cpus: CPUs of the cluster.
        is_ours: Whether this process started it, and ends it.
    """

    options: RayOptions
    where: str
    wait_s: float
    cpus: int
    is_ours: bool

    def close(self) -> None:
        """End what this process has started."""
        if self.is_ours:
            ray.shutdown()


def connect(options: RayOptions, work_dir: Path | str) -> ClusterHandle:
    """Join or start a cluster, and check that the run can work there.

    Args:
        options: What the run asks for.
        work_dir: The run's folder, or a URI.

    Raises:
        InputError: The cluster lacks what was asked for, does not see the work dir, or wants a token.
    """
    where, is_ours = _connect(options)
    try:
        options, wait_s = preflight.check_resources(options, where=where)
        hosts = [node for node in read_nodes() if workers_on(node.total, node.labels, options) > 0]
        if not is_uri(str(work_dir)):
            preflight.check_seen_by_nodes(Path(work_dir), hosts)
    except BaseException:
        if is_ours:
            ray.shutdown()
        raise
    return ClusterHandle(options, where, wait_s, int(ray.cluster_resources().get("CPU", 0)), is_ours)


def _connect(options: RayOptions) -> tuple[str, bool]:
    """Be on a cluster; what to call it, and whether we have joined or started it."""
    if ray.is_initialized():
        return "the cluster", False
    address = os.environ.get("RAY_ADDRESS")
    logging.getLogger("ray._private.worker").addFilter(_about_threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if not address:
            with known_address(), detached_children():
                ray.init(address="local", include_dashboard=options.dashboard, logging_level=logging.ERROR)
            return "this machine", True
        preflight.check_token()
        try:
            ray.init(logging_level=logging.WARNING)
        except (RuntimeError, ConnectionError, ray.exceptions.RayError) as error:
            if (hint := preflight.token_hint(error)) is not None:
                raise InputError(hint) from None
            if isinstance(error, ConnectionError):
                raise InputError(preflight.no_answer(address, error)) from None
            raise
    return "the cluster", True


@contextmanager
def known_address() -> Iterator[None]:
    """Let the processes of a cluster that is started know its address.

    Ray Train looks after its reservations through an address that it finds by itself. Where several clusters run on a
    machine that is another's; there it takes its own controller for dead, and ends its workers.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    names = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{port}"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _about_threads(record: logging.LogRecord) -> bool:
    """All but Ray's note that a thread cannot set signal handlers: ours are set already."""
    return "SIGTERM handler is not set" not in record.getMessage()


class ConnectThread(threading.Thread):
    """Opens the ground while the caller reads its data and imports torch: both take seconds.

    The thread lives until the ground is left: Linux ends what a thread has started (Ray's own processes ask for that)
    when the thread ends.

    Args:
        options: What the run asks for.
        work_dir: The run's folder, or a URI.
    """

    def __init__(self, options: RayOptions, work_dir: Path | str) -> None:
        super().__init__(name="ray-opening", daemon=True)
        self._options, self._work_dir = options, work_dir
        self._ground: ClusterHandle | None = None
        self._error: BaseException | None = None
        self._opened, self._left = threading.Event(), threading.Event()

    def run(self) -> None:
        """Open it, or keep what went wrong for the caller; close it when the caller leaves."""
        try:
            self._ground = connect(self._options, self._work_dir)
        except BaseException as error:  # noqa: BLE001 - raised by `wait`, in the thread that can act on it
            self._error = error
        self._opened.set()
        self._left.wait()
        if self._ground is not None:
            self._ground.close()

    def wait(self) -> ClusterHandle:
        """The ground, once it is open.

        Raises:
            InputError: It is not fit for the run.
        """
        self._opened.wait()
        if self._error is not None:
            raise self._error
        assert self._ground is not None
        return self._ground

    def close(self) -> None:
        """Leave the ground. One that is still being opened is not waited for: it ends with this process."""
        self._left.set()
        if self._opened.is_set():
            self.join()
