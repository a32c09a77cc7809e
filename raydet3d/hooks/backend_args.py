"""Validate `backend_args` of hooks that write files: only local or mounted folders are supported."""

from __future__ import annotations

from raydet3d.config.provenance import config_context
from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg
from raydet3d.info_file import check_backend
from raydet3d.log import MMLogger


def only_local(owner: str, backend_args: PartCfg | None, file_client_args: PartCfg | None = None) -> None:
    """Check that a hook's config selects the local file backend.

    Args:
        owner: The hook's name, for the error message.
        backend_args: None, or `dict(backend='local')`.
        file_client_args: Deprecated name of `backend_args`.

    Raises:
        InputError: Another backend is configured.
    """
    if backend_args is not None and file_client_args is not None:
        raise InputError(f"{owner}: file_client_args is the old name of backend_args; give one of them")
    if file_client_args is not None:
        MMLogger.get_current_instance().warning("%s: file_client_args is the old name of backend_args", owner)
    with config_context(owner):
        check_backend(backend_args or file_client_args)
