"""Checks before a worker starts: folders, disk space and resources."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet3d.checkpoint.storage import probe, reason_of
from raydet3d.config import Config, is_uri
from raydet3d.errors import InputError
from raydet3d.host import num_processors
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.token_auth import check_token

if TYPE_CHECKING:
    from raydet3d.launch.capacity import Node

NODE_TIMEOUT_S = 10.0
RELEASE_S = 3.0  # what the job before held is given back a moment after it has ended
AUTOSCALER_TIMEOUT_S = 1800.0
WAIT = "wait for it with ray.resource_timeout_s=SECONDS"


def check_writable(folder: Path | str, what: str, hint: str = "choose another with --work-dir DIR") -> None:
    """Write to a folder once; a folder that this makes is removed again, so that a refused start leaves nothing.

    Args:
        folder: A path, or a URI.
        what: What messages call it.
        hint: What to do where it cannot be written to.

    Raises:
        InputError: It cannot be made or written to.
    """
    try:
        if is_uri(str(folder)):
            probe(str(folder))
        else:
            _write_once(Path(folder).absolute())
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {folder} cannot be written to ({reason_of(error)}); {hint}") from None


def check_writable_file(path: Path | str, what: str) -> None:
    """Refuse a file that cannot be written; its folder is checked as `check_writable` does.

    Args:
        path: The file.
        what: What messages call it.

    Raises:
        InputError: It is a folder, or its folder cannot be made or written to.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise InputError(f"{what} {path} is a folder; name a file")
    check_writable(path.parent, f"{what} {path}: the folder", "choose another file")


def _write_once(path: Path) -> None:
    made = [parent for parent in (path, *path.parents) if not parent.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    finally:
        for parent in made:  # innermost first; another process may use one of them by now
            with suppress(OSError):
                parent.rmdir()


def check_output_folders(cfg: Mapping[str, Any]) -> None:
    """Write once to every folder that a run of a config will write to.

    Raises:
        InputError: One of them cannot be made or written to.
    """
    check_writable(cfg["work_dir"], "work_dir")
    default = cfg.get("default_hooks") or {}
    custom = cfg.get("custom_hooks") or ()
    named = [(f"default_hooks.{name}.out_dir", hook) for name, hook in default.items()]
    named += [(f"custom_hooks.{i}.out_dir", hook) for i, hook in enumerate(custom)]
    for key, hook in named:
        folder = hook.get("out_dir") if isinstance(hook, Mapping) else None
        if isinstance(folder, str | Path) and str(folder):
            check_writable(folder, key, "choose another, or leave it out")


def check_room_on_disk(work_dir: Path, num_bytes: int) -> None:
    """Check that two checkpoints have room: one that is written, and the one that it replaces.

    Args:
        work_dir: Where they go.
        num_bytes: Size of one; 0 if unknown.

    Raises:
        InputError: They do not.
    """
    free = shutil.disk_usage(work_dir).free
    if free < 2 * num_bytes:
        raise InputError(
            f"work_dir {work_dir} has {_size(free)} free, two checkpoints need about {_size(2 * num_bytes)}; "
            "make room there or choose another with --work-dir DIR"
        )


def checkpoint_size(cfg: Config) -> int:
    """Estimate the bytes of a checkpoint: weights and two moments of each; 0 where the model cannot be built here."""
    import torch

    from raydet3d.runtime.build import build_model

    try:
        with torch.device("meta"):
            model = build_model(cfg)
    except Exception:  # noqa: BLE001 - a model of the user's may need more than this; its worker will say what is wrong
        return 0
    return 3 * sum(item.numel() * item.element_size() for item in model.parameters())


def check_seen_by_nodes(
    folder: Path, nodes: list[Node], *, what: str = "work_dir", flag: str = "--work-dir DIR"
) -> None:
    """Check that every node that a worker may run on sees a folder and may write to it.

    Args:
        folder: The folder.
        nodes: The nodes.
        what: Name of the folder, for messages.
        flag: The argument that names another folder, for messages.

    Raises:
        InputError: A node does not see it, or may not write to it.
    """
    if len(nodes) < 2:
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = folder / f".seen-{uuid.uuid4().hex}"
    token.write_text(token.name)
    visit = ray.remote(num_cpus=0, max_retries=0)(_visit)
    try:
        pending = {
            visit.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                str(token)
            ): node
            for node in nodes
        }
        done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=NODE_TIMEOUT_S)
        for ref in done:
            try:
                wrong = ray.get(ref)
            except ray.exceptions.RayError as error:
                wrong = f"could not be asked ({type(error).__name__})"
            if wrong:
                raise InputError(
                    f"{what} {folder} on node {pending[ref].address} {wrong}; put it on storage that all nodes "
                    f"share (NFS, Lustre, EFS, Filestore) with {flag}"
                )
    finally:
        token.unlink(missing_ok=True)


def _visit(token: str) -> str | None:
    """Return what is wrong with the work dir on this node."""
    path = Path(token)
    try:
        seen = path.read_text()
    except OSError as error:
        return f"is not the one that was written to here ({error.strerror})"
    if seen != path.name:
        return "is not the one that was written to here"
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return None
    except OSError as error:
        return f"cannot be written to ({error.strerror})"


