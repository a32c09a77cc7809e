"""Search algorithms: equal proposals after a restart, no setting twice, and better ones with Optuna."""

import math
from typing import Any

import pytest

from raydet3d.sweep.search import make_search
from raydet3d.sweep.space import Setting, Space
from raydet3d.sweep.spec import Search

SPACE = Space.read(
    "s",
    {"lr": {"loguniform": [1e-4, 1e-1]}, "kind": {"choice": ["a", "b"]}, "k": {"int": [1, 9], "when": {"kind": "b"}}},
)


def value(setting: Setting) -> float:
    return -abs(math.log10(setting["lr"]) + 2) - (setting["kind"] != "b") + setting.get("k", 0) / 10


def found(search: Search, count: int, stop: int | None = None) -> list[Setting]:
    """Settings of a search that is made anew after ``stop`` of them, from what is known of those."""
    settings, out = make_search(SPACE, search, "max"), list[Setting]()
    for number in range(count):
        if number == stop:
            settings = make_search(SPACE, search, "max")
            for old in out:
                settings.record(old)
                settings.tell(old, value(old))
        new = settings.propose(number)
        assert new is not None
        settings.record(new)
        settings.tell(new, value(new))
        out.append(new)
    return out


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_search_that_is_made_anew_proposes_the_same_settings(kind: str) -> None:
    search = Search(type=kind, seed=5)
    whole = found(search, 14)
    assert found(search, 14, stop=6) == whole
    assert found(Search(type=kind, seed=6), 3) != whole[:3]


def test_optuna_finds_better_settings_than_random_search() -> None:
    late = [value(setting) for setting in found(Search(type="optuna"), 40)[20:]]
    chance = [value(setting) for setting in found(Search(type="random"), 40)[20:]]
    assert sum(late) / 20 > sum(chance) / 20 + 0.5


def test_a_finite_space_is_proposed_completely_and_once() -> None:
    space = Space.read("s", {"a": [1, 2], "b": [1, 2, 3]})
    for kind in ("random", "grid"):
        settings, seen = make_search(space, Search(type=kind), "max"), list[Any]()
        while (setting := settings.propose(len(seen))) is not None:
            settings.record(setting)
            seen.append(setting)
        assert sorted((s["a"], s["b"]) for s in seen) == [(a, b) for a in (1, 2) for b in (1, 2, 3)]


def test_random_search_enumerates_keys_declared_as_grid() -> None:
    space = Space.read("s", {"a": {"grid": [1, 2, 3]}, "lr": {"uniform": [0, 1]}})
    settings = make_search(space, Search(), "max")
    drawn = [settings.propose(number) for number in range(6)]
    assert [setting["a"] for setting in drawn if setting] == [1, 2, 3, 1, 2, 3]
    assert len({setting["lr"] for setting in drawn if setting}) == 6


def test_optuna_takes_recorded_values_between_two_steps() -> None:
    space = Space.read(
        "s", {"m": {"quniform": [0.8, 0.98, 0.02]}, "q": {"quniform": [0, 1, 0.015625]}, "k": {"int": [0, 9]}}
    )
    settings = make_search(space, Search(type="optuna", startup=3), "max")
    own: Setting = {"m": 0.95, "q": 0.3, "k": 0.5}  # a config's own values may lie anywhere
    settings.record(own)
    settings.tell(own, 0.0)
    for number in range(1, 12):
        setting = settings.propose(number)
        assert setting is not None
        assert all(setting[key] in (space[key].values() or ()) for key in space)
        settings.record(setting)
        settings.tell(setting, setting["m"])


def test_parameters_for_optuna() -> None:
    ranges = {"m": {"quniform": [0, 0.3, 0.1]}, "k": {"int": [0, 9]}, "lr": {"uniform": [0, 1]}}
    space = Space.read("s", {**ranges, "c": [5, 7]})
    assert [space["m"].to_param(value) for value in (0.7 - 0.5, 0.15, 0.4, None)] == [0.2, None, None, None]
    assert [space["k"].to_param(value) for value in (3, 0.5, 12, True)] == [3, None, None, None]
    assert [space["lr"].to_param(value) for value in (0.123456, 2)] == [0.123456, None]
    assert [space["c"].to_param(value) for value in (7, 6)] == [1, None]


def test_random_search_goes_on_after_a_grid_point_that_a_baseline_has_used() -> None:
    settings, seen = make_search(Space.read("s", {"lr": {"grid": [1, 2, 3]}}), Search(), "max"), [{"lr": 2}]
    settings.record(seen[0])
    while (setting := settings.propose(len(seen))) is not None:
        settings.record(setting)
        seen.append(setting)
    assert [setting["lr"] for setting in seen] == [2, 3, 1]
