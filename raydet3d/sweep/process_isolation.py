"""A process that runs one trial after the other, given back after each as it was before."""

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
def clean_slate(plan: RunSpec) -> Iterator[None]:
    """Leave nothing of a run behind: tables, generators, threads, folder, environment, torch's switches, memory.

    Modules that the config imports stay imported, and what they entered into the tables stays there.

    Args:
        plan: The run.
    """
    import numpy as np
    import torch

    Config(plan.cfg, filename=plan.filename).import_custom_modules()
    environment, folder, threads = dict(os.environ), os.getcwd(), torch.get_num_threads()
    switches = _switches()
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
        _set_switches(switches)
        gc.collect()  # a run is a ring of objects: its model goes now, not some time during the next one
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _switches() -> dict[str, Any]:
    import torch

    return {
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.backends.cudnn.deterministic,
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
    }


def _set_switches(switches: dict[str, Any]) -> None:
    import torch

    torch.backends.cudnn.benchmark = switches["benchmark"]
    torch.backends.cudnn.deterministic = switches["deterministic"]
    torch.use_deterministic_algorithms(switches["algorithms"])
    torch.set_default_dtype(switches["dtype"])
    torch.set_grad_enabled(switches["grad"])
