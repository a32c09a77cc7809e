"""What is checked before a worker starts: refuse early, and say what to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from raydet3d.config import is_uri
from raydet3d.errors import InputError
from raydet3d.launch.options import RayOptions
from raydet3d.machine import num_processors


def check_work_dir(work_dir: Path | str) -> None:
    """Make the work dir and write to it once.

    Args:
        work_dir: A path, or a URI.

    Raises:
        InputError: It cannot be made or written to.
    """
    if is_uri(str(work_dir)):
        from raydet3d.runtime.store.place import probe

        probe(str(work_dir))
        return
    work_dir = Path(work_dir)
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir):
            pass
    except OSError as error:
        raise InputError(
            f"work_dir {work_dir} cannot be written to ({error.strerror}); choose another with --work-dir DIR"
        ) from None


def settle(options: RayOptions, resources: Mapping[str, float], *, where: str) -> RayOptions:
    """Fill in what was left open and hold it against what there is.

    Args:
        options: What the run asks for.
        resources: Totals of the cluster, as ``ray.cluster_resources()`` gives them.
        where: What to call the cluster in messages ("this machine", "the cluster").

    Returns:
        Options without open values.

    Raises:
        InputError: More was asked for than there is.
    """
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    each_gpu = options.gpus_per_worker
    if each_gpu is None:
        each_gpu = 1 if gpus else 0
    workers = options.num_workers
    if workers is None:
        workers = max(int(gpus / each_gpu), 1) if each_gpu else 1
    for name, each, have in (("GPU", each_gpu, gpus), ("CPU", options.cpus_per_worker, cpus)):
        asked = workers * each
        if asked > have:
            fits = int(have / each)
            raise InputError(
                f"asked for {workers} workers with {each:g} {name} each ({asked:g} {name}s), {where} has {have:g}; "
                + (f"use --workers {fits}" if fits else "use --workers 0 (this process, no Ray)")
                + f" or a smaller ray.{name.lower()}s_per_worker"
            )
    return replace(options, num_workers=workers, gpus_per_worker=each_gpu)


def check_this_machine(options: RayOptions) -> None:
    """Where no cluster is to be joined, answer the common slip before anything is made: more workers than CPUs.

    Raises:
        InputError: This machine has fewer CPUs than was asked for. (Its GPUs are for Ray to count.)
    """
    if not os.environ.get("RAY_ADDRESS"):
        settle(replace(options, gpus_per_worker=0), {"CPU": num_processors()}, where="this machine")
