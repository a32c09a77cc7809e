"""A server that plays the metadata services of AWS, GCP and Azure, as their guides describe them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class MetadataService(ThreadingHTTPServer):
    """A metadata service: what it answers depends on the path and on the header that its guide demands."""

    kind = "aws"
    notice = False
    broken = False
    asked: list[str]

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, path: str, headers: Message) -> tuple[int, str]:
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


@contextmanager
def metadata_service(kind: str) -> Iterator[MetadataService]:
    """Serve one cloud's metadata for the `with` block."""
    server = MetadataService(("127.0.0.1", 0), Handler)
    server.kind, server.asked = kind, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
