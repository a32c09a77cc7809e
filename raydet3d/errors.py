"""The one kind of error that is the user's to mend: doors print it as one line and exit with 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# How a DataLoader hands on what one of its processes raised: the trace as text, our sentence on a line of it.
_FROM_A_LOADER = re.compile(r"^Caught .*^(?:[\w.]+\.)?\w+: (?P<sentence>[^\n]*)", re.DOTALL | re.MULTILINE)


class InputError(ValueError):
    """What the user gave is wrong: a config, a path, a file's content, a flag.

    The message is one line that names the file, the key and the value, and says what would be right.

    Attributes:
        detail: What else to show below that line: the trace of a user's own module.
    """

    detail: str = ""

    def __init__(self, *args: object) -> None:
        if args and isinstance(args[0], str) and (caught := _FROM_A_LOADER.match(args[0])):
            args = (caught["sentence"], *args[1:])
        super().__init__(*args)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def nearest(name: str, names: Iterable[object]) -> str:
    """Return the hint `; did you mean 'x'?` for a message, or an empty string where no name is similar."""
    near = difflib.get_close_matches(name, [str(other) for other in names], n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
