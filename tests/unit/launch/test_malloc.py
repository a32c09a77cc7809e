"""Freed blocks stay with the process: seen in its page faults, which the kernel counts."""

import platform
import resource
import subprocess
import sys

import pytest

from raydet3d.launch.malloc import keep_freed_memory

STEPS = """
import resource, sys
import numpy as np
from raydet3d.launch.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    for _ in range(8):
        np.ones(2_000_000, dtype=np.uint8)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator has these settings")
def test_kept_blocks_cause_no_page_faults():
    def faults(how: str) -> int:
        env = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # fixed, so that glibc does not learn to keep them by itself
        command = [sys.executable, "-c", STEPS, how]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=env, timeout=60)
        return int(run.stdout)

    assert faults("kept") < faults("usual") / 10


def test_returns_whether_the_allocator_took_the_settings():
    assert isinstance(keep_freed_memory(), bool)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
