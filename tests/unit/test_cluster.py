"""The files of ``cluster/``: by Ray's own validator, and for Kubernetes against the fields of KubeRay's resources."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydet3d.runtime import assemble  # noqa: F401 - torch before Ray's autoscaler, as the commands import them
from tests.kit.metadata_service import metadata_service

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
CLOUDS = ["local", "on-prem", "aws", "gcp"]


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def validate(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", CLOUDS)
def test_rays_own_validator_takes_it(name: str) -> None:
    prepared = validate(load(f"{name}.yaml"))
    head = prepared["available_node_types"][prepared["head_node_type"]]
    if name in ("aws", "gcp"):
        assert head["resources"] == {"CPU": 0}


def test_the_validator_would_say_so() -> None:
    config = load("aws.yaml")
    with pytest.raises(Exception, match="typo"):
        validate({**config, "typo": 1})
    with pytest.raises(Exception, match="head_node_type"):
        validate({**config, "head_node_type": "nope"})


@pytest.mark.parametrize("name", CLOUDS)
def test_tokens_versions_and_time_to_save(name: str) -> None:
    text, config = (CLUSTER / f"{name}.yaml").read_text(), load(f"{name}.yaml")
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in line for line in commands if "ray start" in line)
    assert "RAY_JOB_STOP_WAIT_TIME_S=120" in str(config["head_start_ray_commands"])
    if name != "local":
        assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
        assert "/shared" in str(config.get("setup_commands")) + str(config.get("initialization_commands"))
    assert all(pattern.startswith("/") for pattern in config.get("rsync_exclude", []))  # raydet3d/data is code
    assert pins(text) == set(pins((ROOT / "pyproject.toml").read_text()))
    assert text.startswith("#")
    assert "ray job submit" in text
    assert "export RAY_AUTH_MODE=token" in text
    if name in ("aws", "gcp"):
        assert f"cluster/drain_on_notice.sh {name}" in str(config["worker_start_ray_commands"])


def pins(text: str) -> set[str]:
    """The versions of ray and torch that a file asks for."""
    return set(re.findall(r'"((?:ray\[[\w,]+\]|torch)[<>=][^"]+)"', text))


# Of ray.io/v1, KubeRay 1.5 (its API reference); what stands in a pod's template is Kubernetes' own.
JOB = {
    "entrypoint", "runtimeEnvYAML", "submissionMode", "backoffLimit", "activeDeadlineSeconds",
    "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
}  # fmt: skip
SPEC = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
CONTAINER = {"name", "image", "env", "ports", "resources", "volumeMounts", "lifecycle"}


@pytest.mark.parametrize(("name", "kind"), [("kuberay-cluster", "RayCluster"), ("kuberay-job", "RayJob")])
def test_kuberays_manifests(name: str, kind: str) -> None:
    import ray

    manifest = load(f"{name}.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    spec = manifest["spec"]
    if kind == "RayJob":
        assert set(spec) == JOB
        assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
        assert "--resume" in spec["entrypoint"]
        assert "--work-dir /shared/" in spec["entrypoint"]
        spec = spec["rayClusterSpec"]
    assert set(spec) == SPEC
    assert spec["rayVersion"].rpartition(".")[0] == ray.__version__.rpartition(".")[0]
    assert spec["authOptions"] == {"mode": "token"}
    assert set(spec["headGroupSpec"]) == {"rayStartParams", "template"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = spec["workerGroupSpecs"]
    assert set(group) == WORKERS
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for part in (spec["headGroupSpec"], group):
        assert all(isinstance(value, str) for value in part["rayStartParams"].values())
        pod = part["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] >= 120
        (container,) = pod["containers"]
        assert set(container) <= CONTAINER
        assert f"ray-{spec['rayVersion']}" in container["image"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert "persistentVolumeClaim" in volumes[mounts["/shared"]]
        assert all(isinstance(value, str) for value in container["resources"]["limits"].values())
    (container,) = group["template"]["spec"]["containers"]
    assert "ray drain-node" in str(container["lifecycle"]["preStop"]["exec"]["command"])


@pytest.mark.parametrize(("kind", "seconds"), [("aws", 115), ("gcp", 25), ("azure", 25)])
def test_a_notice_of_the_cloud_drains_the_node(tmp_path: Path, kind: str, seconds: int) -> None:
    (tmp_path / "ray").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ray").chmod(0o755)
    with metadata_service(kind) as service:
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "METADATA": service.address, "EVERY": "0.1"}
        command = ["bash", str(CLUSTER / "drain_on_notice.sh"), kind, "--node-id", "n1"]
        watcher = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        try:
            for broken in (False, True, False):  # a service that fails for a moment is asked again
                service.broken, before = broken, len(service.asked)
                wait_until(lambda before=before: len(service.asked) > before + 3)
            assert watcher.poll() is None
            service.notice = True
            told = watcher.communicate(timeout=30)[0].splitlines()
        finally:
            watcher.kill()
    assert watcher.returncode == 0
    assert told[1:4] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert told[-4:] == ["--deadline-remaining-seconds", str(seconds), "--node-id", "n1"]


def test_draining_for_an_unknown_cloud_is_refused() -> None:
    done = subprocess.run(
        ["bash", CLUSTER / "drain_on_notice.sh", "moon"], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 2


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_job_brings() -> None:
    from ray.runtime_env import RuntimeEnv

    env = load("runtime_env.yaml")
    RuntimeEnv(**env)
    assert "/data/" in env["excludes"]


def fake_slurm(folder: Path, training: str) -> dict[str, str]:
    """Commands as a node of SLURM has them, and a training that does what it is told."""
    tools = {
        "scontrol": 'if [[ $1 == show ]]; then printf "n1\\nn2\\n"; else echo "requeue $2" >> "$LOG"; fi',
        "srun": 'while [[ $1 == --* ]]; do shift; done\necho "srun $*" >> "$LOG"\n[[ $1 = ray ]] || echo 10.0.0.1',
        "ray": 'echo "ray $*" >> "$LOG"',
        "python": training,
    }
    (folder / "bin").mkdir()
    (folder / "bin" / "activate").write_text("")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("t")
    for name, body in tools.items():
        (folder / "bin" / name).write_text(
            f"#!/bin/bash\n{body}\n:\n" if name != "python" else f"#!/bin/bash\n{body}\n"
        )
        (folder / "bin" / name).chmod(0o755)
    return {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAYDET3D_VENV": str(folder),
        "LOG": str(folder / "log"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_GPUS_ON_NODE": "8",
    }


def test_slurm_forwards_the_signal_and_queues_the_job_again(tmp_path: Path) -> None:
    script = CLUSTER / "slurm.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    wanted = ("--signal=B:USR1@180", "--requeue")
    assert all(any(line == f"#SBATCH {flag}" for line in script.read_text().splitlines()) for flag in wanted)
    training = """echo "python $*" >> "$LOG"
