"""Capacity of the cluster: its nodes, what others hold on them, and what an autoscaler may add.

The only file that asks Ray's internal state (`ray._private.state`, checked with Ray 2.60): what is free on each node,
which nodes are drained, and what the autoscaler may add. Where a newer Ray has no answer, less is known: totals count
as free, no node is drained, no autoscaler adds nodes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from raydet3d.launch.ray_options import RayOptions


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Args:
        id: Ray's id of it.
        address: Its IP address.
        total: Its resources.
        free: Those that are not reserved.
        labels: Its labels.
        drains: Whether it is being drained.
    """

    id: str
    address: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    drains: bool = False


def _ask_ray(question: str) -> Any:
    """Ask Ray's global state, which has no public counterpart without a dashboard; None where a Ray cannot answer."""
    module = getattr(getattr(ray, "_private", None), "state", None)
    ask = getattr(getattr(module, "state", None), question, None)
    return None if ask is None else ask()


def read_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    free: dict[str, dict[str, float]] | None = _ask_ray("available_resources_per_node")
    draining = draining_nodes()
    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            total=node["Resources"],
            free=free.get(node["NodeID"], {}) if free is not None else node["Resources"],
            labels=node.get("Labels") or {},
            drains=node["NodeID"] in draining,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that are being drained."""
    return set(_ask_ray("get_draining_nodes") or {})


def groups_of_autoscaler() -> list[tuple[dict[str, float], dict[str, str], int]]:
    """Return (resources, labels, maximum number) of each kind of node; none without an autoscaler."""
    config = _ask_ray("get_cluster_config")
    return [
        (dict(group.resources), dict(getattr(group, "labels", {})), group.max_count if group.max_count >= 0 else 10**6)
        for group in (config.node_group_configs if config is not None else ())
    ]


def workers_on(free: Mapping[str, float], labels: Mapping[str, str], options: RayOptions) -> int:
    """Return how many workers a node has room for."""
    if any(not _has_label(labels, key, wanted) for key, wanted in options.label_selector.items()):
        return 0
    if options.accelerator_type and f"accelerator_type:{options.accelerator_type}" not in free:
        return 0
    # A hair's breadth for fractions such as 0.1 that do not add up.
    fits = [math.floor(free.get(name, 0) / each + 1e-6) for name, each in options.bundle.items()]
    return min(fits, default=options.max_workers)


def _has_label(labels: Mapping[str, str], key: str, wanted: str) -> bool:
    """Evaluate Ray's label selectors: `value`, `!value`, `in(a, b)` and `!in(a, b)`."""
    negated, text = wanted.startswith("!"), wanted.removeprefix("!")
    listed = re.fullmatch(r"in\((.*)\)", text)
    values = [item.strip() for item in listed[1].split(",")] if listed else [text]
    return (labels.get(key) in values) != negated


def _place(counts: Iterable[int], strategy: str) -> int:
    """Return how many workers find a place on nodes with room for so many each."""
    counts = list(counts)
    if strategy == "STRICT_SPREAD":
        return sum(count > 0 for count in counts)
    if strategy == "STRICT_PACK":
        return max(counts, default=0)
    return sum(counts)


def max_placeable_workers(options: RayOptions, nodes: Iterable[Node], *, occupied: bool = False) -> int:
    """Return how many workers there is room for on nodes that are not drained.

    Args:
        options: What a worker asks for, and where.
        nodes: The cluster.
        occupied: Count what others hold, too.
    """
    stay = [node for node in nodes if not node.drains]
    fits = (workers_on(node.total if occupied else node.free, node.labels, options) for node in stay)
    return _place(fits, options.placement_strategy)


def shared_evenly(workers: int, slots: int) -> int:
    """Return the largest number of workers, not above a given one, that divides the batches of an iteration evenly."""
    return next((count for count in range(workers, 0, -1) if count >= slots or slots % count == 0), workers)


def excluding_own(nodes: Iterable[Node], hosts: Iterable[str], options: RayOptions) -> list[Node]:
    """Return the nodes as they would be without a run's workers.

    Args:
        nodes: The cluster.
        hosts: The node of each worker.
        options: What each of them holds.
    """
    count = Counter(hosts)
    return [
        replace(
            node,
            free={**node.free, **{k: node.free.get(k, 0) + v * count[node.id] for k, v in options.bundle.items()}},
        )
        for node in nodes
    ]


def max_workers_after_autoscaling(options: RayOptions, nodes: Iterable[Node]) -> int:
    """Return how many workers there is room for if the autoscaler adds all it may; others keep what they hold."""
    groups = groups_of_autoscaler()
    if not groups:
        return 0
    nodes = list(nodes)
    counts: list[int] = []
    for resources, labels, count in groups:
        kind = f"accelerator_type:{options.accelerator_type}"
        known = {**resources, kind: 1.0} if options.accelerator_type and resources.get("GPU") else resources
        counts += [workers_on(known, labels, options)] * min(count, 2 * options.max_workers + len(nodes))
    held = max_placeable_workers(options, nodes, occupied=True) - max_placeable_workers(options, nodes)
    return max(_place(counts, options.placement_strategy) - held, 0)
