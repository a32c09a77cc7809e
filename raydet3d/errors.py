"""The one kind of error that is the user's to mend: doors print it as one line and exit with 2."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave is wrong: a config, a path, a file's content, a flag.

    The message is one line that names the file, the key and the value, and says what would be right.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
