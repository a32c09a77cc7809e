"""The guest entrance: modules that say `mmengine`, `mmdet3d`, `mmdet` or `mmcv` find ours under those names.

`install()` puts an import finder in front of python's own (`finder`), which answers for every path of theirs with a
module of names that are looked up here (`names`). It is active once a config names plug-ins in `custom_imports`, or
things by their dotted paths, as pure-python configs do. `RAYDET3D_COMPAT=off` leaves those names to whatever is
installed. Nothing here imports torch.
"""

from raydet3d.compat.finder import ROOTS, MissingAlias, install, is_active, uninstall
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
