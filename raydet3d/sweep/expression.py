"""Expressions in a sweep, such as `${lr * 10}`: arithmetic over the config's variables."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from raydet3d.config.config_dict import map_leaves, walk
from raydet3d.errors import InputError, nearest
from raydet3d.sweep.domains import Value

Number: TypeAlias = int | float
_WHOLE = re.compile(r"\$\{(?P<text>[^{}]*)\}")
_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., Number]] = {"round": round, "int": int, "float": float, "min": min, "max": max}


def has_expression(value: Value) -> bool:
    """Whether a value contains a `${...}` at any depth."""
    return any(isinstance(leaf, str) and _WHOLE.fullmatch(leaf.strip()) for _, leaf in walk(value))


def fill(value: Value, names: Mapping[str, Value], *, where: str) -> Value:
    """Replace each `${...}` in a value by its result.

    Args:
        value: Plain data.
        names: The config's variables.
        where: The key, for messages.

    Raises:
        InputError: An expression is not arithmetic, or a name is not a number of the config.
    """
    filled: Value = map_leaves(
        value, lambda leaf, place: _fill_leaf(leaf, names, where=".".join(map(str, (where, *place))))
    )
    return filled


def _fill_leaf(value: object, names: Mapping[str, Value], *, where: str) -> object:
    if not isinstance(value, str) or (found := _WHOLE.fullmatch(value.strip())) is None:
        return value
    text = found["text"]
    try:
        result = _evaluate(ast.parse(text.strip(), mode="eval").body, names)
    except InputError as error:
        raise InputError(f"{where}: {value}: {error}") from None
    except (SyntaxError, ArithmeticError, ValueError, TypeError) as error:
        raise InputError(f"{where}: {value} cannot be evaluated: {error}") from None
    if isinstance(result, float) and not math.isfinite(result):
        raise InputError(f"{where}: {value} is {result}")
    return result


def _evaluate(node: ast.expr, names: Mapping[str, Value]) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            value = names.get(name)
            if isinstance(value, int | float):
                return value
            numbers = [key for key, other in names.items() if isinstance(other, int | float)]
            raise InputError(f"the config has no number {name!r}{nearest(name, numbers)}")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _evaluate(left, names), _evaluate(right, names)
            if isinstance(op, ast.Pow) and (abs(a) > 1e6 or abs(b) > 64):
                raise InputError("this power is too large")
            return _BINARY[type(op)](a, b)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, names)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_evaluate(arg, names) for arg in args))
        case _:
            raise InputError("only numbers, variables of the config, + - * / // % **, round, int, float, min and max")
