"""Config of the evaluate command: what the flags change."""

from __future__ import annotations

from pathlib import Path

from raydet3d.evaluate import load_config, make_parser


def test_named_checkpoint_is_scored_when_the_config_resumes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "resume = True\nmodel = dict(type='X')\ntest_evaluator = dict(type='KittiMetric')\n"
    )
    (tmp_path / "w.pth").write_bytes(b"")
    cfg = load_config(make_parser().parse_args([str(tmp_path / "mine.py"), str(tmp_path / "w.pth")]))
    assert (cfg["load_from"], cfg["resume"]) == (str(tmp_path / "w.pth"), False)
