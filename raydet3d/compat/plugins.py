"""Import users' own modules with the aliases active, in this process and in those that it starts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any

from raydet3d.compat.aliases import PLACES
from raydet3d.compat.finder import EDITED, ROOTS, MissingAlias, install, is_active, is_off, is_whole, own_folders
from raydet3d.errors import InputError

_IMPORTED: dict[str, None] = {}  # the plug-ins of this process, in order
_ASKED: set[tuple[str, str]] = set()  # (package, folder) pairs that `import_user_packages` has seen


def import_plugin(name: str) -> None:
    """Import a module that `custom_imports` names, with the aliases active.

    Args:
        name: Its dotted path.

    Raises:
        ImportError: There is none, or something that it imports is missing.
    """
    install()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        module, _, last = name.rpartition(".")
        if error.name == name and module and find_object(name) is not None:
            raise ImportError(f"{last!r} is a name in the module {module!r}; name the module") from None
        raise
    _IMPORTED[name] = None


def find_object(path: str) -> Any:
    """Return the object at a dotted path, or None where there is no such module or name.

    Aliased paths lead to raydet3d's objects and to the user's own files; a user's module may import them.
    """
    if path.partition(".")[0] in ROOTS or not any(root in sys.modules for root in ROOTS):
        install()
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module)
        except ImportError as error:  # the alias finder's, too
            absent = isinstance(error, ModuleNotFoundError | MissingAlias) and error.name
            if absent and (module == absent or module.startswith(f"{absent}.")):
                continue
            raise
        for name in parts[cut:]:
            found = getattr(found, name, None)
        return found
    return None


def import_object(path: str) -> Any:
    """Return the object at a dotted path.

    Raises:
        InputError: Nothing does.
    """
    try:
        found = find_object(path)
        if found is None:  # a module
            install()
            found = importlib.import_module(path)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{path} cannot be imported: {error}") from error
    return found


class DottedPath(str):
    """The dotted path of an object that a pure-python config imported; it is imported when it is used."""

    def build(self) -> Any:
        """Import it.

        Raises:
            InputError: There is no such thing.
        """
        return import_object(self)


def import_user_packages(tables: Iterable[str]) -> bool:
    """Import the aliased packages in which the user has put an `__init__.py` of their own.

    A class that is registered by an import in `mmdet3d/engine/hooks/__init__.py`, one of the two ways that
    MMDetection3D documents, is then found without an entry in the config.

    Args:
        tables: Names of the tables in which something is missing.

    Returns:
        Whether anything was imported that was not before.
    """
    if is_off():
        return False
    found = False
    for package in dict.fromkeys(package for table in tables for package in PLACES.get(table, ())):
        for folder in own_folders(package):
            seen = (package, str(folder.resolve()))
            if seen in _ASKED or not (folder / "__init__.py").is_file():
                continue
            if package in EDITED or not is_whole(folder, package):
                _ASKED.add(seen)
                install()
                importlib.import_module(package)
                found = True
    return found


class PluginState:
    """What a process needs before it can unpickle users' objects: the aliases, and the plug-ins in order.

    Put it before users' objects in what is pickled: unpickling it activates the aliases and imports the plug-ins.

    Args:
        plugins: Names of modules.
    """

    def __init__(self, plugins: tuple[str, ...]) -> None:
        self.plugins = plugins

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self.plugins,)


def plugin_state() -> PluginState | None:
    """Return the plug-in state of this process; None where it has nothing that a fresh one lacks."""
    plugins = tuple(name for name in _IMPORTED if name in sys.modules)
    return PluginState(plugins) if is_active() or plugins else None


def _unpack(plugins: tuple[str, ...]) -> PluginState:
    install()
    for name in plugins:
        import_plugin(name)
    return PluginState(plugins)
