"""The spot watcher against a server that plays the three clouds' metadata services as their guides describe them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from raydet3d.launch.spot import CLOUDS, Metadata, Notice, find_cloud, main, wait_for_notice


class Cloud(ThreadingHTTPServer):
    """A metadata service: what it answers depends on the path and on the header that its guide demands."""

    kind = "aws"
    notice = False
    broken = False
    asked: list[str]

    def answer(self, method: str, path: str, headers: Any) -> tuple[int, str]:
        self.asked.append(path)
        if self.broken:
            return 503, ""
        soon = datetime.now(UTC) + timedelta(seconds=100)
        if self.kind == "aws":
            if (method, path) == ("PUT", "/latest/api/token"):
                return (200, "TOKEN") if headers["X-aws-ec2-metadata-token-ttl-seconds"] else (400, "")
            if headers["X-aws-ec2-metadata-token"] != "TOKEN":
                return 401, ""
            text = json.dumps({"action": "terminate", "time": soon.strftime("%Y-%m-%dT%H:%M:%SZ")})
            return (200, text) if self.notice and path == "/latest/meta-data/spot/instance-action" else (404, "")
        if self.kind == "gcp":
            if headers["Metadata-Flavor"] != "Google":
                return 403, ""
            known = {"id": "42", "preempted": "TRUE" if self.notice else "FALSE", "maintenance-event": "NONE"}
            name = path.removeprefix("/computeMetadata/v1/instance/")
            return (200, known[name]) if name in known else (404, "")
        if headers["Metadata"] != "true":
            return 400, ""
        if path.startswith("/metadata/instance/compute/name"):
            return 200, "vm-3"
        if not path.startswith("/metadata/scheduledevents?api-version="):
            return 404, ""
        at = soon.strftime("%a, %d %b %Y %H:%M:%S GMT")
        other = {"EventType": "Preempt", "Resources": ["vm-1"], "NotBefore": at}
        freeze = {"EventType": "Freeze", "Resources": ["vm-3"], "NotBefore": at}
        mine = [{"EventType": "Preempt", "Resources": ["vm-2", "vm-3"], "NotBefore": at}] if self.notice else []
        return 200, json.dumps({"DocumentIncarnation": 1, "Events": [other, freeze, *mine]})


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code, text = self.server.answer(self.command, self.path, self.headers)  # type: ignore[attr-defined]
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    do_PUT = do_GET

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    server = Cloud(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def at(server: Cloud) -> Metadata:
    return Metadata(f"http://127.0.0.1:{server.server_port}")


@pytest.mark.parametrize("kind", CLOUDS)
def test_each_cloud_is_told_from_the_others_and_its_notice_is_understood(cloud: Cloud, kind: str) -> None:
    cloud.kind = kind
    assert find_cloud(at(cloud)) == kind
    assert CLOUDS[kind](at(cloud)) is None
    cloud.notice = True
    notice = CLOUDS[kind](at(cloud))
    assert notice is not None
    assert kind.upper() in notice.reason.upper()
    assert notice.seconds == pytest.approx(30 if kind == "gcp" else 100, abs=3)


def test_a_service_that_fails_is_asked_again(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    cloud.broken = True
    timer = threading.Timer(0.2, lambda: (setattr(cloud, "notice", True), setattr(cloud, "broken", False)))
    timer.start()
    notice = wait_for_notice("aws", at(cloud), every_s=0.02)
    timer.join()
    assert isinstance(notice, Notice)
    assert len([r for r in caplog.records if "fails" in r.getMessage()]) == 1
    assert len(cloud.asked) > 3


def test_a_machine_of_no_cloud_has_nothing_to_watch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert main(["--metadata", "http://127.0.0.1:9"]) == 0
    assert "nothing to watch" in caplog.text
