"""What every training process does: a whole toy run from a plan, and what of its config it leaves on disk."""

import os
import pickle
import sys
from pathlib import Path

import pytest

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.worker import run_worker
from tests.kit.toy import toy_cfg

SECRET = "9f8e7d6c5b4a"


def test_files_of_a_run_hold_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a variable's value, nor what was computed from it, nor a literal under a key of that kind."""
    monkeypatch.setenv("RD_SECRET", SECRET)
    (tmp_path / "base.py").write_text(toy_cfg(tmp_path / "run").pretty_text)
    path = tmp_path / "mine.py"
    path.write_text(
        "_base_ = 'base.py'\n"
        "site = dict(token='{{$RD_SECRET:}}', header='Bearer {{$RD_SECRET:}}', password='0f1e2d3c4b5a')\n"
        "visualizer = dict(_delete_=True, type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])\n"
        "address = f\"https://x.org/{site['token']}\"\n"
    )
    cfg = Config.fromfile(path)
    assert cfg.address.endswith(SECRET)
    run_worker(RunSpec(cfg=cfg.to_dict(), filename=str(path), run_id="start", origin=cfg.origin))
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert {"mine.py", "config.py", "epoch_3.pth"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        assert SECRET.encode() not in content, file
        assert b"0f1e2d3c4b5a" not in content, file
    again = Config.fromfile(tmp_path / "run" / "mine.py")
    assert again.site.header == f"Bearer {SECRET}"
    assert again.address == cfg.address


def test_user_module_folders_are_on_the_path_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a cluster that was joined has another PYTHONPATH than the command that starts the run."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rd_elsewhere.py").write_text("LOADED = True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    cfg = toy_cfg(tmp_path / "run", custom_imports=dict(imports=["rd_elsewhere"], allow_failed_imports=False))
    with pytest.raises(InputError, match="rd_elsewhere"):
        run_worker(RunSpec(cfg=cfg.to_dict(), filename=None, run_id="without"))
    monkeypatch.setenv("PYTHONPATH", f"mine{os.pathsep}{tmp_path / 'gone'}")
    plan = RunSpec(cfg=cfg.to_dict(), filename=None, run_id="with")
    monkeypatch.delenv("PYTHONPATH")
    run_worker(pickle.loads(pickle.dumps(plan)))
    assert sys.modules.pop("rd_elsewhere").LOADED
