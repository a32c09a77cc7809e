"""Import finder for the aliases: a module for each path of MMEngine and its family, and the user's own files."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from raydet3d.compat.aliases import MODULES, VERSIONS
from raydet3d.errors import InputError

ROOTS = tuple(VERSIONS)
SWITCH = "RAYDET3D_COMPAT"
# Packages whose `__init__.py` users are told to edit: theirs is run even inside a whole copy of MMDetection3D.
EDITED = ("mmdet3d.engine.hooks", "mmdet3d.engine.optimizers")


class MissingAlias(InputError, ImportError):
    """A name of MMEngine's or MMDetection3D's that raydet3d does not have.

    Args:
        message: The sentence.
        name: The dotted name.
    """

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class AliasFinder(MetaPathFinder, Loader):
    """Finds modules below `ROOTS`: the aliases first, then the user's own files; anything else is an error."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname.partition(".")[0] not in ROOTS:
            return None
        if fullname in MODULES:
            spec = ModuleSpec(fullname, self, origin="raydet3d.compat", is_package=True)
            spec.submodule_search_locations = [str(folder) for folder in own_folders(fullname)]
            return spec
        parent = fullname.rpartition(".")[0]
        found = PathFinder.find_spec(fullname, [*map(str, own_folders(parent)), *(path or ())])
        if found is None:
            raise MissingAlias(_absent(fullname), name=fullname)
        return found

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        name = module.__name__
        names = MODULES[name]
        module.__doc__ = f"Names of {name} that raydet3d has."
        module.__dict__.update(
            __getattr__=lambda attribute: _look_up(module, attribute),
            __dir__=lambda: sorted({*vars(module), *names}),
            __all__=sorted(names),
        )
        if name in VERSIONS:
            module.__dict__["__version__"] = VERSIONS[name]
        for folder in own_folders(name):
            file = folder / "__init__.py"
            if file.is_file() and (name in EDITED or not is_whole(folder, name)):
                # As if the user had added these lines to theirs.
                exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)


FINDER = AliasFinder()


def is_off() -> bool:
    """Return whether `RAYDET3D_COMPAT=off` leaves those names to what is installed."""
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "false", "no")


def is_active() -> bool:
    """Return whether the aliases are active in this process."""
    return FINDER in sys.meta_path


def install() -> bool:
    """Activate the aliases for everything that is imported from now on.

    Returns:
        Whether they are active; False where `RAYDET3D_COMPAT=off`.

    Raises:
        InputError: This process has imported the real package already.
    """
    if is_off():
        return False
    if is_active():
        return True
    for root in ROOTS:
        if root in sys.modules:
            where = getattr(sys.modules[root], "__file__", None) or "a folder of that name"
            raise InputError(
                f"{root} is already imported in this process, from {where}: import raydet3d's first (call "
                f"raydet3d.compat.install() at the beginning), or set {SWITCH}=off to work with the installed one"
            )
    sys.meta_path.insert(0, FINDER)
    return True


def uninstall() -> None:
    """Undo `install`, and remove the modules that it provided."""
    if is_active():
        sys.meta_path.remove(FINDER)
        for name in [name for name in sys.modules if name.partition(".")[0] in ROOTS]:
            del sys.modules[name]


def own_folders(name: str) -> Iterator[Path]:
    """Yield the folders on the Python path that may hold files of the user's own for one of their packages.

    Packages that pip has installed are not the user's own: the aliases replace them as a whole.
    """
    for entry in dict.fromkeys(sys.path):
        folder = Path(entry or os.curdir, *name.split("."))
        installed = {"site-packages", "dist-packages"} & set(Path(entry).parts)
        if folder.is_dir() and not (installed and is_whole(folder, name)):
            yield folder


def is_whole(folder: Path, name: str) -> bool:
    """Return whether a folder lies in a whole copy of their package, and not in a tree of a few own files."""
    depth = name.count(".")
    root = folder.parents[depth - 1] if depth else folder
    return (root / "version.py").is_file()


def _look_up(module: ModuleType, attribute: str) -> Any:
    name = module.__name__
    target = MODULES[name].get(attribute)
    if target is not None:
        value = resolve(target)
    elif f"{name}.{attribute}" in MODULES:
        value = importlib.import_module(f"{name}.{attribute}")
    else:
        raise AttributeError(_absent(f"{name}.{attribute}"))
    setattr(module, attribute, value)
    return value


def resolve(target: str) -> Any:
    """Return the object of a target: `module:name`, or `module:table/entry` for an entry of a registry."""
    home, _, name = target.partition(":")
    table, _, entry = name.partition("/")
    found = getattr(importlib.import_module(home), table)
    return found.get(entry) if entry else found


def _absent(fullname: str) -> str:
    parent, _, short = fullname.rpartition(".")
    # The last of equal names wins, and is the one with the shortest path.
    modules = sorted((name for name in MODULES if name.startswith(parent)), key=len, reverse=True)
    known = {name: module for module in modules for name in MODULES[module]}
    near = difflib.get_close_matches(short, known, n=1, cutoff=0.75)
    hint = f"; did you mean {known[near[0]]}.{near[0]}?" if near else ""
    file = Path(*fullname.split(".")).with_suffix(".py").as_posix()
    return f"raydet3d has nothing for {fullname!r}, and no {file} of your own lies on the python path{hint}"
