"""Name the differences between two resolved configs, those that change the numbers of a run first."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet3d.config.config import Config
from raydet3d.config.config_dict import ConfigValue, merge, with_lists
from raydet3d.config.inheritance import read_chain

# Sections that decide what is learnt; everything else is about validation, logs and machines.
EXACT = (
    "model",
    "data_preprocessor",
    "optim_wrapper",
    "auto_scale_lr",
    "param_scheduler",
    "train_dataloader",
    "train_cfg",
    "randomness",
    "custom_hooks",
    "activation_checkpointing",
    "frozen_parts",
    "compile",
    "sync_bn",
    "model_wrapper_cfg",
    "env_cfg",
)
_LONGEST = 40


@dataclass(frozen=True)
class Difference:
    """A key whose value differs.

    Args:
        key: The key, with dots.
        before: The earlier value in short; `absent` where it was not given.
        now: The value now.
    """

    key: str
    before: str
    now: str

    @property
    def is_exact(self) -> bool:
        """Whether it may change the numbers of a run."""
        return self.key.partition(".")[0] in EXACT

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def read_dump(text: str) -> dict[str, Any]:
    """Read the text of a dumped config without running it: assignments of literals and of `dict(...)`.

    Raises:
        ValueError: It holds anything else.
    """
    found: dict[str, Any] = {}
    try:
        for statement in ast.parse(text).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f"line {statement.lineno} is no assignment")
            found[statement.targets[0].id] = ast.literal_eval(_Calls().visit(statement.value))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from None
    return found


class _Calls(ast.NodeTransformer):
    """Replaces the calls `dict(a=1)` and `float('inf')` by their values; other calls are no literals."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words):
                return ast.Dict([ast.Constant(word.arg) for word in words], [word.value for word in words])
            case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(text))], keywords=[]):
                return ast.Constant(float(text))
        return node


def read_base(path: Path) -> dict[str, Any] | None:
    """Return the values that a config file inherits by `_base_`; None where it has no `_base_`.

    Raises:
        InputError: The file or a base cannot be read.
    """
    chain = read_chain(path, require_env=False)
    if chain.kind != "text":
        return None
    base: dict[str, Any] = {}
    for source in chain.sources[:-1]:
        base = merge(base, source.values)
    return base


def find_differences(
    before: Mapping[str, ConfigValue], now: Config, *, ignored: Iterable[str] = ()
) -> list[Difference]:
    """Compare two configs. Secrets are compared as they are dumped; a seed that was drawn is no difference.

    Args:
        before: The earlier config as it was dumped (see `read_dump`).
        now: The config now.
        ignored: Top-level keys to leave out.

    Returns:
        The differences; those that may change the numbers come first.
    """
    then: dict[str, Any] = dict(before)
    current = now.redacted()
    for one in (then, current):
        for key in ignored:
            one.pop(key, None)
    if (current.get("randomness") or {}).get("seed") is None:
        for one in (then, current):
            one["randomness"] = {k: v for k, v in (one.get("randomness") or {}).items() if k != "seed"}
    found = [Difference(*one) for one in _compare(with_lists(then), with_lists(current))]
    order = {key: number for number, key in enumerate(EXACT)}
    return sorted(found, key=lambda one: (order.get(one.key.partition(".")[0], len(order)), one.key))


def _compare(before: ConfigValue, now: ConfigValue, key: str = "") -> list[tuple[str, str, str]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        out: list[tuple[str, str, str]] = []
        for name in sorted({*before, *now}, key=str):
            inner = f"{key}.{name}" if key else str(name)
            if name not in before or name not in now:
                then, current = (_short(one[name]) if name in one else "absent" for one in (before, now))
                out.append((inner, then, current))
            else:
                out += _compare(before[name], now[name], inner)
        return out
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [one for i, (a, b) in pairs for one in _compare(a, b, f"{key}.{i}")]
    return [] if before == now else [(key, _short(before), _short(now))]


def _short(value: ConfigValue) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
