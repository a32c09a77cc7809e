"""The logger: what lands where, on which rank, and that two runs stay apart."""

import logging
import re
from pathlib import Path

import pytest

from raydet3d.log import LineFile, close_logger, get_logger, open_logger, release_buffered

LINE = r"\d\d/\d\d \d\d:\d\d:\d\d - raydet3d - "


def test_rank_0_writes_to_console_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = open_logger("one", tmp_path / "deep" / "one.log")
    logger.info("hello")
    logger.debug("too fine")
    close_logger(logger)
    text = capsys.readouterr().out
    assert re.fullmatch(f"{LINE}INFO - hello\n", text)
    assert (tmp_path / "deep" / "one.log").read_text() == text


def test_other_ranks_print_errors_only_and_write_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = open_logger("two", tmp_path / "two.log", rank=1, level="DEBUG")
    logger.warning("not me")
    logger.error("but this")
    close_logger(logger)
    assert re.fullmatch(f"{LINE}ERROR - but this\n", capsys.readouterr().out)
    assert not (tmp_path / "two.log").exists()


def test_loggers_of_two_runs_are_separate(tmp_path: Path) -> None:
    first, second = (open_logger(name, tmp_path / f"{name}.log", level="WARNING") for name in ("a", "b"))
    first.warning("from a")
    second.warning("from b")
    first.info("too fine")
    for logger in (first, second):
        close_logger(logger)
    assert [(tmp_path / f"{name}.log").read_text().count("\n") for name in ("a", "b")] == [1, 1]
    assert "from b" in (tmp_path / "b.log").read_text()


def test_opened_twice_prints_once(capsys: pytest.CaptureFixture[str]) -> None:
    open_logger("again")
    logger = open_logger("again")
    logger.info("once")
    close_logger(logger)
    assert capsys.readouterr().out.count("once") == 1
    assert logger.handlers == []


def test_library_code_reports_to_the_packages_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "raydet3d"):
        get_logger().warning("no planes")
    assert caplog.messages == ["no planes"]
    assert get_logger().name == "raydet3d"


def test_lines_are_held_until_they_are_released(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = open_logger("held", tmp_path / "run" / "held.log", held=True)
    logger.warning("first")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()
    release_buffered(logger)
    logger.info("second")
    release_buffered(logger)  # there is nothing left to release
    close_logger(logger)
    lines = [line.rpartition(" - ")[2] for line in (tmp_path / "run" / "held.log").read_text().splitlines()]
    assert lines == ["first", "second"]
    assert capsys.readouterr().out.count("first") == 1


def test_lines_that_are_not_released_are_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = open_logger("lost", tmp_path / "lost.log", held=True)
    logger.warning("first")
    close_logger(logger)
    release_buffered(logger)
    assert not (tmp_path / "lost.log").exists()
    assert capsys.readouterr().out == ""


def test_a_file_of_lines(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "deep" / "lines.txt")
    assert not (tmp_path / "deep").exists()
    lines.write("one")
    assert lines.path.read_text() == "one\n"  # there at once, though the file stays open
    lines.write("zwei \u00e4")
    lines.close()
    lines.close()
    lines.write("three")
    assert lines.path.read_text(encoding="utf-8") == "one\nzwei \u00e4\nthree\n"
    lines.close()
