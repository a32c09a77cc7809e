"""A job on a cluster that asks for a token trains the demo; without the token Ray names the variable to export.

A cluster of its own: its home, its ports and its temporary folder are nobody else's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RAY = str(Path(sys.executable).with_name("ray"))
SHORT = ["epoch_num=1", "num_train=24", "num_val=8", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Head:
    """A head with token authentication.

    Args:
        home: Home folder of all that belongs to it.
        place: Its temporary folder, with a short path.
    """

    def __init__(self, home: Path, place: str) -> None:
        plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.env = {**plain, "HOME": str(home), "RAY_TMPDIR": place, "RAY_USAGE_STATS_ENABLED": "0"}
        self.token_env = {**self.env, "RAY_AUTH_MODE": "token"}
        subprocess.run([RAY, "get-auth-token", "--generate"], env=self.env, check=True, capture_output=True, timeout=60)
        self.gcs, self.dashboard, agent, client, metrics = free_ports(5)
        command = [
            RAY,
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            f"--port={self.gcs}",
            "--dashboard-host=127.0.0.1",
        ]
        command += [f"--dashboard-port={self.dashboard}", f"--dashboard-agent-listen-port={agent}"]
        command += [f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}", f"--temp-dir={place}"]
        self.process = subprocess.Popen(
            command, env=self.token_env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def jobs(self, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", args[0], f"--address=http://127.0.0.1:{self.dashboard}", *args[1:]]
        return subprocess.run(
            command, env=env or self.token_env, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
        )

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while self.jobs("list").returncode != 0:
            assert self.process.poll() is None
            assert time.monotonic() < deadline, "the cluster does not come up"
            time.sleep(1)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    place = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    head = Head(tmp_path_factory.mktemp("home"), place)
    try:
        head.wait()
        yield head
    finally:
        head.stop()
        shutil.rmtree(place, ignore_errors=True)


def test_job_trains_and_logs_readable_lines(head: Head, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    options = [*SHORT, f"data_root={tmp_path}/town/"]
    train = ["python", "-m", "raydet3d.train", "configs/demo/pointpillars_town.py", "--workers", "2"]
    done = head.jobs(
        "submit", "--submission-id=town", "--working-dir=.", "--runtime-env=cluster/runtime_env.yaml", "--",
        *train, "--work-dir", str(work_dir), "--cfg-options", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "Job 'town' succeeded" in done.stdout + done.stderr
    log = head.jobs("logs", "town").stdout
    assert re.search(r"Epoch\(train\) +\[1\]\[ *6/6\]", log)
    assert re.search(r"Finished in \d+ min \d+ s with 2 workers", log)
    assert (work_dir / "epoch_1.pth.json").is_file()
    token = (Path(head.env["HOME"]) / ".ray" / "auth_token").read_text().strip()
    assert token not in log
    assert not [path for path in work_dir.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def test_job_submit_without_token_names_the_variable(head: Head, tmp_path: Path) -> None:
    said = head.jobs("submit", "--working-dir=.", "--", "true", env={**head.env, "RAY_AUTH_MODE": "disabled"})
    assert said.returncode != 0
    assert "RAY_AUTH_MODE is currently 'disabled'" in said.stdout + said.stderr
    assert "Ensure that" in said.stdout + said.stderr
    stranger = {**head.token_env, "HOME": str(tmp_path)}
    said = head.jobs("submit", "--working-dir=.", "--", "true", env=stranger)
    assert said.returncode != 0
    assert "RAY_AUTH_TOKEN" in said.stdout + said.stderr


@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_train_without_token_prints_the_export_line(head: Head, tmp_path: Path, mode: str) -> None:
    env = {**head.env, "HOME": str(tmp_path), "RAY_AUTH_MODE": mode, "RAY_ADDRESS": f"127.0.0.1:{head.gcs}"}
    command = [sys.executable, "-m", "raydet3d.train", "configs/demo/pointpillars_town.py", "--workers", "2"]
    command += ["--work-dir", str(tmp_path / "run"), "--cfg-options", *SHORT, f"data_root={tmp_path}/town/"]
    said = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert said.returncode == 2, said.stdout + said.stderr
    assert "export RAY_AUTH_" in said.stderr.splitlines()[-1]
    assert "Traceback" not in said.stdout + said.stderr
