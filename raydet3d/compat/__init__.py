"""Aliases: modules that import `mmengine`, `mmdet3d`, `mmdet` or `mmcv` get raydet3d's objects under those names.

`install()` puts an import finder (`finder`) in front of Python's own, which provides a module for each of their paths;
its names are looked up in a table (`aliases`). It is active once a config names plug-ins in `custom_imports`, or
objects by their dotted paths, as pure-python configs do. `RAYDET3D_COMPAT=off` leaves those names to whatever is
installed. Nothing here imports torch.
"""

from raydet3d.compat.finder import ROOTS, MissingAlias, install, is_active, uninstall
from raydet3d.compat.managers import ManagerMixin
from raydet3d.compat.plugins import (
    DottedPath,
    PluginState,
    find_object,
    import_object,
    import_plugin,
    import_user_packages,
    plugin_state,
)

__all__ = [
    "ROOTS",
    "DottedPath",
    "ManagerMixin",
    "MissingAlias",
    "PluginState",
    "find_object",
    "import_object",
    "import_plugin",
    "import_user_packages",
    "install",
    "is_active",
    "plugin_state",
    "uninstall",
]
