"""Secrets of the environment and the config appear in nothing that a run leaves behind: every byte is searched.

Three ways in: a blank in braces, python code that asks the environment, a literal under ``api_key``. They go through
a visualizer backend that is built from them, so that the run really has them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BRACES, CODE, LITERAL, TOKEN = "br4ces-7f3a91c2d5", "c0de-51b7e08a44", "l1teral-9d20c6f1ab", "t0ken-3e8b75d0c9"

CONFIG = """
import os
custom_imports = dict(imports=['tests.integration.secret_backend'])
model = dict(type='SecretToy')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
dataset = dict(type='SecretData')
loader = dict(batch_size=2, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=True))
train_dataloader = loader
val_dataloader = dict(loader, sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = dict(type='SecretMetric')
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
val_cfg = dict()
saves = dict(type='CheckpointHook', interval=1, save_best='auto', published_keys=['meta', 'state_dict'])
default_hooks = dict(checkpoint=saves)
visualizer = dict(
    type='Visualizer',
    vis_backends=[
        dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend'),
        dict(
            type='NeedsSecrets',
            braces='{{$SECRET_BRACES:none}}',
            code=os.environ['SECRET_CODE'],
            api_key='LITERAL',
            login=dict(token='TOKEN'))
    ])
""".replace("LITERAL", LITERAL).replace("TOKEN", TOKEN)


def texts(folder: Path) -> dict[str, bytes]:
    """The content of all files of a folder; that of checkpoints unpacked as well."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        found[str(path)] = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                found |= {f"{path}:{name}": packed.read(name) for name in packed.namelist()}
    return found


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A temporary folder whose path leaves room for the names of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=[pytest.mark.ray, pytest.mark.slow])])
def test_nothing_that_a_run_leaves_behind_holds_a_secret(workers: int, tmp_path: Path, short_dir: Path) -> None:
    (tmp_path / "with_keys.py").write_text(CONFIG)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SECRET_BRACES": BRACES,
        "SECRET_CODE": CODE,
        "SEEN": str(tmp_path / "seen"),
        "RAY_TMPDIR": str(short_dir),
    }
    command = [sys.executable, "-m", "raydet3d.train", "with_keys.py", "--workers", str(workers), "--work-dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # The run had them.
    assert (tmp_path / "seen").read_text().splitlines()[-1].split() == [BRACES, CODE, LITERAL, TOKEN]
    left = texts(tmp_path / "run")
    assert any("epoch_2.pth:" in name and name.endswith("data.pkl") for name in left)
    assert any("events.out" in name for name in left)
    assert any(name.endswith("with_keys.py") for name in left)
    left |= texts(short_dir)  # Ray's own logs
    left["the terminal"] = (done.stdout + done.stderr).encode()
    for secret in (BRACES, CODE, LITERAL, TOKEN):
        assert not [name for name, data in left.items() if secret.encode() in data], secret
    dump = (tmp_path / "run" / "with_keys.py").read_text()
    assert "{{$SECRET_BRACES:none}}" in dump
    assert "api_key='<redacted>'" in dump


def test_an_error_that_quotes_the_config_does_not_quote_a_secret(tmp_path: Path) -> None:
    (tmp_path / "with_keys.py").write_text(CONFIG.replace("type='NeedsSecrets',", "type='NeedsSecrets', colour='red',"))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SECRET_BRACES": BRACES, "SECRET_CODE": CODE, "SEEN": "/dev/null"}
    command = [sys.executable, "-m", "raydet3d.train", "with_keys.py", "--workers", "0", "--work-dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "colour" in done.stderr
    for secret in (BRACES, CODE, LITERAL, TOKEN):
        assert secret not in done.stdout + done.stderr
