"""The status line: what a terminal holds after the bytes that were written, and nothing of it where there is none."""

import io
import re
import sys

import pytest

from raydet3d.launch.status_line import StatusTerminal, status_line


def screen(written: str) -> list[str]:
    """What a terminal shows: a carriage return goes to the start of the line, ESC[K wipes to its end."""
    rows = []
    for row in written.split("\n"):
        shown = ""
        for part in row.split("\r"):
            if part.startswith("\x1b[K"):
                shown, part = "", part.removeprefix("\x1b[K")
            shown = part + shown[len(part) :]
        rows.append(shown)
    return rows


def line(epoch: int, done: int) -> str:
    head = "11/23 17:40:59 - raydet3d - INFO - Epoch(train)"
    return f"{head} [{epoch:>2}][{done:>3}/100]  lr: 1e-3  eta: 0:01:40  loss: 1\n"


def test_status_line_follows_training_lines_and_stays_last():
    out = io.StringIO()
    terminal = StatusTerminal(out, 4)
    print("starting", file=terminal)  # print writes the text and the end of its line one after the other
    terminal.write(line(2, 50))
    print("Saving checkpoint", file=terminal)
    shown = screen(out.getvalue())
    assert shown[0] == "starting"
    assert shown[1].endswith("loss: 1")
    assert shown[2] == "Saving checkpoint"
    assert shown[3] == "[#########...............] 37 %  epoch 2/4, batch 50/100  eta 0:01:40"
    terminal.clear()
    assert screen(out.getvalue())[3] == ""


def test_status_line_of_an_iteration_based_run():
    out = io.StringIO()
    StatusTerminal(out, None).write("Iter(train) [ 30/120]  lr: 1e-3  eta: 0:00:09\n")
    assert screen(out.getvalue())[-1] == "[######..................] 25 %  iteration 30/120  eta 0:00:09"


def test_no_status_line_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    with status_line({"max_epochs": 4}):
        sys.stdout.write(line(1, 100))
    assert capsys.readouterr().out == line(1, 100)


def test_pattern_matches_a_line_of_the_log():
    # The format is the runtime's; a train line of a toy run must be understood.
    from raydet3d.launch.status_line import LINE

    real = "11/23 17:40:59 - raydet3d - INFO - Epoch(train)  [5][100/100]  lr: 9.3e-03  eta: 0:07:57  time: 0.6"
    match = LINE.search(real)
    assert match
    assert re.fullmatch(r"\d+:\d\d:\d\d", match["eta"])
