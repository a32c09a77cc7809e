"""The panel of the driver: what a terminal holds after the bytes that were written, and nothing where there is none."""

import io
import re
import sys

import pytest

from raydet3d.launch.status_line import StatusTerminal, status_line


def screen(written: str) -> list[str]:
    """What a terminal shows, without colours: ESC[nA goes up, ESC[K and ESC[J erase from there on."""
    rows, row = [""], 0
    for part in re.findall(r"\x1b\[\d*[AJK]|\r|\n|[^\x1b\r\n]+", re.sub(r"\x1b\[[\d;]*m", "", written)):
        if part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif part == "\r":
            continue  # every text that follows is written after an erasure
        elif part.endswith("A"):
            row -= int(part[2:-1])
        elif part.endswith("K"):
            rows[row] = ""
        elif part.endswith("J"):
            rows[row:] = [""]
        else:
            rows[row] += part
    return rows


def line(epoch: int, done: int) -> str:
    head = "11/23 17:40:59 - raydet3d - INFO - Epoch(train)"
    return f"{head} [{epoch:>2}][{done:>3}/100]  lr: 1e-3  eta: 0:01:40  loss: 1\n"


def test_the_panel_follows_training_lines_and_stays_last():
    out = io.StringIO()
    terminal = StatusTerminal(out, 4, "work_dirs/toy")
    print("starting", file=terminal)  # print writes the text and the end of its line one after the other
    terminal.write(line(2, 50))
    print("Saving checkpoint", file=terminal)
    shown = screen(out.getvalue())
    assert shown[0] == "starting"
    assert shown[1].endswith("loss: 1")
    assert shown[2] == "Saving checkpoint"
    panel = "\n".join(shown[3:])
    for text in ("work_dirs/toy running", "37 %", "iteration 150/400", "epoch 2/4", "eta 0:01:40", "loss 1"):
        assert text in panel
    terminal.clear()
    assert screen(out.getvalue())[3:] == [""]


def test_the_panel_of_an_iteration_based_run():
    out = io.StringIO()
    StatusTerminal(out, None).write("Iter(train) [ 30/120]  lr: 1e-3  eta: 0:00:09\n")
    panel = "\n".join(screen(out.getvalue())[1:])
    assert "25 %  iteration 30/120  eta 0:00:09" in panel
    assert "lr 0.001" in panel


def test_no_panel_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    with status_line({"max_epochs": 4}):
        sys.stdout.write(line(1, 100))
    assert capsys.readouterr().out == line(1, 100)
