"""Progress: redrawn in place on a terminal, plain lines anywhere else."""

from __future__ import annotations

import io

import pytest

from raydet3d.progress_bar import LiveLine, ProgressBar, draw_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("done", "total", "bar"), [(0, 4, "[....]"), (3, 4, "[###.]"), (9, 4, "[####]")])
def test_bar_is_filled_by_the_share_that_is_done(done: int, total: int, bar: str) -> None:
    assert draw_bar(done, total, width=4) == bar


def test_plain_streams_get_the_first_and_the_last_line() -> None:
    stream = io.StringIO()
    with ProgressBar(30, "frames", stream) as bar:
        bar.skip(10)
        for _ in range(20):
            bar.step()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "frames: 0/30"
    assert lines[-1].startswith("frames: 30/30, ")
    assert len(lines) == 2
    assert "\r" not in stream.getvalue()


def test_nothing_to_do_prints_nothing() -> None:
    for stream in (io.StringIO(), Terminal()):
        with ProgressBar(0, "frames", stream):
            pass
        assert stream.getvalue() == ""


def test_terminal_line_is_redrawn_in_place_and_ends_as_a_plain_line() -> None:
    stream = Terminal()
    with ProgressBar(2, "frames", stream) as bar:
        bar.step()
        bar.step()
    parts = stream.getvalue().split("\r\x1b[K")
    assert parts[1].startswith("[############............] frames: 1/2")
    assert parts[-1].startswith("frames: 2/2, ")
    assert stream.getvalue().count("\n") == 1


def test_live_line_is_drawn_at_most_once_a_period_and_only_on_a_terminal() -> None:
    line = LiveLine(Terminal(), period_s=60)
    assert line.is_due()
    line.show("x" * 500)
    assert not line.is_due()
    assert len(line.stream.getvalue()) < 500
    line.clear()
    line.clear()
    assert line.stream.getvalue().count("\r\x1b[K") == 2
    assert not LiveLine(io.StringIO()).is_due()


def test_several_lines_are_redrawn_in_their_place_and_erased() -> None:
    line = LiveLine(Terminal(), period_s=0)
    line.show("a\nb\nc")
    line.show("d\ne\nf")
    line.clear()
    assert line.stream.getvalue() == "\r\x1b[Ka\nb\nc\r\x1b[2A\x1b[Jd\ne\nf\r\x1b[2A\x1b[J"
