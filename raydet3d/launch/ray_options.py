"""`ray=dict(...)` of a config: the number of workers, their resources, and what happens when one is lost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Gt

from raydet3d.config.type_check import (
    SECRET,
    NonEmptyStr,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check_value,
    read_section,
)
from raydet3d.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """What a run asks of Ray: the schema of `ray=dict(...)`.

    Args:
        num_workers: Training processes; a range, `(1, 3)` or `'1-3'`, for as many as there is room for at the
            time. None: one for each GPU of the cluster, or one where there is none.
        batch_workers: How many workers' batches make an iteration, however many are there. None: as many as when the
            run began; with a range, its upper end.
        cpus_per_worker: CPUs that each worker reserves.
        gpus_per_worker: GPUs that each worker reserves. None: 1 where the cluster has any, else 0.
        resources_per_worker: Further resources of the cluster's own making that each worker reserves.
        accelerator_type: Kind of GPU, as Ray calls it (`'A100'`, `'H100'`, `'L4'`).
        label_selector: Labels that a worker's node must have, `{'region': 'us-west1'}`.
        placement_strategy: PACK (few nodes), SPREAD (many), STRICT_PACK (one node), STRICT_SPREAD (a node each).
        threads_per_worker: Torch threads of each worker. Part of exactness: the same number gives the same bits.
        env_vars: Environment variables of the workers.
        runtime_env: Ray's runtime environment of the workers, where env_vars are not enough.
        max_failures: How often a run whose worker, node or controller died is started again from its newest
            checkpoint. Drained nodes and other sizes do not count.
        storage: Folder for Ray's own small files, which get one of their own in it. None: `.ray` in the work dir.
        resource_timeout_s: How long to wait for resources that are not there. None: not at all at the beginning
            (but half an hour for an autoscaler), and 10 minutes after a node was lost.
        start_timeout_s: How long workers may take to be placed once there is room for them. None: 60, and 20 with a
            range; twice the last measured start where that is longer.
        collective_timeout_s: How long a rank waits for the others in one exchange.
        hang_timeout_s: A run without any progress for so long writes every rank's stack and is started again. 0: never.
        resize_interval_s: With a range, how often to look for room for more workers.
        drain_poll_s: How often to check whether a node is being drained.
        straggler_ratio: A worker that takes so many times as long as the others is named in the log.
        time_limit_s: Save, stop and exit with 75 after so long. 0: never.
        dashboard: Whether a cluster that this run starts by itself has Ray's dashboard. Without it Ray cannot look
            after its workers' reservations, and says so every second.
    """

    num_workers: NonNegativeInt | tuple[PositiveInt, PositiveInt] | None = None
    batch_workers: PositiveInt | None = None
    cpus_per_worker: NonNegativeFloat = 1
    gpus_per_worker: NonNegativeFloat | None = None
    resources_per_worker: Mapping[str, NonNegativeFloat] = field(default_factory=dict)
    accelerator_type: NonEmptyStr | None = None
    label_selector: Mapping[str, str] = field(default_factory=dict)
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    threads_per_worker: PositiveInt = 1
    env_vars: Annotated[Mapping[str, str], SECRET] = field(default_factory=dict)
    runtime_env: Annotated[Mapping[str, Any], SECRET] = field(default_factory=dict)
    max_failures: NonNegativeInt = 3
    storage: NonEmptyStr | None = None
    resource_timeout_s: NonNegativeFloat | None = None
    start_timeout_s: NonNegativeFloat | None = None
    collective_timeout_s: PositiveFloat = 1800
    hang_timeout_s: NonNegativeFloat = 600
    resize_interval_s: PositiveFloat = 30
    drain_poll_s: PositiveFloat = 5
    straggler_ratio: Annotated[float, Gt(1)] = 1.5
    time_limit_s: NonNegativeFloat = 0
    dashboard: bool = True

    @classmethod
    def from_config(cls, ray: Mapping[str, Any] | None, *, workers: int | str | None = None) -> RayOptions:
        """Read the config's `ray` dict.

        Args:
            ray: The dict, or None where the config has none.
            workers: The command's `--workers`, which overrides `ray.num_workers`.

        Raises:
            InputError: An unknown key, or a value of the wrong kind.
        """
        check_value(Mapping[str, Any], ray or {}, "ray")
        given = dict(ray or {})
        if workers is not None:
            given["num_workers"] = workers
        if "num_workers" in given:
            given["num_workers"] = read_workers(given["num_workers"], "--workers" if workers is not None else None)
        return read_section(cls, given, "ray")

    @property
    def min_workers(self) -> int:
        """The least number of workers that a run starts with."""
        workers = 1 if self.num_workers is None else self.num_workers
        return workers if isinstance(workers, int) else workers[0]

    @property
    def max_workers(self) -> int:
        """The greatest number of workers."""
        workers = 1 if self.num_workers is None else self.num_workers
        return workers if isinstance(workers, int) else workers[1]

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change during the run."""
        return self.min_workers < self.max_workers

    @property
    def resolved_batch_workers(self) -> int | None:
        """How many workers' batches make an iteration, or None for as many as the run begins with."""
        return self.batch_workers or (self.max_workers if self.is_elastic else None)

    @property
    def bundle(self) -> dict[str, float]:
        """The resources that one worker reserves."""
        out = {"CPU": float(self.cpus_per_worker), "GPU": float(self.gpus_per_worker or 0)}
        return {name: value for name, value in {**out, **self.resources_per_worker}.items() if value}

    @property
    def worker_runtime_env(self) -> dict[str, Any]:
        """The runtime environment of a worker: `runtime_env` with `env_vars`."""
        env = dict(self.runtime_env)
        if self.env_vars:
            env["env_vars"] = {**env.get("env_vars", {}), **self.env_vars}
        return env

    @property
    def placement_timeout_s(self) -> float:
        """Seconds in which workers must be placed, before any start was measured."""
        return self.start_timeout_s if self.start_timeout_s is not None else 20.0 if self.is_elastic else 60.0


