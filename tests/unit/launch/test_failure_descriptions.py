"""Reasons of failures, from exceptions as they come out of trials and of Ray."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.launch.failures import NonFiniteError, describe_failure


class RayActorError(Exception):
    """By its name, one of Ray's."""


RayActorError.__module__ = "ray.exceptions"


def wrapped(inner: BaseException) -> BaseException:
    outer = RayActorError("the actor died")
    outer.cause = inner  # type: ignore[attr-defined]
    return outer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NonFiniteError("AP is nan at epoch 2"), "AP is nan at epoch 2"),
        (InputError("lr must be above 0"), "lr must be above 0"),
        (ValueError("no\nsuch thing"), "ValueError: no such thing"),
        (MemoryError("Unable to allocate 1 PiB"), "out of memory: Unable to allocate 1 PiB"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "out of memory: CUDA out of memory. Tried to"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory: DefaultCPUAllocator: can't"),
        (wrapped(MemoryError("x")), "out of memory: x"),
        (wrapped(KeyError("x")), "KeyError: 'x'"),
        (RuntimeError("Task was killed due to the node running low on memory."), "out of memory: Task was killed"),
        (RayActorError("possible causes: (1) it was killed by SIGKILL"), "out of memory? its process was killed"),
        (
            RayActorError("The actor died.\nTraceback:\n  RuntimeError: failed to import x:\nmore"),
            "its process died: RuntimeError: failed to import x:",
        ),
    ],
)
def test_failure_is_described_in_one_line(error: BaseException, reason: str) -> None:
    assert describe_failure(error).startswith(reason)
    assert "\n" not in describe_failure(error)
