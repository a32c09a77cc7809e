"""Whether there is an MMEngine to compare with."""

import os
from importlib import metadata

import pytest


def skip_without_mmengine() -> None:
    """Skip the test where MMEngine is neither installed nor named.

    Its distribution is asked for, not its module: other tests let our own answer to that name.
    """
    if "RAYDET3D_MMENGINE_PYTHON" in os.environ:
        return
    try:
        metadata.version("mmengine")
    except metadata.PackageNotFoundError:
        pytest.skip("MMEngine is not installed, and RAYDET3D_MMENGINE_PYTHON names no python that has it")
