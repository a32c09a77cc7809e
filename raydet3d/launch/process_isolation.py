"""Restore process-global state between runs that share a process."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from raydet3d import registry
from raydet3d.config import Config
from raydet3d.launch.run_spec import RunSpec


@contextmanager
def isolated(spec: RunSpec) -> Iterator[None]:
    """Restore registries, generators, threads, folder, environment, torch's flags and memory after a run.

    Modules that the config imports stay imported, and what they entered into the tables stays there.

    Args:
        spec: The run.
    """
    import numpy as np
    import torch

    Config(spec.cfg, filename=spec.filename).import_custom_modules()
    environment, folder, threads = dict(os.environ), os.getcwd(), torch.get_num_threads()
    flags = _read_flags()
    generators = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    try:
        with ExitStack() as stack:
            for table in vars(registry).values():
                if isinstance(table, registry.Registry):
                    stack.enter_context(table.temporary())
            yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        torch.set_num_threads(threads)
        os.chdir(folder)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        _set_flags(flags)
        gc.collect()  # a run is a ring of objects: its model goes now, not some time during the next one
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _read_flags() -> dict[str, Any]:
    import torch

    return {
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.backends.cudnn.deterministic,
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
    }


def _set_flags(flags: dict[str, Any]) -> None:
    import torch

    torch.backends.cudnn.benchmark = flags["benchmark"]
    torch.backends.cudnn.deterministic = flags["deterministic"]
    torch.use_deterministic_algorithms(flags["algorithms"])
    torch.set_default_dtype(flags["dtype"])
    torch.set_grad_enabled(flags["grad"])
