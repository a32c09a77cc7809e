"""Config of the evaluate command: what the flags change."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.evaluate import load_config, make_parser


def test_named_checkpoint_is_scored_when_the_config_resumes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "resume = True\nmodel = dict(type='X')\ntest_evaluator = dict(type='KittiMetric')\n"
    )
    (tmp_path / "w.pth").write_bytes(b"")
    cfg = load_config(make_parser().parse_args([str(tmp_path / "mine.py"), str(tmp_path / "w.pth")]))
    assert (cfg["load_from"], cfg["resume"]) == (str(tmp_path / "w.pth"), False)


def load(folder: Path, text: str, *flags: str) -> Config:
    (folder / "mine.py").write_text(f"model = dict(type='X')\ntest_evaluator = dict(type='KittiMetric')\n{text}\n")
    (folder / "w.pth").write_bytes(b"")
    return load_config(make_parser().parse_args([str(folder / "mine.py"), str(folder / "w.pth"), *flags]))


def test_a_page_needs_no_hook_in_the_config(tmp_path: Path) -> None:
    cfg = load(tmp_path, "", "--page", str(tmp_path / "page"), "--worst", "5", "--score-thr", "0.4")
    expected = {"type": "Det3DVisualizationHook", "page": str(tmp_path / "page"), "worst": 5, "score_thr": 0.4}
    assert cfg["default_hooks"]["visualization"] == expected


def test_the_worst_frames_are_those_of_the_pictures(tmp_path: Path) -> None:
    hook = "default_hooks = dict(visualization=dict(type='Det3DVisualizationHook', score_thr=0.2))"
    cfg = load(tmp_path, hook, "--show-dir", str(tmp_path / "shown"), "--worst", "5")
    given = cfg["default_hooks"]["visualization"]
    assert (given["draw"], given["worst"], given["score_thr"]) == (True, 5, 0.2)
    assert "page" not in given
    with pytest.raises(InputError, match="--worst chooses the frames of --show-dir or --page"):
        load(tmp_path, hook, "--worst", "5")
