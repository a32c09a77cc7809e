"""The live table on a terminal, plain lines elsewhere, and short names of keys."""

from __future__ import annotations

import io
from typing import Any

from raydet3d.sweep.sweep_console import SweepConsole, describe, short_names
from raydet3d.sweep.trial_store import DONE, FAILED, RUNNING, Trial


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
    console = SweepConsole(metric="toy/AP", mode="max", counter="epoch", stream=stream)
    for one in TRIALS:
        console.event(one, TRIALS, total=5, left_s=75.0)
    assert not console.is_due()
    console.close()
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


def test_on_a_terminal_the_table_is_redrawn_in_place() -> None:
    stream = Terminal()
    console = SweepConsole(metric="toy/AP", mode="max", counter="epoch", stream=stream)
    assert console.is_due()
    console.show(TRIALS, total=5, left_s=None)
    shown = stream.getvalue().removeprefix("\r\x1b[K").splitlines()
    assert shown[0].startswith("best 4 (000), 1 running")
    assert shown[1].split() == ["trial", "AP", "epoch", "state", "setting"]
    assert shown[2].split()[:4] == ["000", "4", "4/4", "done"]
    assert len(shown) == 5
    assert not console.is_due()  # within the same second
    console.event(TRIALS[1], TRIALS, total=5, left_s=None)  # running trials are in the table
    assert stream.getvalue().removeprefix("\r\x1b[K").splitlines() == shown
    console.event(TRIALS[0], TRIALS, total=5, left_s=None)
    assert stream.getvalue().endswith("\x1b[5A\x1b[Jtrial 000  done at epoch 4/4  best 4\n")


def test_short_names_are_the_shortest_unambiguous_suffixes() -> None:
    keys = ["lr", "optim_wrapper.optimizer.lr", "a.0.T_max", "a.1.T_max", "model.depth"]
    assert short_names(keys) == {
        "lr": "lr",
        "optim_wrapper.optimizer.lr": "optimizer.lr",
        "a.0.T_max": "a.0.T_max",
        "a.1.T_max": "a.1.T_max",
        "model.depth": "depth",
    }
    assert describe({}) == "the config's own setting"
