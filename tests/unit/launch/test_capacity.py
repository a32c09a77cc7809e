"""Room for workers on nodes, counted against small clusters that can be counted by hand."""

from __future__ import annotations

import pytest

from raydet3d.launch.capacity import Node, excluding_own, max_placeable_workers, shared_evenly, workers_on
from raydet3d.launch.ray_options import RayOptions


def node(name: str, gpus: float = 4, cpus: float = 16, *, free: float | None = None, **more) -> Node:
    total = {"GPU": gpus, "CPU": cpus, "accelerator_type:H100": 1.0}
    return Node(id=name, address=name, total=total, free={**total, "GPU": gpus if free is None else free}, **more)


ONE_EACH = RayOptions(num_workers=8, gpus_per_worker=1, cpus_per_worker=4)


def test_scarcest_resource_limits_workers_on_a_node() -> None:
    assert workers_on({"GPU": 8, "CPU": 12}, {}, ONE_EACH) == 3
    assert workers_on({"CPU": 12}, {}, ONE_EACH) == 0
    assert workers_on({"CPU": 0.9999999999}, {}, RayOptions(gpus_per_worker=0, cpus_per_worker=0.1)) == 10


def test_held_resources_and_draining_nodes_do_not_count() -> None:
    nodes = [node("a"), node("b", free=1), node("c", drains=True)]
    assert max_placeable_workers(ONE_EACH, nodes) == 5
    assert max_placeable_workers(ONE_EACH, nodes, occupied=True) == 8


@pytest.mark.parametrize(("strategy", "fits"), [("PACK", 7), ("SPREAD", 7), ("STRICT_SPREAD", 2), ("STRICT_PACK", 4)])
def test_placement_strategy_limits_workers(strategy: str, fits: int) -> None:
    options = RayOptions(num_workers=8, gpus_per_worker=1, cpus_per_worker=1, placement_strategy=strategy)
    assert max_placeable_workers(options, [node("a"), node("b", free=3)]) == fits


@pytest.mark.parametrize(
    ("selector", "fits"), [("eu", 4), ("!eu", 8), ("in(eu, us)", 8), ("!in(eu,us)", 4), ("asia", 0)]
)
def test_label_selectors_choose_nodes(selector: str, fits: int) -> None:
    nodes = [node("a", labels={"region": "eu"}), node("b", labels={"region": "us"}), node("c")]
    options = RayOptions(num_workers=8, gpus_per_worker=1, label_selector={"region": selector})
    assert max_placeable_workers(options, nodes) == fits


def test_accelerator_type_chooses_nodes() -> None:
    options = RayOptions(num_workers=2, gpus_per_worker=1, accelerator_type="H100")
    assert max_placeable_workers(options, [node("a")]) == 4
    assert max_placeable_workers(RayOptions(num_workers=2, gpus_per_worker=1, accelerator_type="L4"), [node("a")]) == 0


def test_custom_resources_limit_workers() -> None:
    options = RayOptions(num_workers=2, gpus_per_worker=0, resources_per_worker={"lidar": 2})
    assert workers_on({"CPU": 8, "lidar": 5}, {}, options) == 2


def test_resources_of_the_run_itself_count_as_free() -> None:
    nodes = [node("a", free=1), node("b", free=4)]
    options = RayOptions(num_workers=(1, 8), gpus_per_worker=1, cpus_per_worker=0, placement_strategy="STRICT_PACK")
    assert (
        max_placeable_workers(options, excluding_own(nodes, ["a", "a", "a"], options)) == 4
    )  # on one node: no more than there are on b
    packed = RayOptions(num_workers=(1, 8), gpus_per_worker=1, cpus_per_worker=0)
    assert max_placeable_workers(packed, excluding_own(nodes, ["a", "a", "a"], packed)) == 8


@pytest.mark.parametrize(("workers", "slots", "expected"), [(2, 3, 1), (3, 3, 3), (5, 8, 4), (9, 8, 9), (3, 4, 2)])
def test_number_of_workers_divides_the_batches_of_an_iteration(workers: int, slots: int, expected: int) -> None:
    assert shared_evenly(workers, slots) == expected
