"""A few real processes joined by gloo, for tests of what happens between ranks."""

import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


def run_ranks(function: Callable[..., Any], world: int, *args: Any, timeout_s: float = 120) -> list[Any]:
    """Call ``function(*args)`` in ``world`` processes that form one process group.

    Args:
        function: A module-level function; it asks ``raydet3d.dist`` for its rank.
        world: Number of processes.
        args: Picklable arguments, the same for all.
        timeout_s: How long they may take together.

    Returns:
        What each rank returned, in rank order.

    Raises:
        RuntimeError: A rank raised or died; the message holds its trace.
        TimeoutError: They did not finish in time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed"])
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder, "store"))
        ends: list[Connection] = []
        processes = []
        try:
            for rank in range(world):
                here, there = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work, args=(function, rank, world, store, there, args, timeout_s), daemon=True
                )
                process.start()
                there.close()
                ends.append(here)
                processes.append(process)
            return _collect(ends, time.monotonic() + timeout_s)
        finally:
            for process in processes:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()
                    process.join()


def _collect(ends: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(ends):
        ready = wait([end for rank, end in enumerate(ends) if rank not in results], deadline - time.monotonic())
        if not ready:
            raise TimeoutError(f"ranks {sorted(set(range(len(ends))) - set(results))} did not finish")
        for end in ready:
            rank = ends.index(end)  # type: ignore[arg-type]
            try:
                done, value = pickle.loads(end.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                raise RuntimeError(f"rank {rank} died without a word") from None
            if not done:
                raise RuntimeError(f"rank {rank} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(ends))]


def _work(
    function: Callable[..., Any],
    rank: int,
    world: int,
    store: str,
    end: Connection,
    args: tuple[Any, ...],
    timeout_s: float,
) -> None:
    import torch
    import torch.distributed as torch_dist

    torch.set_num_threads(1)
    try:
        torch_dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s)
        )
        answer = (True, function(*args))
    except Exception:  # noqa: BLE001 - whatever it is, the test wants to read it
        answer = (False, traceback.format_exc())
    end.send_bytes(pickle.dumps(answer))
    if torch_dist.is_initialized() and answer[0]:
        torch_dist.destroy_process_group()
