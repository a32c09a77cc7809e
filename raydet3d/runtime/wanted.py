"""Metrics that hooks wait for, held against those that validation gives: before training, as far as that is known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from raydet3d.errors import InputError

if TYPE_CHECKING:
    from raydet3d.hooks.base import Hook


def check_wanted(hooks: Iterable[Hook], given: Sequence[str] | None, *, validates: bool) -> None:
    """Refuse a hook that waits for what will never come.

    Args:
        hooks: The hooks; those that wait for metrics say so by ``required_metrics``: pairs of a setting and its value.
        given: Names that validation gives; None where they are not known before the first one.
        validates: Whether there is a validation.

    Raises:
        InputError: A hook waits for a metric that validation does not give, or for any where there is none.
    """
    for hook in hooks:
        for setting, name in hook.required_metrics:
            where = f"{type(hook).__name__}: {setting}={name!r}"
            if not validates:
                missing = "val_dataloader, val_cfg and val_evaluator"
                raise InputError(f"{where}, but there is no validation: the config has no {missing}")
            if given is not None and name != "auto" and name not in given:
                raise InputError(f"{where}, but validation gives {some_of(given, name)}")


def some_of(names: Sequence[str], wanted: str) -> str:
    """A few names, the nearest to the wanted one first; and how many others there are."""
    ending = [name for name in names if name.endswith(wanted)]
    near = (ending or difflib.get_close_matches(wanted, names, n=3, cutoff=0.6) or list(names))[:3]
    more = f" and {len(names) - len(near)} others" if len(names) > len(near) else ""
    return f"{', '.join(near) or 'nothing'}{more}"
