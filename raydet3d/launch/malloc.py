"""Configure glibc's allocator for training on a CPU: it returns large blocks to the system after every step."""

from __future__ import annotations

import ctypes
import platform

# Parameters of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MIB = 1 << 20


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep freed blocks for the next step.

    A step on the CPU frees and asks for the same hundreds of megabytes; given back to the system each time, they cost
    some ten thousand page faults a step, a tenth of its time. What is kept is memory that the process has had already.

    Returns:
        Whether the allocator took it; False where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {MMAP_THRESHOLD: 32 * MIB, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 256 * MIB}
    taken = [mallopt(name, value) for name, value in settings.items()]  # 1 where it was
    return set(taken) == {1}
