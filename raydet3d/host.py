"""Resources of this machine."""

from __future__ import annotations

import os
import platform
import socket
from contextlib import suppress
from pathlib import Path
from typing import TypedDict


class Machine(TypedDict, total=False):
    """A machine that a worker runs on; `memory` is in bytes, `device` names the worker's accelerator."""

    host: str
    system: str
    cpu: str
    processors: int
    memory: int
    device: str


def describe_machine() -> Machine:
    """Return what is known of this machine, without its accelerators."""
    found: Machine = {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "processors": num_processors(),
    }
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                found["cpu"] = line.partition(":")[2].strip()
                break
    with suppress(OSError, ValueError, AttributeError):
        found["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found


def num_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
