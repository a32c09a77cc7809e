"""MMDetection3D's published configs give no false alarm. They are fetched, so this is not in the default run."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.parity.contradictions import survey

pytestmark = pytest.mark.slow


def download(package: str, folder: Path) -> None:
    """Unpack a package's wheel, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    done = subprocess.run([*command, package], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{package} cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")


def test_published_configs_have_no_contradiction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("mmdet3d==1.4.0", "mmdet==3.3.0"):  # some inherit from the latter's
        download(package, tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    found, unread = survey(tmp_path / "site/mmdet3d/.mim/configs")
    assert len(found) >= 123
    assert len(unread) <= 1
    assert {name: messages for name, messages in found.items() if messages} == {}
