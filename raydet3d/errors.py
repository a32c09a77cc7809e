"""Errors in what the user gave: commands print them as one line and exit with 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

# How a DataLoader passes on what one of its processes raised: the traceback as text, our sentence on a line of it.
_FROM_A_LOADER = re.compile(r"^Caught .*^(?:[\w.]+\.)?\w+: (?P<sentence>[^\n]*)", re.DOTALL | re.MULTILINE)


class InputError(ValueError):
    """Something that the user gave is wrong: a config, a path, a file's content, a flag.

    The message is one line that names the file, the key and the value, and says what would be right.

    Attributes:
        detail: Shown below that line: the traceback of a user's own module.
    """

    detail: str = ""

    def __init__(self, *args: object) -> None:
        if args and isinstance(args[0], str) and (caught := _FROM_A_LOADER.match(args[0])):
            args = (caught["sentence"], *args[1:])
        super().__init__(*args)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InputTypeError(InputError, TypeError):
    """A value has a wrong type; MMEngine raises a TypeError there."""


class InputKeyError(InputError, KeyError):
    """A name or key does not exist; MMEngine raises a KeyError there."""


class InputImportError(InputError, ImportError):
    """A module that the config names cannot be imported; MMEngine raises an ImportError there."""


class InputOSError(InputError, OSError):
    """A file is of a kind that cannot be read; MMEngine raises an IOError there."""


class InputRuntimeError(InputError, RuntimeError):
    """A run is asked for what its config does not describe; MMEngine raises a RuntimeError there."""


class InputAssertionError(InputError, AssertionError):
    """Settings contradict each other, or one is missing; MMEngine raises an AssertionError there."""


def some_of(names: Sequence[object], limit: int, *, separator: str = ", ") -> str:
    """Join the first names for a message, and count those over the limit: `a, b and 3 more`."""
    shown = separator.join(map(str, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def nearest(name: str, names: Iterable[object]) -> str:
    """Return the hint `; did you mean 'x'?` for a message, or an empty string where no name is similar."""
    near = difflib.get_close_matches(name, [str(other) for other in names], n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest_or_all(name: str, names: Iterable[object]) -> str:
    """Return the hint of `nearest`, or `; it takes x, y` where no name is similar."""
    known = [str(other) for other in names]
    return nearest(name, known) or f"; it takes {', '.join(known)}"
