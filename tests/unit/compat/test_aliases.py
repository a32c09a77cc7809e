"""The table of aliases: each entry resolves to an object of raydet3d, in the package that it is named after."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydet3d.compat.aliases import MODULES, PLACES, VERSIONS
from raydet3d.compat.finder import resolve
from raydet3d.registry import tables
from tests.kit.mmengine import skip_without_mmengine

TARGETS = sorted({target for names in MODULES.values() for target in names.values()})
# In the real package: is each of these modules there, and does it have each of these names, in it or below it?
ASK = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
absent = []
for module, names in json.load(sys.stdin).items():
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        absent.append(f"{module}: {error}")
        continue
    absent += [f"{module}.{name}" for name in names if not hasattr(found, name)]
print(json.dumps(absent))
"""


@pytest.mark.parametrize("target", TARGETS)
def test_each_alias_resolves_to_an_object_of_raydet3d(target: str) -> None:
    found = resolve(target)
    assert found is not None
    home = getattr(found, "__module__", None)
    assert (
        target.startswith("torch.")
        or home is None
        or home.startswith(("raydet3d", "torch", "types", "typing", "builtins"))
    )


def test_alias_table_imports_nothing() -> None:
    code = (
        "import sys; import raydet3d.compat, raydet3d.registry; "
        "print([name for name in ('torch', 'ray', 'raydet3d.hooks') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_each_alias_package_has_its_parents() -> None:
    for name in MODULES:
        parent = name.rpartition(".")[0]
        assert name in VERSIONS or parent in MODULES, name


def test_places_name_known_tables_and_packages() -> None:
    assert set(PLACES) <= {table.name for table in tables().values()}
    assert {package for packages in PLACES.values() for package in packages} <= set(MODULES)


def test_mmengine_has_what_the_table_says() -> None:
    """The packages themselves; an inner module of ours offers more than theirs, on purpose."""
    skip_without_mmengine()
    python = os.environ.get("RAYDET3D_MMENGINE_PYTHON", sys.executable)
    inner = {name: [] for name in MODULES if name.startswith("mmengine")}
    outer = {
        name: list(names) for name, names in MODULES.items() if name.startswith("mmengine") and name.count(".") <= 1
    }
    # Entered in tables, but not offered by the package: known by their inner module.
    elsewhere = {"mmengine.optim": "mmengine.optim.scheduler", "mmengine.hooks": "mmengine.hooks.hook"}
    asked = {**inner, **outer}
    done = subprocess.run(
        [python, "-c", ASK],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    absent = [name for name in json.loads(done.stdout) if name.rpartition(".")[0] not in elsewhere]
    ours = {"mmengine.registry.FUNCTIONS"}
    assert set(absent) <= ours, absent


@pytest.mark.parametrize("root", VERSIONS)
def test_alias_modules_exist_in_the_published_packages(root: str) -> None:
    assert root in MODULES
    assert not (Path(importlib.import_module("raydet3d").__file__ or "").parent / root).exists()
