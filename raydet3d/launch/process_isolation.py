"""Restore process-global state between runs that share a process."""

from __future__ import annotations

import gc
import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from raydet3d import registry

FULL_COLLECTION_EVERY = 10
_runs = itertools.count(1)
_has_failed = False  # the last run: the traceback of its error may have kept its objects alive


@contextmanager
def isolated() -> Iterator[None]:
    """Restore registries, generators, threads, folder, environment, torch's flags and memory after a run."""
    global _has_failed
    import numpy as np
    import torch

    environment, folder = dict(os.environ), os.getcwd()
    cudnn = torch.backends.cudnn
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    restore: list[Callable[[], object]] = [
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state()),
        partial(torch.set_rng_state, torch.get_rng_state()),
        partial(torch.set_num_threads, torch.get_num_threads()),
        partial(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled()),
        partial(torch.set_default_dtype, torch.get_default_dtype()),
        partial(torch.set_grad_enabled, torch.is_grad_enabled()),
    ]
    if next(_runs) % FULL_COLLECTION_EVERY == 0 or _has_failed:
        gc.collect()
    gc.freeze()  # a search of all modules for the run's cycles would take longer than a short run
    _has_failed = True
    try:
        with ExitStack() as stack:
            for table in vars(registry).values():
                if isinstance(table, registry.Registry):
                    stack.enter_context(table.temporary())
            yield
        _has_failed = False
    finally:
        for function in restore:
            function()
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
        os.chdir(folder)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        gc.collect()  # a run is a ring of objects: its model goes now, not some time during the next one
        gc.unfreeze()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