# ------------------------------------------------------------------------------------------------------- resources


def resolve_options(options: RayOptions, resources: Mapping[str, float], *, where: str) -> RayOptions:
    """Fill in open values and compare with the totals of a cluster.

    Args:
        options: What the run asks for.
        resources: Totals of the cluster, as `ray.cluster_resources()` gives them.
        where: What to call the cluster in messages ("this machine", "the cluster").

    Returns:
        Options without open values.

    Raises:
        InputError: More was asked for than there is.
    """
    options = fill_open_values(options, resources)
    if (shortage := _find_shortage(options, resources, resources, where)) is not None:
        raise InputError(shortage)
    return options


def fill_open_values(options: RayOptions, resources: Mapping[str, float]) -> RayOptions:
    """Fill in open values: a worker for each GPU, or one."""
    gpus = resources.get("GPU", 0)
    each = options.gpus_per_worker
    if each is None:
        each = 1 if gpus else 0
    workers = options.num_workers
    if workers is None:
        workers = max(int(gpus / each), 1) if each else 1
    return replace(options, num_workers=workers, gpus_per_worker=each)


def _find_shortage(
    options: RayOptions, total: Mapping[str, float], free: Mapping[str, float], where: str
) -> str | None:
    """Say which resource there is too little of, in all or free of others, and what to do; None if there is enough."""
    workers = options.min_workers
    for have, is_free in ((total, False), (free, True)):
        for name, each in sorted(options.bundle.items(), key=lambda item: item[0] != "GPU"):
            there, held = have.get(name, 0), total.get(name, 0) - free.get(name, 0)
            if workers * each <= there + 1e-6:
                continue
            fits = int(there / each + 1e-6)
            key = f"{name.lower()}s_per_worker" if name in ("CPU", "GPU") else "resources_per_worker"
            return (
                f"asked for {workers} workers with {each:g} {name} each ({workers * each:g} {name}s), "
                f"{where} has {there:g}{f' free, others hold {held:g}' if is_free else ''}; "
                f"use --workers {fits or '0 (this process, no Ray)'} or a smaller ray.{key}"
                f"{f', or {WAIT}' if is_free else ''}"
            )
    return None


def check_resources(options: RayOptions, *, where: str) -> tuple[RayOptions, float]:
    """Compare what is asked for with what is free, and with what an autoscaler may add.

    Args:
        options: What the run asks for.
        where: What to call the cluster in messages.

    Returns:
        Options without open values, and how long to wait for resources to come.

    Raises:
        InputError: They are not available, and no autoscaler can add them.
    """
    import ray

    from raydet3d.launch import capacity

    totals: dict[str, float] = ray.cluster_resources()
    for resources, _, count in capacity.groups_of_autoscaler():
        if count:
            totals = {"GPU": resources.get("GPU", 0), **totals}
    options = fill_open_values(options, totals)
    asked = options.min_workers
    deadline = time.monotonic() + RELEASE_S
    while True:
        nodes = capacity.read_nodes()
        fits = capacity.max_placeable_workers(options, nodes)
        if fits >= asked:
            return options, options.resource_timeout_s or 0.0
        if time.monotonic() >= deadline or capacity.max_placeable_workers(options, nodes, occupied=True) < asked:
            break
        time.sleep(0.2)
    to_come = capacity.max_workers_after_autoscaling(options, nodes)
    if to_come >= asked:
        return options, AUTOSCALER_TIMEOUT_S if options.resource_timeout_s is None else options.resource_timeout_s
    if options.resource_timeout_s:
        return options, options.resource_timeout_s
    if to_come:
        raise InputError(
            f"asked for {asked} workers with {options.bundle} each; with all that the autoscaler may add "
            f"there is room for {to_come}; use --workers {to_come}, or let it add more nodes (max_workers)"
        )
    total = {name: sum(node.total.get(name, 0) for node in nodes) for name in options.bundle}
    free = {name: sum(node.free.get(name, 0) for node in nodes) for name in options.bundle}
    if (shortage := _find_shortage(options, total, free, where)) is not None:
        raise InputError(shortage)
    wishes = [f"placement_strategy {options.placement_strategy!r}", f"{options.bundle}"]
    wishes += [f"label_selector {dict(options.label_selector)}"] if options.label_selector else []
    wishes += [f"accelerator_type {options.accelerator_type!r}"] if options.accelerator_type else []
    raise InputError(
        f"asked for {asked} workers with {', '.join(wishes)}: {where} has resources enough, but its nodes have room "
        f"for {fits} of such workers; {f'use --workers {fits}, ' if fits else ''}ask for less, or {WAIT}"
    )


def check_this_machine(options: RayOptions) -> None:
    """Check what needs no cluster: more workers than CPUs on this machine, no token for the cluster that is joined.

    Raises:
        InputError: This machine has fewer CPUs than was asked for (its GPUs are for Ray to count), or the cluster that
            is to be joined wants a token and there is none.
    """
    if not os.environ.get("RAY_ADDRESS"):
        resolve_options(
            replace(options, gpus_per_worker=0, resources_per_worker={}),
            {"CPU": num_processors()},
            where="this machine",
        )
    elif options.max_workers > 0:
        check_token()


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MB"
