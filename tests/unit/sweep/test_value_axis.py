"""Values of a sweep's keys on an axis."""

from __future__ import annotations

import math
from pathlib import Path

from raydet3d.sweep.results import Results
from raydet3d.sweep.sweep_report import write_report
from raydet3d.sweep.value_axis import has_position, positions
from tests.unit.sweep.test_sweep_console import trial


def test_a_baseline_value_without_a_position_on_its_axis_is_left_out_of_the_chart(tmp_path: Path) -> None:
    outside = [0, None, [0.9, 0.99], -1.0, math.nan, True]
    settings = [{"decay": value, "beta": 0.1 * i} for i, value in enumerate(outside)]
    settings += [{"decay": 10.0**-i, "beta": None if i == 3 else 0.9 + 0.01 * i} for i in range(6)]
    results = Results(
        folder=tmp_path,
        name="x",
        metric="AP",
        mode="max",
        counter="epoch",
        trials=[trial(f"{i:03d}", float(i)) for i in range(len(settings))],
        kinds={"decay": "log", "beta": "linear"},
        values={f"{i:03d}": setting for i, setting in enumerate(settings)},
    )
    assert 'aria-label="Settings and scores"' in write_report(results).read_text()
    assert [has_position(value, "log") for value in outside] == [False] * 6
    assert [has_position(value, "linear") for value in outside] == [True, False, False, True, False, False]


def test_choices_are_placed_in_the_order_of_numbers_then_names() -> None:
    places, labels = positions([10, "b", 9, "a"], "choice")
    assert list(labels.values()) == ["9", "10", "a", "b"]
    assert places == [1 / 3, 1.0, 0.0, 2 / 3]
    assert positions([1e-3, 1e-1, 1e-2], "log")[0] == [0.0, 1.0, 0.5]
    assert positions([5.0, 5.0], "linear") == ([0.5, 0.5], {0.5: "5"})
