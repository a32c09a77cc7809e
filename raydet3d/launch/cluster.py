"""Connect to the cluster of `RAY_ADDRESS` or start one on this machine, then check what it has for a run."""

from __future__ import annotations

import logging
import os
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
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
from raydet3d.launch.token_auth import check_token, explain_refusal


@dataclass(frozen=True)
class ClusterHandle:
    """A cluster that has what a run asks for.

    Args:
        options: What the run asks for, without open values.
        where: What messages call the cluster.
        wait_s: How long to wait for resources that are to come.
        cpus: CPUs of the cluster.
        is_ours: Whether this process started it, and shuts it down.
    """

    options: RayOptions
    where: str
    wait_s: float = 0.0
    cpus: int = 0
    is_ours: bool = False

    def close(self) -> None:
        """Shut the cluster down if this process started it."""
        if self.is_ours:
            ray.shutdown()


def connect(options: RayOptions, work_dir: Path | str) -> ClusterHandle:
    """Join or start a cluster, and check that a run can work there.

    Args:
        options: What the run asks for.
        work_dir: The run's folder, or a URI.

    Raises:
        InputError: The cluster lacks what was asked for, does not see the work dir, or wants a token.
    """
    where, is_ours = join_or_start(dashboard=options.dashboard)
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


def join_or_start(
    *,
    dashboard: bool,
    workers_print: bool = True,
    num_cpus: int | None = None,
    resources: Mapping[str, float] | None = None,
) -> tuple[str, bool]:
    """Join the cluster that `RAY_ADDRESS` names, else start one on this machine.

    Args:
        dashboard: Whether one that is started has Ray's dashboard.
        workers_print: Whether output of workers is shown on this process's console.
        num_cpus: CPUs of one that is started; None: this machine's.
        resources: Further resources of one that is started.

    Returns:
        What messages call the cluster, and whether this process started it.

    Raises:
        InputError: No cluster answers at the address, or it wants a token.
    """
    if ray.is_initialized():
        return "the cluster", False
    address = os.environ.get("RAY_ADDRESS")
    logging.getLogger("ray._private.worker").addFilter(_is_not_about_threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if not address:
            with known_address(), detached_children():
                ray.init(
                    address="local",
                    include_dashboard=dashboard,
                    logging_level=logging.ERROR,
                    log_to_driver=workers_print,
                    num_cpus=num_cpus,
                    resources=dict(resources or {}) or None,
                )
            return "this machine", True
        check_token()
        try:
            ray.init(logging_level=logging.WARNING if workers_print else logging.ERROR, log_to_driver=workers_print)
        except (RuntimeError, ConnectionError, ray.exceptions.RayError) as error:
            if (explained := explain_refusal(address, error)) is not None:
                raise InputError(explained) from None
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


def _is_not_about_threads(record: logging.LogRecord) -> bool:
    """Filter Ray's note that a thread cannot set signal handlers: ours are set already."""
    return "SIGTERM handler is not set" not in record.getMessage()


class ConnectThread(threading.Thread):
    """Connects while the caller reads its data and imports torch: both take seconds.

    The thread lives until the cluster is left: Linux ends what a thread has started (Ray's own processes ask for that)
    when the thread ends.

    Args:
        options: What the run asks for.
        work_dir: The run's folder, or a URI.
    """

    def __init__(self, options: RayOptions, work_dir: Path | str) -> None:
        super().__init__(name="ray-connect", daemon=True)
        self._options, self._work_dir = options, work_dir
        self._cluster: ClusterHandle | None = None
        self._error: BaseException | None = None
        self._connected, self._left = threading.Event(), threading.Event()

    def run(self) -> None:
        """Connect, or keep the error for the caller; close the cluster when the caller leaves."""
        try:
            self._cluster = connect(self._options, self._work_dir)
        except BaseException as error:  # noqa: BLE001 - raised by `wait`, in the thread that can act on it
            self._error = error
        self._connected.set()
        self._left.wait()
        if self._cluster is not None:
            self._cluster.close()

    def wait(self) -> ClusterHandle:
        """Return the cluster, once it is connected.

        Raises:
            InputError: It is not fit for the run.
        """
        self._connected.wait()
        if self._error is not None:
            raise self._error
        assert self._cluster is not None
        return self._cluster

    def close(self) -> None:
        """Leave the cluster. One that is still connecting is not waited for: it ends with this process."""
        self._left.set()
        if self._connected.is_set():
            self.join()
