"""The live table and the plain lines, on streams that say whether they are terminals; names of keys; the importance."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path
from typing import Any

from raydet3d.sweep.importance import importance
from raydet3d.sweep.plots import draw
from raydet3d.sweep.results import Results
from raydet3d.sweep.trial_store import DONE, FAILED, RUNNING, Trial
from raydet3d.sweep.trial_table import View, describe, short_names


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def trial(name: str, *scores: float, state: str = DONE, reason: str = "", **setting: Any) -> Trial:
    reports = [{"at": i + 1, "score": score, "time": 0.0} for i, score in enumerate(scores)]
    return Trial(
        id=name,
        number=int(name),
        setting=setting,
        seed=0,
        digest="",
        state=state,
        reason=reason,
        length=4,
        reports=reports,
    )


TRIALS = [
    trial("000", 1.0, 2.0, 3.0, 4.0, lr=0.1),
    trial("001", 1.5, state=RUNNING, lr=0.2),
    trial("002", state=FAILED, reason="out of memory: too much", lr=0.3),
]


def test_without_a_terminal_each_event_is_a_plain_line() -> None:
    stream = io.StringIO()
    view = View(metric="toy/AP", mode="max", counter="epoch", stream=stream)
    for one in TRIALS:
        view.event(one, TRIALS, total=5, left_s=75.0)
    view.tick(TRIALS, total=5, left_s=75.0)
    view.close()
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert lines == [
        "trial 000  done at epoch 4/4  best 4  | best 4 (000), 1 running, 1 done, 0 stopped, 1 failed, "
        "3 of 5 to go, ~1 min 15 s left",
        "trial 001  epoch 1/4  AP 1.5  | best 4 (000), 1 running, 1 done, 0 stopped, 1 failed, "
        "3 of 5 to go, ~1 min 15 s left",
        "trial 002  failed: out of memory: too much  | best 4 (000), 1 running, 1 done, 0 stopped, 1 failed, "
        "3 of 5 to go, ~1 min 15 s left",
    ]


def test_on_a_terminal_the_table_is_drawn_over_itself() -> None:
    stream = Terminal()
    view = View(metric="toy/AP", mode="max", counter="epoch", stream=stream)
    view.tick(TRIALS, total=5, left_s=None)
    shown = stream.getvalue().splitlines()
    assert shown[0].startswith("best 4 (000), 1 running")
    assert shown[1].split() == ["trial", "AP", "epoch", "state", "setting"]
    assert shown[2].split()[:4] == ["000", "4", "4/4", "done"]
    assert len(shown) == 5
    view.tick(TRIALS, total=5, left_s=None)  # within the same second: nothing new
    assert stream.getvalue().splitlines() == shown
    view.event(TRIALS[1], TRIALS, total=5, left_s=None)  # running trials are in the table
    assert stream.getvalue().splitlines() == shown
    view.event(TRIALS[0], TRIALS, total=5, left_s=None)
    assert stream.getvalue().endswith("\x1b[5A\x1b[Jtrial 000  done at epoch 4/4  best 4\n")


def test_keys_by_their_shortest_clear_ending() -> None:
    keys = ["lr", "optim_wrapper.optimizer.lr", "a.0.T_max", "a.1.T_max", "model.depth"]
    assert short_names(keys) == {
        "lr": "lr",
        "optim_wrapper.optimizer.lr": "optimizer.lr",
        "a.0.T_max": "a.0.T_max",
        "a.1.T_max": "a.1.T_max",
        "model.depth": "depth",
    }
    assert describe({}) == "the config's own setting"


def test_importance_finds_what_the_score_was_made_of(tmp_path: Path) -> None:
    rng = random.Random(0)
    trials = []
    for number in range(40):
        setting = {"lr": 10 ** rng.uniform(-4, -1), "kind": rng.choice("abc"), "idle": rng.random()}
        score = 50 - 8 * (math.log10(setting["lr"]) + 2.5) ** 2 + {"a": 0, "b": 2, "c": 4}[setting["kind"]]
        trials.append(trial(f"{number:03d}", score, **setting))
    results = Results(
        folder=tmp_path,
        name="x",
        metric="AP",
        mode="max",
        counter="epoch",
        trials=trials,
        kinds={"lr": "log", "kind": "choice", "idle": "linear"},
        values={one.id: one.setting for one in trials},
    )
    shares = importance(results)
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.6
    assert 0.02 < shares["kind"] < 0.4
    assert shares["idle"] < 0.2


def test_a_baseline_beside_its_range_is_left_out_where_it_has_no_place(tmp_path: Path) -> None:
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
    assert importance(results)["decay"] > 0.99  # of the six trials whose decay has a logarithm
    assert {path.stem for _, path in draw(results, tmp_path)} == {"curves", "parallel", "importance"}
