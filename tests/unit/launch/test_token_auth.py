"""Tokens of a cluster: what is refused before it is joined, and what a failed connection is explained by."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from raydet3d.errors import InputError
from raydet3d.launch.token_auth import check_token, explain_refusal


def test_missing_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match=r"no token in .*export RAY_AUTH_TOKEN=<token>"):
        check_token()
    (tmp_path / "token").write_text("secret")
    check_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (tmp_path / "token").unlink()
    check_token()


def test_refused_token_gives_the_export_line() -> None:
    error = RuntimeError("Unauthorized: Missing authentication token. RAY_AUTH_MODE is currently 'disabled'")
    assert "10.0.0.1:6379 wants a token; export RAY_AUTH_MODE=token" in str(explain_refusal("10.0.0.1:6379", error))
    assert explain_refusal("10.0.0.1:6379", RuntimeError("no such node")) is None


def test_address_without_a_cluster_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "ray start --head" in str(explain_refusal("127.0.0.1:9", ConnectionError("refused")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "If it is a cluster, it wants a token" in str(explain_refusal(address, ConnectionError("no answer")))
