"""`--cfg-options`: parse `KEY=VALUE` strings, and set values at dotted keys.

lr=0.002  load_from=None  train_cfg.val_interval=5  param_scheduler.0.T_max=30  'betas=(0.9, 0.99)'
'model.train_cfg={"pos_weight": 2}'  "classes=[Car, 'Van 2']"  'custom_keys["bbox_head.conv"].lr_mult=0.1'
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from raydet3d.config.config_dict import DELETE, ConfigValue, merge
from raydet3d.config.section_schemas import is_misspelling
from raydet3d.errors import InputError, InputKeyError, InputTypeError, nearest

_BRACKETS: dict[str, tuple[Callable[[list[Any]], object], str, str]] = {
    "[": (list, "]", ""),
    "(": (tuple, ")", ""),
    "{": (dict, "}", ":"),
    "dict(": (dict, ")", "="),
}
"""By opening bracket: what its items become, the closing bracket, and the sign between key and value."""
_STEP = re.compile(
    r"""\.?(?:\[(?P<index>-?\d+)\]          # [0]
        |\[?(?P<quote>["'])(?P<quoted>.*?)(?P=quote)\]?   # ["a.b"] or "a.b"
        |(?P<plain>[^.\[\]"']+))            # name or 0
    """,
    re.VERBOSE,
)


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Parse `["lr=0.1", "a.b=[1, 2]"]` to `{"lr": 0.1, "a.b": [1, 2]}`, in that order.

    Numbers, `true`, `false` and `None` are converted; `[...]` and a bare `a,b` become lists, `(...)` tuples, and
    `{...}` and `dict(...)` dicts, at any depth. Everything else is a string, and so is everything in quotes.

    Raises:
        InputError: A string is no `KEY=VALUE`, or its brackets or quotes do not match.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        # `custom_keys["a=b"].lr_mult=1`: the first sign outside of quotes parts key and value.
        while sign and (key.count('"') % 2 or key.count("'") % 2):
            more, sign, value = value.partition("=")
            key = f"{key}={more}"
        if not sign or not key.strip():
            raise InputError(f"config option {text!r} is not KEY=VALUE")
        options[key.strip()] = parse_value(value, name=key.strip())
    return options


def parse_value(text: str, *, name: str = "value") -> Any:
    """Parse one value as written after the `=`.

    Args:
        text: The value as written.
        name: Its key, for messages.
    """
    text = text.strip()
    values = _Reader(text, name).items("")
    is_list = len(values) > 1 or text.endswith(",")
    return values if is_list else values[0] if values else ""


class _Reader:
    """Recursive descent parser of a value."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.at = 0

    def peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def items(self, end: str, sign: str = "") -> list[Any]:
        """Read items up to the bracket `end`, or to the end of the text; with a `sign`, pairs of key and value."""
        found: list[Any] = []
        while self.peek() != end:
            found.append((self.key(end, sign), self.item(end)) if sign else self.item(end))
            if self.peek() == ",":
                self.at += 1
            elif self.peek() != end:
                raise self.wrong(f"{end!r} is missing" if end else f"cannot read {self.text[self.at :]!r}")
        self.at += 1
        return found

    def key(self, end: str, sign: str) -> str:
        key = self.quoted() if self.peek() in ("'", '"') else self.word(end + sign)
        if self.peek() != sign or not key:
            raise self.wrong(f"a dict is written {'key=value' if sign == '=' else 'key: value'}, ...")
        self.at += 1
        return key

    def item(self, end: str) -> Any:
        first = self.peek()
        if first in ("'", '"'):
            return self.quoted()
        opening = "dict(" if self.text.startswith("dict(", self.at) else first
        if opening not in _BRACKETS:
            return scalar(self.word(end))
        self.at += len(opening)
        make, close, sign = _BRACKETS[opening]
        return make(self.items(close, sign))

    def quoted(self) -> str:
        quote = self.text[self.at]
        close = self.text.find(quote, self.at + 1)
        if close < 0:
            raise self.wrong(f"the closing {quote} is missing")
        word = self.text[self.at + 1 : close]
        self.at = close + 1
        return word

    def word(self, end: str) -> str:
        """Read up to a comma or one of `end`, past brackets that open inside."""
        start = self.at
        waiting: list[str] = []
        while self.at < len(self.text):
            letter = self.text[self.at]
            if not waiting and (letter == "," or letter in end):
                break
            if letter in _BRACKETS:
                waiting.append(_BRACKETS[letter][1])
            elif waiting and letter == waiting[-1]:
                waiting.pop()
            self.at += 1
        word = self.text[start : self.at].strip()
        if not word or waiting:
            raise self.wrong(f"{waiting[-1]!r} is missing" if waiting else "a value is missing")
        return word

    def wrong(self, why: str) -> InputError:
        return InputError(f"config option {self.name}={self.text}: {why}; put text with such signs in quotes")


def scalar(word: str) -> Any:
    """Convert a word without quotes to a number, a boolean or None, else return it."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return None if word == "None" else {"true": True, "false": False}.get(word.lower(), word)


def split_key(key: str) -> list[str | int]:
    """Split `a.b[0].c` or `a["x.y"].0` into its steps; a step of digits is an int."""
    steps: list[str | int] = []
    at = 0
    while at < len(key):
        step = _STEP.match(key, at)
        if step is None:
            raise InputError(f"config option {key}: cannot read the key from {key[at:]!r} on")
        at = step.end()
        plain = (step["index"] or step["plain"] or "").strip()
        steps.append(int(plain) if re.fullmatch(r"-?\d+", plain) else step["quoted"] or plain)
    if not steps or key.endswith(".") or key.startswith("."):
        raise InputError(f"config option {key!r} has an empty key")
    return steps


class DictAction(argparse.Action):
    """An argparse action for `--cfg-options KEY=VALUE ...`, for scripts written for MMEngine; may be repeated."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[str] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the options to those of earlier flags."""
        there = getattr(namespace, self.dest, None) or {}
        given = [values] if isinstance(values, str) else values or ()
        setattr(namespace, self.dest, {**there, **parse_options(given)})


def set_key(tree: ConfigValue, key: str, value: ConfigValue, *, allow_list_keys: bool = True) -> Any:
    """Return `tree` with `value` at a dotted key. A dict is merged over a dict; lists are indexed, also from the end.

    Args:
        tree: A plain dict; not changed.
        key: `a.b.0.c`.
        value: Any value.
        allow_list_keys: Whether a number may index a list.

    Raises:
        InputError: The key goes through a value that is no dict or list, past a list's end, or is a misspelling.
    """
    steps = split_key(key)

    def put(here: ConfigValue, depth: int) -> ConfigValue:
        if depth == len(steps):
            if isinstance(value, Mapping):
                return merge(here if isinstance(here, Mapping) else {}, value, path=key)
            return value
        step, done = steps[depth], ".".join(map(str, steps[:depth]))
        if isinstance(here, list | tuple):
            if not isinstance(step, int) or not allow_list_keys:
                raise InputTypeError(
                    f"config option {key}: {done} is a list of {len(here)}; it takes an index, not {step!r}"
                )
            if not -len(here) <= step < len(here):
                raise InputKeyError(f"config option {key}: {done} has {len(here)} items, so no index {step}")
            items = list(here)
            items[step] = put(items[step], depth + 1)
            return items if isinstance(here, list) else tuple(items)
        if here is not None and not isinstance(here, Mapping):
            raise InputTypeError(f"config option {key}: {done} is {here!r}, which has nothing inside")
        inner = dict(here or {})
        name = _name_in(inner, step, key, done)
        return {**inner, name: put(inner.get(name), depth + 1)}

    return put(tree, 0)


def _name_in(inner: Mapping[str, ConfigValue], step: str | int, key: str, done: str) -> str:
    """Return the key of a dict that a step names; a number may be a key, and a new key no misspelling."""
    if step in inner:
        return step  # type: ignore[return-value]  # dicts may have numbers for keys
    name = str(step)
    if name not in inner:
        slip = next((other for other in inner if _is_misspelling(name, str(other))), None)
        if slip is not None and name != DELETE:
            raise InputError(f"config option {key}: {done or 'the config'} has no {name!r}; did you mean {slip!r}?")
        if isinstance(step, int):
            raise InputError(f"config option {key}: {done} is a dict without {step!r}{nearest(name, inner)}")
    return name


def _is_misspelling(written: str, meant: str) -> bool:
    """Like `is_misspelling`, but `blocks.10` is no misspelling of `blocks.11`."""
    return re.sub(r"\d+", "", written) != re.sub(r"\d+", "", meant) and is_misspelling(written, meant)