trap 'echo saved >> "$LOG"; sleep 0.2; exit 75' USR1
sleep 0.3
kill -USR1 "$PPID"
for _ in $(seq 200); do sleep 0.05; done"""
    done = subprocess.run(
        ["bash", script, "CONFIG", "--workers", "16"],
        env=fake_slurm(tmp_path, training),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    log = (tmp_path / "log").read_text().splitlines()
    assert done.returncode == 75, done.stderr
    assert "python -m raydet3d.train CONFIG --workers 16 --resume" in log
    assert log[-2:] == ["saved", "requeue 7"]
    started = sorted(line for line in log if line.startswith("srun ray start"))
    assert len(started) == 2
    assert "--address=10.0.0.1:20007" in started[0]
    assert "--head --node-ip-address=10.0.0.1 --port=20007" in started[1]


def test_a_job_that_is_done_is_not_queued_again(tmp_path: Path) -> None:
    env = fake_slurm(tmp_path, 'echo "python $*" >> "$LOG"')
    done = subprocess.run(
        ["bash", CLUSTER / "slurm.sh", "CONFIG"], env=env, cwd=tmp_path, timeout=60, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert "requeue" not in (tmp_path / "log").read_text()


def test_the_upload_of_a_job_is_small() -> None:
    """What ``--working-dir .`` sends, by Ray's own rules."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sent: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sent[path.relative_to(ROOT)] = path.stat().st_size

    excludes = [_get_excludes(ROOT, load("runtime_env.yaml")["excludes"])]
    _dir_travel(ROOT, excludes, note, include_gitignore=True)
    package = {path.relative_to(ROOT) for path in (ROOT / "raydet3d").rglob("*.py")}
    assert package <= set(sent)  # raydet3d/data, too
    assert Path("configs/demo/pointpillars_town.py") in sent
    assert not {path.parts[0] for path in sent} & {".git", "data", "work_dirs", "tests"}
    assert sum(sent.values()) < 10e6
