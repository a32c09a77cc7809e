"""What all doors share: how a command ends, and what its mistakes look like."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import NoReturn

import raydet3d
from raydet3d.errors import InputError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def run_door(main: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit code.

    An ``InputError`` is printed as one line and ends with 2, Ctrl-C ends with 130, anything else that is raised ends
    with its trace and 1.

    Args:
        main: The command; it reads ``sys.argv`` and returns the exit code.
    """
    try:
        code = main()
        sys.stdout.flush()
    except InputError as error:
        print(f"raydet3d: error: {' '.join(str(error).split())}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("raydet3d: interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left. Nothing more can be said to it; python would still try when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except Exception:  # noqa: BLE001 - the end of the line: whatever it is, show it and fail
        traceback.print_exc()
        code = FAILED
    sys.exit(code)


def version() -> str:
    """This package's version, and those of what its numbers depend on."""
    others = [f"python {platform.python_version()}"]
    for name in ("torch", "ray", "numpy"):
        try:
            others.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            others.append(f"{name} missing")
    return f"raydet3d {raydet3d.__version__} ({', '.join(others)})"
