"""Pure-python configs: bases by read_base, imported names, overridden variables, and errors with their place."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydet3d import compat
from raydet3d.config import Config, read_base
from raydet3d.errors import InputError
from raydet3d.registry import HOOKS, OPTIMIZERS, PARAM_SCHEDULERS
from tests.kit.plug_in_folder import on_python_path, write


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    with on_python_path(tmp_path):
        yield tmp_path


READ = "from mmengine.config import read_base\n"
BASE = """
from mmengine.optim.scheduler.lr_scheduler import LinearLR
from torch.optim import AdamW

from mmdet3d.models import VoxelNet

lr = 0.001
epochs = 12
model = dict(type=VoxelNet, neck=dict(type='FPN', depth=3), anchors=[1, 2])
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=lr))
param_scheduler = [dict(type=LinearLR, end=epochs * 2)]
"""
CHILD = """
import math
from collections import OrderedDict

from mmengine.config import read_base
from mmengine.hooks import CheckpointHook

with read_base():
    from .bases.one import *

model.update(dict(neck=dict(depth=5)))
param_scheduler[0].update(start_factor=0.5)
default_hooks = dict(checkpoint=dict(type=CheckpointHook, interval=int(math.pi)))
"""


def read(home: Path, options: dict[str, Any] | None = None, **files: str) -> Config:
    """Read ``run.py`` of files given by their names, with ``__`` for a slash."""
    write(home, {f"{name.replace('__', '/')}.py": text for name, text in files.items()})
    return Config.fromfile(home / "run.py", options)


def test_bases_imports_and_changes(home: Path) -> None:
    cfg = read(home, bases__one=BASE, run=CHILD)
    assert cfg.to_dict() == {
        "lr": 0.001,
        "epochs": 12,
        "model": {"type": "mmdet3d.models.VoxelNet", "neck": {"type": "FPN", "depth": 5}, "anchors": [1, 2]},
        "optim_wrapper": {"optimizer": {"type": "torch.optim.AdamW", "lr": 0.001}},
        "param_scheduler": [{"type": "mmengine.optim.scheduler.lr_scheduler.LinearLR", "end": 24, "start_factor": 0.5}],
        "default_hooks": {"checkpoint": {"type": "mmengine.hooks.CheckpointHook", "interval": 3}},
    }


def test_the_types_are_found_in_our_tables(home: Path) -> None:
    cfg = read(home, bases__one=BASE, run=CHILD)
    assert PARAM_SCHEDULERS.get(cfg.param_scheduler[0].type) is PARAM_SCHEDULERS.get("LinearLR")
    assert HOOKS.build(cfg.default_hooks.checkpoint).interval == 3
    assert OPTIMIZERS.get(cfg.optim_wrapper.optimizer.type) is OPTIMIZERS.get("AdamW")


def test_nothing_is_imported_while_files_are_read(home: Path) -> None:
    write(
        home,
        {
            "run.py": (
                "from no_such_package.deep import Thing\nimport numpy.linalg as la\n"
                "model = dict(type=Thing, x=[la.norm])\n"
            )
        },
    )
    code = (
        "import sys; from raydet3d.config import Config; print(Config.fromfile('run.py').to_dict());"
        "print([name for name in ('torch', 'numpy', 'mmengine') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root)},
    )
    assert done.stdout.splitlines() == [
        "{'model': {'type': 'no_such_package.deep.Thing', 'x': ['numpy.linalg.norm']}}",
        "[]",
    ], done.stderr


@pytest.mark.parametrize("suffix", [".py", ".yaml", ".json"])
def test_a_dump_holds_dotted_names_and_loads_equal(home: Path, suffix: str) -> None:
    more = "import torch\nact = dict(cls=torch.nn.GELU, several=(torch.float16, torch.optim.SGD))\n"
    cfg = read(home, bases__one=BASE, run=CHILD + more)
    text = cfg.dump(home / f"dumped{suffix}")
    assert "torch.nn.GELU" in text
    assert "DottedPath" not in text
    again = Config.fromfile(home / f"dumped{suffix}")
    assert again == cfg
    assert "torch" not in again.keys() - {"lr"}


def test_imported_name_outside_of_type_is_imported_when_read(home: Path) -> None:
    import torch

    cfg = read(
        home,
        run="import torch\nfrom torch import nn\nact = dict(cls=nn.GELU, dtype=torch.float16)\nhalf = torch.float16\n",
    )
    assert cfg.act.cls is torch.nn.GELU
    assert cfg["act"]["dtype"] is torch.float16
    assert cfg.act.get("dtype") is torch.float16
    assert cfg.half is torch.float16
    assert cfg.to_dict()["act"] == {"cls": "torch.nn.GELU", "dtype": "torch.float16"}
    crossed = Config(pickle.loads(pickle.dumps(cfg.to_dict())))  # as on the way to a worker
    assert crossed.act.cls is torch.nn.GELU
    assert "torch" not in cfg
    assert "nn" not in cfg


def test_override_of_a_variable_reaches_what_is_computed_in_every_file(home: Path) -> None:
    cfg = read(home, {"lr": 0.5, "epochs": 3}, bases__one=BASE, run=CHILD)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.param_scheduler[0].end == 6
    with pytest.raises(InputError, match="lr_"):
        Config.fromfile(home / "run.py", {"lr_": 1})


def test_dotted_override_is_applied_last(home: Path) -> None:
    cfg = read(home, {"model.neck.depth": 7, "model.anchors.1": 9}, bases__one=BASE, run=CHILD)
    assert cfg.model.neck.depth == 7
    assert cfg.model.anchors == [1, 9]


def test_single_names_and_renamed_imports(home: Path) -> None:
    run = READ + "with read_base():\n    from .bases.one import lr as base_lr, model\nlr = base_lr * 2\n"
    cfg = read(home, bases__one=BASE, run=run)
    assert list(cfg) == ["base_lr", "model", "lr"]
    assert cfg.lr == 0.002


def test_merge_honours_delete(home: Path) -> None:
    run = (
        "from mmengine.config import read_base\nwith read_base():\n    from .bases.one import *\n"
        "model.merge(dict(neck=dict(_delete_=True, type='SECONDFPN')))\n"
    )
    cfg = read(home, bases__one=BASE, run=run)
    assert cfg.model.neck == {"type": "SECONDFPN"}


def test_update_honours_delete(home: Path) -> None:
    """A published config writes ``train_dataloader.update(dict(_delete_=True, ...))``; MMEngine leaves the flag in."""
    run = READ + (
        "with read_base():\n    from .bases.one import *\n"
        "model.update(dict(_delete_=True, type='VoxelNet', neck=dict(a=1)))\n"
        "optim_wrapper.update(dict(optimizer=dict(_delete_=True, type='SGD')))\n"
    )
    cfg = read(home, bases__one=BASE, run=run)
    assert cfg.model == {"type": "VoxelNet", "neck": {"a": 1}}
    assert cfg.optim_wrapper == {"optimizer": {"type": "SGD"}}


def test_absolute_bases_are_found_on_the_path_and_above(home: Path) -> None:
    files = {
        "pkg/configs/base.py": "lr = 1\n",
        "pkg/configs/deep/run.py": READ + "with read_base():\n    from pkg.configs.base import *\n",
    }
    write(home, files)
    assert Config.fromfile(home / "pkg/configs/deep/run.py").lr == 1
    sys.path.remove(str(home))
    try:
        assert Config.fromfile(home / "pkg/configs/deep/run.py").lr == 1
    finally:
        sys.path.insert(0, str(home))


def test_importing_files_do_not_share_values(home: Path) -> None:
    """``b`` took ``a`` into itself in the base: a change of ``a`` in the child leaves ``b`` alone, as in MMEngine."""
    run = "from mmengine.config import read_base\nwith read_base():\n    from .two import *\na.update(x=2)\n"
    two = "from mmengine.config import read_base\nwith read_base():\n    from .one import *\nb = dict(inner=a)\n"
    cfg = read(home, one="a = dict(x=1)\n", two=two, run=run)
    assert (cfg.a.x, cfg.b.inner.x) == (2, 1)


def test_functions_of_a_base_can_be_called_and_are_no_values(home: Path) -> None:
    run = "from mmengine.config import read_base\nwith read_base():\n    from .one import double\nlr = double(2)\n"
    assert read(home, one="def double(x):\n    return 2 * x\n", run=run).to_dict() == {"lr": 4}


def test_standard_library_imports_do_not_make_a_config_pure(home: Path) -> None:
    """MMEngine takes a text config that imports ``copy`` for a pure-python one in a virtual environment, and dies."""
    cfg = read(
        home,
        one="a = dict(x=1)\n",
        run="import copy\nimport os.path as osp\n_base_ = './one.py'\nb = copy.deepcopy(dict(y=2))\n",
    )
    assert cfg.to_dict() == {"a": {"x": 1}, "b": {"y": 2}}
    assert read(
        home, run="import json, math\nfrom datetime import date\nx = json.loads('[1]') + [math.floor(1.5)]\n"
    ).x == [1, 1]


def test_read_base_of_raydet3d(home: Path) -> None:
    run = "from raydet3d.config import read_base\nwith read_base():\n    from .one import *\n"
    assert read(home, one="a = 1\n", run=run).to_dict() == {"a": 1}
    with read_base():
        pass


@pytest.mark.parametrize(
    ("files", "place", "words"),
    [
        # As two published files have it.
        ({"run": "if '_base_':\n    from .one import *\n", "one": ""}, "run.py:2", "from .one import *"),
        ({"run": "from mmdet3d.models import *\n"}, "run.py:1", "list the imported names"),
        ({"run": "x = 1\nimport torch, numpy\n"}, "run.py:2", "a line for each"),
        ({"run": "from .one import a\n", "one": "a = 1\n"}, "run.py:1", "read_base"),
        ({"run": READ + "with read_base():\n    import one\n", "one": ""}, "run.py:3", "from CONFIG import"),
        ({"run": READ + "with read_base():\n    from . import one\n", "one": ""}, "run.py:3", "from CONFIG import"),
        (
            {"run": READ + "with read_base():\n    from .one import lrr\n", "one": "lr = 1\n"},
            "run.py:3",
            "did you mean 'lr'",
        ),
        ({"run": READ + "with read_base():\n    from .none import *\n"}, "run.py:3", "none.py"),
        ({"run": READ + "with read_base():\n    from nowhere.none import *\n"}, "run.py:3", "nowhere/none.py"),
        ({"run": READ + "with read_base():\n    from .run import *\n"}, "run.py:3", "circular"),
        (
            {"run": "_base_ = './one.py'\n", "one": READ + "with read_base():\n    from .two import *\n", "two": ""},
            "run.py:1",
            "one kind",
        ),
        (
            {"run": READ + "with read_base():\n    from .one import *\n", "one": "_base_ = './two.py'\n", "two": ""},
            "run.py:3",
            "one kind",
        ),
        ({"run": "import torch\nx = torch.zeros(3)\n"}, "run.py:2", "torch.zeros cannot be called"),
        (
            {
                "run": READ + "with read_base():\n    from .one import *\nmodel.updat(x=1)\n",
                "one": "model = dict(y=1)\n",
            },
            "run.py:4",
            "updat",
        ),
        (
            {"run": READ + "with read_base():\n    from .one import *\noptim_warpper = dict()\n", "one": ""},
            "run.py:4",
            "optim_wrapper",
        ),
    ],
)
def test_error_names_file_and_line(home: Path, files: dict[str, str], place: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(home, **files)
    assert place in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_type_is_named(home: Path) -> None:
    cfg = read(home, run="from mmdet3d.engine.hooks import NoSuchHook\ncustom_hooks = [dict(type=NoSuchHook)]\n")
    with pytest.raises(InputError, match=r"mmdet3d\.engine\.hooks\.NoSuchHook"):
        HOOKS.build(cfg.custom_hooks[0])


def test_user_class_needs_no_custom_imports(home: Path) -> None:
    write(home, {"mine/hooks.py": "from mmengine.hooks import Hook\nclass Mine(Hook): pass\n"})
    cfg = read(home, run="from mine.hooks import Mine\ncustom_hooks = [dict(type=Mine)]\n")
    assert not compat.is_active()
    assert type(HOOKS.build(cfg.custom_hooks[0])).__name__ == "Mine"


def test_base_config_that_imports_aliased_names(home: Path) -> None:
    run = (
        "_base_ = './one.py'\nfrom mmengine.config import ConfigDict\nfrom mmdet3d.structures import Box3DMode\n"
        "x = ConfigDict(a=int(Box3DMode.LIDAR))\n"
    )
    assert read(home, one="lr = 1\n", run=run).to_dict() == {"lr": 1, "x": {"a": 0}}
