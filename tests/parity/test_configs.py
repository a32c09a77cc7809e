"""The script that compares a checkout's config files: that it sees a difference, and finds none in ours."""

import shutil
from pathlib import Path

import pytest

from raydet3d.config import configs_root
from tests.kit.mmengine import skip_without_mmengine
from tests.parity import configs


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = configs_root()
    assert root is not None
    shutil.copytree(root, tmp_path / "configs", ignore=shutil.ignore_patterns("sweeps", "__pycache__"))
    return tmp_path


def test_differences() -> None:
    theirs = {"a": {"b": [1, 2], "c": 1}, "d": 1.0, "e": {"<tuple>": [1]}}
    mine = {"a": {"b": [1, 3], "x": 1}, "d": 1, "e": [1]}
    assert list(configs.difference(theirs, mine)) == [
        "a.b.1: 2 against our 3",
        "a.c: only theirs",
        "a.x: only ours",
        "d: 1.0 against our 1",
        "e: {'<tuple>': [1]} against our [1]",
    ]
    assert configs.verdict({"value": theirs}, {"value": theirs}) == ("equal", "")
    assert configs.verdict({"error": "X"}, {"error": "Y"})[0] == "both refuse"
    assert configs.verdict({"value": 1}, {"error": "Y"}) == ("only MMEngine reads it", "Y")


def test_against_mmengine(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is one: ``RAYDET3D_MMENGINE_PYTHON`` names a python that has it."""
    skip_without_mmengine()
    assert configs.main(["--root", str(checkout), "--mmengine", configs.mmengine_python()]) == 0
    assert " equal" in capsys.readouterr().out
