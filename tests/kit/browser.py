"""A headless Chromium driven over its DevTools protocol: JavaScript, mouse, screenshots."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt install chromium)")


class Browser:
    """One page of a headless Chromium that renders without a GPU.

    Args:
        folder: Folder for its profile.
        width: Width of the page in pixels.
        height: Height of the page in pixels.
        scheme: `light` or `dark`.
    """

    def __init__(self, folder: Path, *, width: int = 1280, height: int = 720, scheme: str = "light") -> None:
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        assert CHROMIUM is not None
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
        command += ["--use-angle=swiftshader", "--hide-scrollbars", "--remote-debugging-port=0", "--no-first-run"]
        command += ["--disable-dev-shm-usage", f"--user-data-dir={folder}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self._connect(folder / "DevToolsActivePort"))
            self.call("Page.enable")
            self.call("Runtime.enable")
            self.resize(width, height)
            self.set_scheme(scheme)
        except BaseException:
            self.close()
            raise

    async def _connect(self, file: Path) -> None:
        import aiohttp

        end = time.monotonic() + 60
        while not file.is_file() or len(file.read_text().splitlines()) < 2:
            assert self._process.poll() is None, "chromium ended"
            assert time.monotonic() < end, "chromium does not start"
            await asyncio.sleep(0.05)
        port = file.read_text().splitlines()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
            (page,) = [target for target in await answer.json() if target["type"] == "page"]
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), 60))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(str(details.get("exception", details).get("description", details)))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])

    def open(self, file: Path, fragment: str = "") -> None:
        """Open a file and wait until it is read."""
        self.call("Page.navigate", url="about:blank")
        self.wait_for("location.href === 'about:blank'")
        self.call("Page.navigate", url=file.resolve().as_uri() + fragment)
        self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Evaluate JavaScript, await a promise, and return the value."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = 30) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + timeout_s
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}; errors: {self.errors}"
            time.sleep(0.02)

    def cpu_time(self) -> float:
        """Return the CPU seconds of the browser's processes so far."""
        parents: dict[int, int] = {}
        seconds: dict[int, float] = {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                number, rest = int(file.parent.name), file.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            parents[number] = int(rest[1])
            seconds[number] = (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")
        family = {self._process.pid}
        while more := {number for number, parent in parents.items() if parent in family} - family:
            family |= more
        return sum(seconds.get(number, 0.0) for number in family)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page in pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def set_scheme(self, scheme: str) -> None:
        """Prefer light or dark pages."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def mouse(self, kind: str, x: float, y: float, **params: Any) -> None:
        """Send a mouse event: `mouseMoved`, `mousePressed`, `mouseReleased` or `mouseWheel`."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **params)

    def click(self, x: float, y: float) -> None:
        """Click at a place of the page."""
        self.mouse("mouseMoved", x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", buttons=1, clickCount=1)

    def click_on(self, selector: str) -> None:
        """Click on the middle of an element."""
        x, y = self.run(
            f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [r.left + r.width / 2, r.top + r.height / 2]; })()"
        )
        self.click(x, y)

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(self.run(f"document.querySelector({selector!r}).innerText"))

    def screenshot(self, file: Path | None = None) -> bytes:
        """Return the page as PNG, and write it to a file."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if file is not None:
            file.write_bytes(data)
        return data

    def close(self) -> None:
        """End the browser."""
        if hasattr(self, "_session"):
            self._loop.run_until_complete(self._session.close())
        self._loop.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
