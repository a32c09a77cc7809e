"""Ray's own lines leave the console; everything else stays in it."""

import sys
from pathlib import Path

import pytest

from raydet3d.launch.ray_console import divert_ray_lines


def test_lines_of_ray_go_to_the_file_and_others_to_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with divert_ray_lines(tmp_path / "ray.log"):
        print("Epoch(train) [1][5/8]")
        print("\x1b[33m(raylet)\x1b[0m A worker died or was killed")
        print("(raylet) again", file=sys.stderr)
        print("the run's own line")
    out, err = capsys.readouterr()
    assert out == "Epoch(train) [1][5/8]\nthe run's own line\n"
    assert err == ""
    assert (tmp_path / "ray.log").read_text() == "(raylet) A worker died or was killed\n(raylet) again\n"


def test_no_file_without_lines_of_ray(tmp_path: Path) -> None:
    with divert_ray_lines(tmp_path / "ray.log"):
        print("nothing of Ray's")
    assert not list(tmp_path.iterdir())
