"""Plug-ins: found by module, by dotted path, by an init of the user's own; and first of all in other processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydet3d import compat
from raydet3d.compat.plugins import find_object
from raydet3d.errors import InputError
from raydet3d.registry import DATASETS, HOOKS, MODELS
from tests.kit.plug_in_folder import on_python_path, write

ROOT = Path(__file__).resolve().parents[3]
HOOK = (
    "from mmengine.hooks import Hook\nfrom mmdet3d.registry import HOOKS\n"
    "@HOOKS.register_module()\nclass Mine(Hook):\n    def __init__(self, a=None): self.a = a\n"
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with on_python_path(tmp_path):
        yield tmp_path


def test_plug_in_is_imported_with_aliases_active(home: Path) -> None:
    write(home, {"plug_in.py": HOOK})
    compat.import_plugin("plug_in")
    assert HOOKS.build({"type": "Mine"}).__module__ == "plug_in"


def test_the_name_of_a_class_is_not_a_module(home: Path) -> None:
    write(home, {"plug_in.py": HOOK})
    with pytest.raises(ImportError, match=r"'Mine' is a name in the module 'plug_in'; name the module"):
        compat.import_plugin("plug_in.Mine")


def test_dotted_paths(home: Path) -> None:
    write(
        home,
        {
            "plug_in.py": HOOK + "class Outer:\n    class Inner: pass\n",
            "mmdet3d/engine/hooks/own.py": HOOK.replace("Mine", "Own"),
        },
    )
    assert find_object("plug_in.Mine").__name__ == "Mine"
    assert find_object("plug_in.Outer.Inner").__qualname__ == "Outer.Inner"
    assert find_object("mmdet3d.engine.hooks.own.Own").__module__ == "mmdet3d.engine.hooks.own"
    assert find_object("mmengine.hooks.CheckpointHook") is HOOKS.get("CheckpointHook")
    assert find_object("torch.optim.adamw.AdamW").__name__ == "AdamW"
    assert find_object("plug_in.Nothing") is None
    assert find_object("no_such_package.Thing") is None
    assert find_object("mmdet3d.models.layers.Thing") is None


def test_error_of_a_failing_module_is_raised(home: Path) -> None:
    write(home, {"broken.py": "from mmdet3d.models import Nothing\n", "absent.py": "import no_such_package\n"})
    with pytest.raises(InputError, match=r"nothing for 'mmdet3d\.models\.Nothing'"):
        find_object("broken.Thing")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        find_object("absent.Thing")


def test_dotted_path_argument_is_imported_when_built(home: Path) -> None:
    write(home, {"plug_in.py": HOOK})
    given = {"type": "plug_in.Mine", "a": [compat.DottedPath("torch.nn.GELU"), "torch.nn.GELU"]}
    import torch

    assert HOOKS.build(given).a == [torch.nn.GELU, "torch.nn.GELU"]
    with pytest.raises(InputError, match=r"torch\.nn\.Nothing"):
        MODELS.build({"type": "VoxelNet", "a": compat.DottedPath("torch.nn.Nothing")})


def test_user_init_is_imported_on_a_registry_miss(home: Path) -> None:
    write(
        home,
        {
            "mmdet3d/datasets/__init__.py": "from .mine import MyData\n",
            "mmdet3d/datasets/mine.py": (
                "from mmdet3d.datasets import KittiDataset\nfrom mmdet3d.registry import DATASETS\n"
                "@DATASETS.register_module()\nclass MyData(KittiDataset): pass\n"
            ),
        },
    )
    assert "MyHook" not in HOOKS
    assert DATASETS.get("MyData").__module__ == "mmdet3d.datasets.mine"


LATE = """
import sys
from torch.utils.data import DataLoader
from raydet3d import compat
from raydet3d.data.seeded import SeededDataset

if __name__ == "__main__":
    compat.import_plugin("plug_in")
    import plug_in
    dataset = SeededDataset(plug_in.Data(), 0)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context=sys.argv[1],
                        collate_fn=plug_in.together)
    print([batch for batch in loader])
"""
DATA = """
from mmengine.dataset import Compose
from mmdet3d.registry import DATASETS
from mmengine.dist import get_rank

def together(batch):
    from mmengine.structures import InstanceData  # only now, in the loader's process
    return [float(b) for b in batch]

@DATASETS.register_module()
class Data:
    def __init__(self): self.pipeline = Compose([])
    def __len__(self): return 4
    def __getitem__(self, index): return self.pipeline(index) + 10 * get_rank()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_know_the_aliases(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    write(tmp_path, {"plug_in.py": DATA, "main.py": LATE})
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "main.py", method], cwd=tmp_path, capture_output=True, text=True, env=env, check=False
    )
    assert done.stdout.strip() == "[[0.0, 1.0], [2.0, 3.0]]", done.stderr


def test_plugin_state_is_unpickled_before_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that knows of nothing, an object of a plug-in's class after the luggage comes back whole."""
    monkeypatch.setattr(compat.plugins, "_IMPORTED", {})  # of this process, other tests' plug-ins
    write(tmp_path, {"plug_in.py": HOOK})
    with on_python_path(tmp_path):
        compat.import_plugin("plug_in")
        import plug_in

        packed = pickle.dumps((compat.plugin_state(), plug_in.Mine(3)))
        bare = pickle.dumps(plug_in.Mine(3))
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())[1].a)"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], input=packed, capture_output=True, env=env, check=False)
    assert done.stdout.strip() == b"3", done.stderr.decode()
    done = subprocess.run([sys.executable, "-c", code], input=bare, capture_output=True, env=env, check=False)
    assert b"No module named 'mmengine'" in done.stderr
