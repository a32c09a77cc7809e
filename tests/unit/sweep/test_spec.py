"""The schema of a sweep: what is read, and the one line for bad input."""

from pathlib import Path
from typing import Any

import pytest

from raydet3d.config import configs_root
from raydet3d.errors import InputError
from raydet3d.sweep.spec import Asha, read_sweep

GOOD: dict[str, Any] = {"metric": "AP", "mode": "max", "trials": 3, "space": {"lr": {"loguniform": [1e-4, 1e-2]}}}


def test_defaults_and_units() -> None:
    sweep = read_sweep({**GOOD, "budget": {"time": "1.5h", "epochs": 30}, "keep": {"bytes": "2GB"}, "seeds": 3})
    assert (sweep.scheduler.type, sweep.search.type, sweep.resources.workers) == ("fifo", "random", 1)
    assert (sweep.budget.seconds, sweep.budget.epochs, sweep.keep.num_bytes) == (5400, 30, 2_000_000_000)
    assert sweep.seeds == (0, 1, 2)
    assert read_sweep({**GOOD, "keep": {"bytes": "1.5 MiB"}}).keep.num_bytes == 1_572_864


def test_smoke_is_merged_over_the_rest() -> None:
    given = {
        **GOOD,
        "scheduler": {"type": "asha", "grace_period": 3},
        "smoke": {"trials": 2, "scheduler": {"grace_period": 1}},
    }
    small = read_sweep(given, smoke=True)
    assert (small.trials, small.scheduler) == (2, Asha(grace_period=1))
    assert read_sweep(given).trials == 3


def test_the_number_of_trials_of_a_grid_is_that_of_its_points() -> None:
    space = {"a": {"grid": [1, 2, 3]}, "b": {"choice": ["x", "y"]}, "c": {"int": [1, 2], "when": {"b": "y"}}}
    grid = {**GOOD, "trials": None, "search": "grid", "space": space}
    assert read_sweep(grid).trials == 3 * (1 + 2)
    assert read_sweep({**grid, "baseline": [{}, {"a": 5}]}).trials == 9 + 2  # or the last points never run
    assert read_sweep({**grid, "baseline": {}}).trials == 9 + 1
    assert read_sweep({**grid, "baseline": [{}], "trials": 4}).trials == 4


