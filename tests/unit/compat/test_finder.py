"""The import finder: aliased imports, the user's own files, and errors for missing names."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydet3d import compat
from raydet3d.errors import InputError
from tests.kit.plug_in_folder import on_python_path, write

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with on_python_path(tmp_path):
        yield tmp_path


def test_packages_inner_modules_and_roots_resolve(home: Path) -> None:
    compat.install()
    from mmdet3d.registry import HOOKS
    from mmdet3d.structures.bbox_3d import LiDARInstance3DBoxes
    from mmengine import Config
    from mmengine.hooks import Hook
    from mmengine.hooks.checkpoint_hook import CheckpointHook
    from mmengine.optim.scheduler.lr_scheduler import LinearLR

    import raydet3d.config
    import raydet3d.hooks
    import raydet3d.registry
    import raydet3d.structures

    assert HOOKS is raydet3d.registry.HOOKS
    assert LiDARInstance3DBoxes is raydet3d.structures.LiDARInstance3DBoxes
    assert Config is raydet3d.config.Config
    assert (Hook, CheckpointHook) == (raydet3d.hooks.Hook, raydet3d.hooks.CheckpointHook)
    assert LinearLR is raydet3d.registry.PARAM_SCHEDULERS.get("LinearLR")
    mmengine = importlib.import_module("mmengine")
    assert mmengine.dist.get_dist_info() == (0, 1)  # a package that was not imported by itself
    assert mmengine.__version__ == "0.10.7"
    space: dict[str, object] = {}
    exec("from mmengine.structures import *", space)
    assert {"BaseDataElement", "InstanceData"} <= set(space)
    assert "OptimWrapper" in dir(importlib.import_module("mmengine.optim"))


@pytest.mark.parametrize(
    ("statement", "name", "hint"),
    [
        ("from mmengine.hooks import CheckpointHok", "mmengine.hooks.CheckpointHok", "mmengine.hooks.CheckpointHook"),
        ("from mmdet3d.models import TPVFormer", "mmdet3d.models.TPVFormer", ""),
        ("import mmdet3d.testing", "mmdet3d.testing", ""),
        ("from mmcv.ops import Voxelization", "mmcv.ops", ""),
        ("import mmdet3d.engine.hooks.my_hook", "mmdet3d.engine.hooks.my_hook", "mmdet3d/engine/hooks/my_hook.py"),
    ],
)
def test_missing_name_raises_with_the_nearest(home: Path, statement: str, name: str, hint: str) -> None:
    compat.install()
    with pytest.raises(compat.MissingAlias) as caught:
        exec(statement, {})
    assert name in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, InputError)


def test_hasattr_and_import_guards_work(home: Path) -> None:
    compat.install()
    hooks = importlib.import_module("mmengine.hooks")
    assert not hasattr(hooks, "NPUProfilerHook")
    assert getattr(hooks, "NPUProfilerHook", None) is None


def test_user_files_are_found_beside_the_aliases(home: Path) -> None:
    write(
        home,
        {
            "mmdet3d/engine/hooks/my_hook.py": "from . import Hook_\nfrom .deep.inner import VALUE\n",
            "mmdet3d/engine/hooks/__init__.py": "Hook_ = 1\nfrom mmengine.hooks import Hook\n",
            "mmdet3d/engine/hooks/deep/__init__.py": "",
            "mmdet3d/engine/hooks/deep/inner.py": "VALUE = 3\n",
            "mmdet3d/mine.py": "from mmdet3d.registry import HOOKS\n",
        },
    )
    compat.install()
    found = importlib.import_module("mmdet3d.engine.hooks.my_hook")
    assert (found.Hook_, found.VALUE) == (1, 3)
    assert found.__file__ == str(home / "mmdet3d/engine/hooks/my_hook.py")
    package = importlib.import_module("mmdet3d.engine.hooks")
    assert package.my_hook is found
    assert (
        package.Det3DVisualizationHook.__module__ == "raydet3d.hooks.visualization"
    )  # the user's file takes nothing away
    assert importlib.import_module("mmdet3d.mine").HOOKS is importlib.import_module("raydet3d.registry").HOOKS


def run(code: str, *path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    names = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), **env}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=names, check=False)


def installed(folder: Path) -> Path:
    """A python path entry with an MMEngine and an MMDetection3D that pip might have put there."""
    return write(
        folder / "site-packages",
        {
            "mmengine/__init__.py": "from .version import __version__\nREAL = True\n",
            "mmengine/version.py": "__version__ = 'real'\n",
            "mmengine/hooks/__init__.py": "class Hook: pass\n",
            "mmdet3d/__init__.py": "raise AssertionError('the real one was run')\n",
            "mmdet3d/version.py": "",
            "mmdet3d/engine/__init__.py": "",
            "mmdet3d/engine/hooks/__init__.py": "raise AssertionError('the real one was run')\n",
            "mmdet3d/models/layers/vote.py": "",
        },
    )


USE = "from mmengine.hooks import Hook; import mmengine; print(Hook.__module__, mmengine.__version__)"


def test_aliases_win_over_installed_packages(tmp_path: Path) -> None:
    real = installed(tmp_path)
    done = run(
        f"from raydet3d import compat; compat.install(); {USE}\n"
        "from mmdet3d.engine.hooks import Det3DVisualizationHook\n"
        "from raydet3d.registry import HOOKS\nprint('NoSuchHook' in HOOKS)\n"
        "import mmdet3d.models.layers.vote_module",
        real,
    )
    assert done.stdout.splitlines() == ["raydet3d.hooks.base 0.10.7", "False"]
    assert "raydet3d has nothing for 'mmdet3d.models.layers.vote_module'" in done.stderr.splitlines()[-1]


def test_compat_off_leaves_names_to_installed_packages(tmp_path: Path) -> None:
    real = installed(tmp_path)
    done = run(f"from raydet3d import compat; print(compat.install()); {USE}", real, RAYDET3D_COMPAT="off")
    assert done.stdout.splitlines() == ["False", "mmengine.hooks real"]


def test_install_refuses_when_the_real_package_is_imported(tmp_path: Path) -> None:
    real = installed(tmp_path)
    done = run("import mmengine; from raydet3d import compat; compat.install()", real)
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("raydet3d.errors.InputError")]
    assert "mmengine is already imported" in last
    assert "RAYDET3D_COMPAT=off" in last
    assert str(real) in last


def test_edited_inits_of_a_clone_are_run(tmp_path: Path) -> None:
    """A whole copy of theirs on the path, with the edit that the guide asks for."""
    write(
        tmp_path,
        {
            "mmdet3d/__init__.py": "raise AssertionError('the real one was run')\n",
            "mmdet3d/version.py": "",
            "mmdet3d/engine/__init__.py": "raise AssertionError('the real one was run')\n",
            "mmdet3d/engine/hooks/__init__.py": (
                "from .visualization_hook import Det3DVisualizationHook\nfrom .my_hook import MyHook\n"
            ),
            "mmdet3d/engine/hooks/visualization_hook.py": "raise AssertionError('the real one was run')\n",
            "mmdet3d/engine/hooks/my_hook.py": (
                "from mmengine.hooks import Hook\nfrom mmdet3d.registry import HOOKS\n"
                "@HOOKS.register_module()\nclass MyHook(Hook): pass\n"
            ),
        },
    )
    done = run("from raydet3d.registry import HOOKS; print(HOOKS.get('MyHook').__module__)", tmp_path)
    assert done.stdout.strip() == "mmdet3d.engine.hooks.my_hook", done.stderr


def test_uninstall_removes_all_modules(tmp_path: Path) -> None:
    done = run(
        "import sys; from raydet3d import compat; before = set(sys.modules)\n"
        "compat.install(); import mmengine.hooks; compat.uninstall()\n"
        "print(compat.is_active(), [n for n in sys.modules if n.startswith('mm')])\n"
        "try: import mmengine\nexcept ModuleNotFoundError: print('gone')"
    )
    assert done.stdout.splitlines() == ["False []", "gone"]
