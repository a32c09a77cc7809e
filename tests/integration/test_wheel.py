"""A wheel holds the configs, and who installed it finds them from anywhere."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("raydet3d", "configs", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
FIND = "from raydet3d.config import Config, find_config; print(find_config('configs/{0}')); Config.fromfile('{0}')"


def test_configs_are_inside_and_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source)
    command = [sys.executable, "-W", "error::Warning:setuptools", "-c", BUILD, str(tmp_path)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("raydet3d-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for suffix in ("*.py", "*.yaml"):
        for file in (ROOT / "configs").rglob(suffix):
            assert f"raydet3d/{file.relative_to(ROOT).as_posix()}" in inside
    assert {"raydet3d/py.typed", "raydet3d/CHANGELOG.md"} <= inside
    for suffix in ("*.css", "*.html", "*.js"):
        for file in (ROOT / "raydet3d").rglob(suffix):
            assert file.relative_to(ROOT).as_posix() in inside
    assert not [name for name in inside if name.startswith(("tests", "configs"))]

    away = tmp_path / "away"
    away.mkdir()
    name = "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py"
    command = [sys.executable, "-c", FIND.format(name)]
    site = tmp_path / "site"
    found = subprocess.run(command, cwd=away, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == str(site / "raydet3d" / "configs" / name), found.stderr
