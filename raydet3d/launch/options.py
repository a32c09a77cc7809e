"""``ray=dict(...)`` of a config: how many workers, and what each of them gets."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from raydet3d.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """What a run asks of Ray.

    Args:
        num_workers: Training processes. None: one for each GPU of the cluster, or one where there is none.
        cpus_per_worker: CPUs that each worker reserves.
        gpus_per_worker: GPUs that each worker reserves. None: 1 where the cluster has any, else 0.
        threads_per_worker: Torch threads of each worker. Part of exactness: the same number gives the same bits.
        max_failures: How often a run whose worker process died is started again from its newest checkpoint.
        dashboard: Whether a cluster that this run starts by itself has Ray's dashboard. Without it Ray cannot look
            after its workers' reservations, and says so every second.
    """

    num_workers: int | None = None
    cpus_per_worker: float = 1
    gpus_per_worker: float | None = None
    threads_per_worker: int = 1
    max_failures: int = 3
    dashboard: bool = True

    @classmethod
    def from_config(cls, ray: Mapping[str, Any] | None, *, workers: int | None = None) -> RayOptions:
        """Read the config's ``ray`` dict.

        Args:
            ray: The dict, or None where the config has none.
            workers: The door's ``--workers``, which goes before ``ray.num_workers``.

        Raises:
            InputError: An unknown key, or a value of the wrong kind.
        """
        given = dict(ray or {})
        known = [field.name for field in fields(cls)]
        for key, value in given.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise InputError(
                    f"ray has no option {key!r}; "
                    + (f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}")
                )
            _check(key, value)
        if workers is not None:
            given["num_workers"] = workers
        return cls(**given)


def _check(key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    least = {"num_workers": 0, "max_failures": 0, "threads_per_worker": 1}
    if key == "dashboard":
        right, wanted = isinstance(value, bool), "True or False"
    elif key in least:
        right, wanted = whole and value >= least[key], f"a whole number from {least[key]} up"
    else:
        right, wanted = number and value >= 0, "a number from 0 up"
    if value is None and key in ("num_workers", "gpus_per_worker"):
        return
    if not right:
        raise InputError(f"ray.{key} must be {wanted}, got {value!r}")
