"""What is refused before a worker starts, with the numbers in the sentence."""

import pytest

from raydet3d.errors import InputError
from raydet3d.host import num_processors
from raydet3d.launch.preflight import (
    check_room_on_disk,
    check_this_machine,
    check_writable,
    checkpoint_size,
    resolve_options,
)
from raydet3d.launch.ray_options import RayOptions
from tests.kit.toy import ToyModel


def test_default_is_one_worker_per_gpu():
    settled = resolve_options(RayOptions(), {"CPU": 16, "GPU": 4}, where="the cluster")
    assert (settled.num_workers, settled.gpus_per_worker) == (4, 1)


def test_default_is_one_worker_without_gpus():
    settled = resolve_options(RayOptions(), {"CPU": 2}, where="this machine")
    assert (settled.num_workers, settled.gpus_per_worker) == (1, 0)


def test_too_many_gpus_are_refused():
    with pytest.raises(InputError, match=r"8 workers with 1 GPU each \(8 GPUs\), the cluster has 4; use --workers 4"):
        resolve_options(RayOptions(num_workers=8), {"CPU": 64, "GPU": 4}, where="the cluster")


def test_too_many_cpus_are_refused():
    with pytest.raises(InputError, match=r"3 workers with 1 CPU each \(3 CPUs\), this machine has 2; use --workers 2"):
        resolve_options(RayOptions(num_workers=3), {"CPU": 2}, where="this machine")


def test_worker_larger_than_the_machine_is_refused():
    with pytest.raises(InputError, match="use --workers 0"):
        resolve_options(RayOptions(num_workers=1, cpus_per_worker=4), {"CPU": 2}, where="this machine")


def test_fractions_of_a_cpu_fit():
    assert resolve_options(RayOptions(num_workers=4, cpus_per_worker=0.5), {"CPU": 2}, where="x").num_workers == 4


def test_writable_check_leaves_no_folder(tmp_path):
    check_writable(tmp_path / "a" / "b", "work_dir")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("uri", ["", "local://"])
def test_unwritable_work_dir_is_refused(tmp_path, uri):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"work_dir .*file/x cannot be written to .*--work-dir"):
        check_writable(f"{uri}{tmp_path}/file/x", "work_dir")


def test_cpus_of_this_machine_do_not_limit_a_joined_cluster(monkeypatch):
    many = RayOptions(num_workers=num_processors() + 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=f"this machine has {num_processors()}"):
        check_this_machine(many)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_this_machine(many)


def test_range_needs_room_for_its_lower_end():
    settled = resolve_options(RayOptions(num_workers=(1, 8)), {"CPU": 2}, where="this machine")
    assert settled.num_workers == (1, 8)


def test_disk_without_room_for_two_checkpoints_is_refused(tmp_path):
    check_room_on_disk(tmp_path, 1000)
    with pytest.raises(InputError, match=r"has .*B free, two checkpoints need about .*GB; make room .*--work-dir"):
        check_room_on_disk(tmp_path, 2**60)


def test_checkpoint_size_is_weights_and_two_moments(tmp_path):
    cfg = {"model": {"type": ToyModel}}
    assert checkpoint_size(cfg) == 3 * 4 * (6 * 16 + 16 + 16 + 1)
    assert checkpoint_size({"model": {"type": "NoSuchModel"}}) == 0
