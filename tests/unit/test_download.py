"""Downloads, from a server of this process: once, whole or not at all, and a sentence where there is no net."""

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raydet3d.checkpoint.safe_load import read_checkpoint
from raydet3d.download import cached, fetch
from raydet3d.errors import InputError
from raydet3d.runtime.run_setup import resolve_resume


class Site:
    """A server that counts, and can break off."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[str] = []
        self.missing = 0
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                if "gone" in self.path:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(site.content)))
                self.end_headers()
                self.wfile.write(site.content[: len(site.content) - site.missing])

            def log_message(self, *args: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    torch.save({"state_dict": {"w": torch.arange(3.0)}}, tmp_path / "x.pth")
    made = Site((tmp_path / "x.pth").read_bytes())
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_download_goes_to_the_cache_of_torch_hub_once(site: Site, tmp_path: Path) -> None:
    url = f"{site.url}/models/net_20200620-77663cd6.pth"
    path = fetch(url)
    assert path == str(tmp_path / "cache/hub/checkpoints/net_20200620-77663cd6.pth")
    assert read_checkpoint(Path(path))["state_dict"]["w"].tolist() == [0, 1, 2]
    assert fetch(url) == path
    assert site.asked == ["/models/net_20200620-77663cd6.pth"]
    assert [file.name for file in Path(path).parent.iterdir() if not file.name.startswith(".")] == [Path(path).name]


def test_concurrent_processes_download_once(site: Site) -> None:
    url = f"{site.url}/a-0123abcd.pth"
    threads = [threading.Thread(target=fetch, args=(url,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.asked) == 1
    assert cached(url).read_bytes() == site.content


def test_urls_with_equal_file_names_get_different_cache_names(site: Site) -> None:
    one, other = (cached(f"http://{host}/latest.pth") for host in ("a.org", "b.org"))
    assert one != other
    assert one.name.startswith("latest-")
    assert one.suffix == ".pth"
    assert cached("http://a.org/").name.startswith("checkpoint-")


def test_broken_download_leaves_no_file(site: Site) -> None:
    site.missing = 7
    url = f"{site.url}/a-0123abcd.pth"
    size = len(site.content)
    with pytest.raises(InputError, match=f"cannot download {url}: it broke off after {size - 7} of {size} bytes"):
        fetch(url)
    assert [file.name for file in cached(url).parent.iterdir()] == [".downloads.lock"]
    site.missing = 0
    assert Path(fetch(url)).read_bytes() == site.content


def test_missing_file_and_missing_network_are_input_errors(site: Site) -> None:
    with pytest.raises(InputError, match=r"gone\.pth: the server says 404 Not Found; fetch it elsewhere and give its"):
        fetch(f"{site.url}/gone.pth?token=hush")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.pth"
        with pytest.raises(InputError, match=rf"cannot download {url}: Connection refused; .* or put it at .*hub"):
            fetch(url)


def test_paths_are_returned_unchanged_and_unknown_schemes_refused(site: Site) -> None:
    assert fetch(None) is None
    assert fetch("work_dirs/x.pth") == "work_dirs/x.pth"
    with pytest.raises(InputError, match="torchvision:// is not known here; give a path or an http"):
        fetch("torchvision://resnet50")


def test_run_loads_weights_from_a_url(site: Site, tmp_path: Path) -> None:
    url = f"{site.url}/a-0123abcd.pth"
    assert resolve_resume({"load_from": url}, False, tmp_path, "t").load_from == str(cached(url))
    start = resolve_resume({"resume": url}, False, tmp_path, "t")
    assert start.resume_from == cached(url)
    assert start.state is not None
