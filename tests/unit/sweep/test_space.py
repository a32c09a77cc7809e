"""Domains and settings, against their definitions."""

import math
import random

import pytest

from raydet3d.sweep.domains import Range, read_domain
from raydet3d.sweep.space import Space

SPACE = Space.read(
    "s",
    {
        "momentum": {"uniform": [0.8, 0.99], "when": {"optimizer": ["sgd", "muon"]}},
        "optimizer": {"alternatives": {"sgd": {"type": "SGD"}, "adam": {"type": "Adam"}, "muon": {"type": "Muon"}}},
        "nesterov": {"choice": [True, False], "when": {"momentum": 0.9}},
        "lr": {"loguniform": [1e-4, 1e-1]},
    },
)


def test_samples_are_within_bounds_and_uniform_in_their_scale() -> None:
    rng = random.Random(0)
    for kind, low, high in (("uniform", 2, 6), ("loguniform", 1e-4, 1e-1), ("int", 1, 8)):
        domain = read_domain("x", {kind: [low, high]})
        values = [domain.sample(rng) for _ in range(4000)]
        assert min(values) >= low
        assert max(values) <= high
        middle = math.sqrt(low * high) if kind == "loguniform" else (low + high) / 2
        assert abs(sum(value < middle for value in values) / 4000 - 0.5) < 0.03
    steps = {read_domain("x", {"quniform": [0.0, 1.0, 0.25]}).sample(rng) for _ in range(100)}
    assert steps == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_a_key_is_set_only_where_its_condition_holds() -> None:
    seen = set()
    for seed in range(60):
        setting = SPACE.sample(random.Random(seed))
        assert ("momentum" in setting) == (setting["optimizer"] in ("sgd", "muon"))
        seen.add(setting["optimizer"])
    assert seen == {"sgd", "adam", "muon"}


def test_names_of_alternatives_become_their_values() -> None:
    assert SPACE.overrides({"optimizer": "adam", "lr": 0.1}) == {"optimizer": {"type": "Adam"}, "lr": 0.1}


def test_a_grid_has_each_setting_once() -> None:
    space = Space.read(
        "s", {"a": [1, 2], "b": {"choice": [1, 2, 3], "when": {"a": 2}}, "c": {"int": [5, 6], "when": {"b": 3}}}
    )
    grid = space.grid()
    assert len(grid) == 1 + 2 + 2
    assert {"a": 1} in grid
    assert {"a": 2, "b": 3, "c": 6} in grid


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "int"])
def test_a_perturbed_number_differs_and_is_within_bounds(kind: str) -> None:
    domain = read_domain("x", {kind: [1, 10]})
    rng = random.Random(1)
    for value in (1, 3, 10):
        for _ in range(20):
            moved = domain.perturb(value, rng)
            assert 1 <= moved <= 10
            assert moved != value


def test_a_perturbed_choice_is_a_neighbour() -> None:
    domain = read_domain("x", [1, 10, 100])
    rng = random.Random(1)
    assert {domain.perturb(10, rng) for _ in range(20)} == {1, 100}
    assert {domain.perturb(1, rng) for _ in range(20)} == {10}
    assert {domain.perturb(100, rng) for _ in range(20)} == {10}


def test_sampled_numbers_have_four_significant_digits() -> None:
    domain = read_domain("x", {"loguniform": [1e-5, 1e-1]})
    assert isinstance(domain, Range)
    assert all(len(f"{domain.sample(random.Random(i)):.10g}".replace(".", "").lstrip("0")) <= 9 for i in range(50))


@pytest.mark.parametrize(
    ("given", "count", "last"),
    [
        ([0.8, 0.98, 0.02], 10, 0.98),
        ([0.75, 0.95, 0.05], 5, 0.95),
        ([0.1, 0.7, 0.1], 7, 0.7),
        ([0, 0.3, 0.1], 4, 0.3),
        ([0.8, 0.9, 0.1], 2, 0.9),
        ([0, 1, 0.35], 3, 0.7),  # 1 is no step
        ([0, 1, 0.015625], 65, 1.0),
        ([10000, 20000, 25], 401, 20000.0),
        ([-0.3, 0.3, 0.1], 7, 0.3),
        ([-0.6, 0.3, 0.1], 10, 0.3),
        ([-0.15, 0.3, 0.05], 10, 0.3),
        ([-2.1, 0, 0.7], 4, 0.0),
    ],
)
def test_values_with_a_step_include_both_ends_and_lie_on_steps(given: list[float], count: int, last: float) -> None:
    domain = read_domain("x", {"quniform": given})
    values = domain.values()
    assert values is not None
    assert (len(values), values[-1]) == (count, last)
    assert all(value == float(f"{given[0] + i * given[2]:.10f}") for i, value in enumerate(values))
    assert "-0.0" not in map(str, values)
    assert domain.examples() == [values[0], values[-1]]
    rng = random.Random(0)
    for _ in range(300):
        drawn = domain.sample(rng)
        assert drawn in values
        assert domain.perturb(drawn, rng) in values


def test_a_narrow_range_is_sampled_with_more_digits() -> None:
    rng = random.Random(0)
    for kind in ("uniform", "loguniform"):
        domain = read_domain("x", {kind: [0.999, 0.99999]})
        assert len({domain.sample(rng) for _ in range(1000)}) > 900
        assert domain.examples() == [0.999, 0.99999]
    assert read_domain("x", {"uniform": [0.85, 0.95]}).sample(random.Random(0)) == 0.9344  # as before
