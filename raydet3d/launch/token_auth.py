"""Token authentication of a Ray cluster: find a missing token, and explain why a cluster cannot be joined."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from raydet3d.errors import InputError

EXPORT = (
    "wants a token; export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=<token> (`ray get-auth-token` on its head shows it), or "
    "save it as ~/.ray/auth_token and export RAY_AUTH_MODE=token"
)
REFUSALS = ("authentication token", "Unauthorized", "Unauthenticated", "InvalidAuthToken")


def _sends_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def check_token() -> None:
    """Check that there is a token if Ray is configured to send one.

    Raises:
        InputError: There is none.
    """
    if not _sends_token() or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not path.is_file() or not path.read_text().strip():
        raise InputError(
            f"RAY_AUTH_MODE=token, but there is no token in {path}; copy the cluster's token there "
            "(`ray get-auth-token` on its head shows it), or export RAY_AUTH_TOKEN=<token>"
        )


def explain_refusal(address: str, error: BaseException) -> str | None:
    """Say what to do where a cluster cannot be joined; None for errors that are about something else.

    Args:
        address: `RAY_ADDRESS`.
        error: What `ray.init` raised.
    """
    if any(word in str(error) for word in REFUSALS):
        return f"{address} {EXPORT}"
    if not isinstance(error, ConnectionError):
        return None
    said = str(error).splitlines()[0]
    if not _sends_token() and _is_open(address):  # it may be a cluster that wants a token
        return (
            f"RAY_ADDRESS={address}: something is there, but does not answer ({said}). If it is a cluster, it {EXPORT}"
        )
    return (
        f"RAY_ADDRESS={address}: no cluster answers there ({said}); start one with `ray start --head`, or unset "
        "RAY_ADDRESS to train on this machine"
    )


def _is_open(address: str) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False