@pytest.mark.parametrize("name", ["lr_asha", "schedule_and_momentum", "optimizer", "augmentation_pbt"])
@pytest.mark.parametrize("smoke", [False, True])
def test_the_shipped_sweeps_are_valid(name: str, smoke: bool) -> None:
    root = configs_root()
    assert root is not None
    assert len(read_sweep(root / "sweeps" / f"{name}.yaml", smoke=smoke).space) >= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrik": 1}, "has no 'metrik'; did you mean 'metric'"),
        ({"metric": None}, "has no metric"),
        ({"mode": "maximum"}, "mode must be one of max, min"),
        ({"space": {}}, "space is empty"),
        ({"space": {"lr": {"uniform": [1, 1]}}}, r"space.lr: uniform \[1, 1\] is an empty range"),
        ({"space": {"lr": {"loguniform": [0, 1]}}}, "loguniform needs numbers above 0"),
        ({"space": {"lr": {"unifrom": [0, 1]}}}, "did you mean 'uniform'"),
        ({"space": {"lr": {"choice": []}}}, "choice is empty"),
        ({"space": {"lr": {"choice": [1, 1]}}}, "choice has 1 twice"),
        ({"space": {"lr": {"int": [0.5, 2]}}}, "int takes whole numbers"),
        ({"space": {"lr": {"quniform": [0, 1, 2]}}}, "quniform's step"),
        ({"space": {"lr": {"uniform": [0, 1], "when": {"x": 1}}}}, "when: 'x' is not in the space"),
        ({"space": {"a": {"choice": [1, 2]}, "b": {"choice": [1], "when": {"a": 3}}}}, "a is never 3; it may be 1, 2"),
        ({"space": {"a": {"choice": [1], "when": {"b": 1}}, "b": {"choice": [1], "when": {"a": 1}}}}, "cycle"),
        ({"trials": 0}, "trials must be an integer of at least 1"),
        ({"trials": None}, "trials must say"),
        ({"search": "optunna"}, "did you mean 'optuna'"),
        ({"search": {"type": "random", "sed": 1}}, "search has no 'sed'; did you mean 'seed'"),
        ({"search": "grid"}, "is continuous"),
        ({"scheduler": "ash"}, "did you mean 'asha'"),
        ({"scheduler": {"type": "asha", "grace": 1}}, "scheduler has no 'grace'"),
        ({"scheduler": {"type": "asha", "reduction_factor": 1}}, "reduction_factor must be"),
        ({"scheduler": {"type": "pbt"}}, "mutate must name the keys"),
        ({"scheduler": {"type": "pbt", "mutate": ["lrr"]}}, "'lrr' is not in the space; did you mean 'lr'"),
        ({"scheduler": {"type": "pbt", "mutate": ["lr"]}, "search": "optuna"}, "pbt finds its settings by itself"),
        ({"scheduler": {"type": "pbt", "mutate": ["lr"]}, "seeds": 2}, "seeds cannot repeat them"),
        ({"scheduler": {"type": "pbt", "mutate": ["lr"]}, "trials": 1}, "needs 2 or more"),
        (
            {"scheduler": {"type": "pbt", "mutate": ["lr"]}, "trials": None, "budget": {"time": "2h"}},
            "the size of its population",
        ),
        ({"trials": None, "budget": {}}, "trials must say how many"),
        ({"resources": {"cpu": 1}}, "resources has no 'cpu'; did you mean 'cpus'"),
        ({"resources": {"workers": 0}}, "resources.workers must be"),
        ({"budget": {"time": "soon"}}, "budget.time must be written"),
        ({"keep": {"bytes": "lots"}}, "keep.bytes must be written"),
        ({"seeds": [1, 1]}, "seeds must be"),
        ({"stop": [{"abov": 1}]}, "stop has no 'abov'; did you mean 'above'"),
        ({"stop": [{"after": 1}]}, "says above, below or plateau"),
        ({"baseline": [{"lrr": 1}]}, "'lrr' is not in the space"),
        ({"cfg_options": {"lr": 1}}, "both in cfg_options and in space"),
    ],
)
def test_bad_input_gives_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_sweep({**GOOD, **changes})
    assert "\n" not in str(caught.value)


def test_unsafe_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("metric: !!python/object/apply:os.system ['echo bad']\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad.yaml: unsafe YAML"):
        read_sweep(path)


def test_a_config_given_as_the_sweep_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("a = 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="the config comes first"):
        read_sweep(path)


def test_an_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    text = "metric: AP\nmode: max\ntrials: 2\nspace:\n  lr:\n    uniform: [0, 1]\nkeep:\n  last: -1\n"
    path.write_text(text)
    with pytest.raises(InputError, match=r"s\.yaml:8: keep\.last must be an integer of at least 0, got -1"):
        read_sweep(path)
    path.write_text(text.replace("last: -1", "lasst: 1"))
    with pytest.raises(InputError, match=r"s\.yaml:8: keep has no 'lasst'; did you mean 'last'"):
        read_sweep(path)
    path.write_text(text.replace("last: -1", "last: 1") + "smoke:\n  keep:\n    bytes: lots\n")
    with pytest.raises(InputError, match=r"s\.yaml:11: keep\.bytes must be written .*, got 'lots'"):
        read_sweep(path, smoke=True)


def test_gib_and_gb_are_different_sizes() -> None:
    assert read_sweep({**GOOD, "keep": {"bytes": "1GiB"}}).keep.num_bytes == 2**30
    assert read_sweep({**GOOD, "keep": {"bytes": "1GB"}}).keep.num_bytes == 10**9
