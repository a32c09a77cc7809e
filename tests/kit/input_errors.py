"""Messages of input errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raydet3d.errors import InputError


def message(call: Callable[[], object]) -> str:
    """Return the message of the `InputError` that a call raises, which is one line."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)