def read_workers(value: int | str | Sequence[int] | None, key: str | None = None) -> int | str | Sequence[int] | None:
    """Read a number of workers, or a range of them, from a config or a flag; other things stay as they are.

    Args:
        value: `4`, `'4'` (flags only), `'1-3'`, `(1, 3)` or None.
        key: The flag, for messages.

    Raises:
        InputError: A range that is none.
    """
    name = key or "ray.num_workers"
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+)\s*(?:(?:-|\.\.)\s*(\d+)\s*)?", value)
        if found is None or (found[2] is None and key is None):
            raise InputError(f"{name} must be an integer of at least 0 or a range such as '1-3', got {value!r}")
        value = int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
    if isinstance(value, list | tuple):
        pair = tuple(value)
        if len(pair) != 2 or not all(type(end) is int for end in pair) or not 1 <= pair[0] <= pair[1]:
            raise InputError(f"{name} must be a range from 1 up, its lower end first, such as '1-3', got {value!r}")
        return pair if pair[0] < pair[1] else pair[0]
    return value


def describe(options: RayOptions) -> list[str]:
    """Describe in sentences what a run asks of a cluster.

    Args:
        options: The options; open values are explained.
    """
    if options.max_workers == 0:
        return ["no Ray: the run trains in the process that starts it"]
    how_many = "a worker for each GPU of the cluster, or one where there is none"
    if options.num_workers is not None:
        how_many = f"{options.max_workers} worker{'s' if options.max_workers > 1 else ''}"
    if options.is_elastic:
        how_many = f"{options.min_workers} to {options.max_workers} workers, as many as there is room for"
    bundle = [f"{value:g} {name}" for name, value in options.bundle.items()]
    if options.gpus_per_worker is None:
        bundle.append("1 GPU where the cluster has any")
    where = [f"placed by {options.placement_strategy}"]
    where += [f"on {options.accelerator_type}"] if options.accelerator_type else []
    where += [f"on nodes with {key}={value}" for key, value in options.label_selector.items()]
    lines = [f"{how_many}, each with {', '.join(bundle) or 'nothing reserved'}, {', '.join(where)}"]
    if options.num_workers is not None:
        totals = [f"{value * options.min_workers:g} {name}" for name, value in options.bundle.items()]
        most = [f"{value * options.max_workers:g} {name}" for name, value in options.bundle.items()]
        span = f"{', '.join(totals)} at least, {', '.join(most)} at most" if options.is_elastic else ", ".join(totals)
        lines.append(f"in all: {span}; and a controller that reserves nothing, on the driver's node")
    batch_workers = options.resolved_batch_workers or (options.max_workers if options.num_workers is not None else None)
    lines.append(f"an iteration is the batches of {batch_workers or 'as many'} workers, however many are there")
    wait = options.resource_timeout_s
    lines.append(
        "resources that are not there: " + ("refused, unless an autoscaler may add them" if not wait else f"{wait:g} s")
    )
    lines.append(f"a worker, node or controller that fails: tried again, {options.max_failures} times")
    if options.hang_timeout_s:
        lines.append(f"no progress for {options.hang_timeout_s:g} s: every rank's stack, and tried again")
    if options.time_limit_s:
        lines.append(f"after {options.time_limit_s:g} s: saved, stopped, exit code 75")
    lines.append(f"Ray's own files: {options.storage or '<work_dir>/.ray'}; checkpoints: the work dir")
    return lines
