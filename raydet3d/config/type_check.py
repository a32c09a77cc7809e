"""Check plain data against type annotations: sections of a config, `ray=dict(...)`, sweeps, arguments of parts.

A section's schema is a frozen dataclass with `Annotated` ranges. Every value is checked by pydantic, strictly for
numbers, strings and booleans, while a list may stand for a tuple, since JSON has no tuples. pydantic is imported with
the first check and not with this module: its import takes about 0.2 s.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeAlias, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

from raydet3d.config.config_dict import map_leaves
from raydet3d.errors import InputError, InputTypeError, nearest_or_all

if TYPE_CHECKING:
    from pydantic import TypeAdapter

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
TypeForm: TypeAlias = object
"""A type, or a special form such as `Annotated[int, Ge(1)]`, as in PEP 747, for which Python 3.11 has no type."""

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
NonEmptyStr = Annotated[str, MinLen(1)]


@dataclass(frozen=True)
class Described:
    """Metadata of an annotation: its description in error messages; empty for that of its type."""

    text: str


SECRET = Described("")
"""Metadata of a field whose values must not be repeated in messages."""


def _may_be_part(value: object) -> bool:
    return isinstance(value, Mapping) or not isinstance(value, bool | int | float | str | list | tuple)


Part = Annotated[Any, Predicate(_may_be_part), Described("a dict with a type")]
"""The config of a registered part, `dict(type=..., **arguments)`, or the part itself, already built."""

_SCALARS: dict[object, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    type(None): "None",
    None: "None",
}
_BOUNDS = ((Ge, "ge", "of at least"), (Gt, "gt", "above"), (Le, "le", "of at most"), (Lt, "lt", "below"))


def read_section(schema: type[T], given: object, where: str) -> T:
    """Build a section's dataclass from a dict, after checking each key and value.

    Fields whose type is a dataclass are read the same way; None stands for the default there.

    Args:
        schema: The dataclass.
        given: The dict of the config, or None for all defaults.
        where: The dotted key of the section, for messages.

    Raises:
        InputError: A key is unknown or missing, or a value has the wrong type or is out of range.
    """
    annotations = field_types(schema)
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise InputTypeError(f"{where} must be a dict with {', '.join(annotations)}, got {given!r}")
    for name in given:
        if name not in annotations:
            known = nearest_or_all(str(name), annotations)
            raise InputError(f"{where or 'the top level'} has no {name!r}{known}")
    for field in dataclasses.fields(schema):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and given.get(field.name) is None:
            raise InputError(
                f"{where or 'the top level'} has no {field.name}, which must be {describe(annotations[field.name])}"
            )
    values = {}
    for name, annotation in annotations.items():
        if name not in given:
            continue
        inner, value, key = _section_in(annotation), given[name], f"{where}.{name}" if where else name
        if inner is None or (not isinstance(value, Mapping) and get_args(annotation)):
            check_value(annotation, value, key)
            values[name] = value
        elif value is not None:
            values[name] = read_section(inner, value, key)
    return schema(**values)


def field_types(schema: type) -> dict[str, Any]:
    """Return the evaluated annotations of a dataclass's fields, in order."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema) if field.init}


def check_value(annotation: TypeForm, value: object, where: str) -> None:
    """Raise an `InputError` that names `where` unless a value fits an annotation."""
    if not fits(annotation, value):
        got = "" if SECRET in get_args(annotation) else f", got {value!r}"
        raise InputTypeError(f"{where} must be {describe(annotation)}{got}")


def fits(annotation: TypeForm, value: object) -> bool:
    """Whether a value has the type and range of an annotation; what pydantic cannot check fits."""
    adapter = _adapter(_checkable(annotation))
    if adapter is None:
        return True
    import pydantic

    try:
        adapter.validate_python(map_leaves(value, lambda leaf, _: _without_numpy(leaf)))
    except pydantic.ValidationError:
        return False
    return True


def check_arguments(function: Callable[..., object], arguments: Mapping[str, object], where: str) -> None:
    """Check the arguments of a call against the annotations of this package's own functions and constructors.

    A float that is a whole number counts as an integer. An argument that a constructor passes on by `**kwargs` is
    checked against the base class that takes it. Functions of other packages are not checked: their annotations were
    not written for this purpose.

    Args:
        function: What will be called with the arguments.
        arguments: By name.
        where: What to name in messages.

    Raises:
        InputError: A value has the wrong type or is out of range.
    """
    signatures = _own_annotations(getattr(function, "func", function))
    for name, value in arguments.items():
        annotation = next((known[name] for known in signatures if name in known), Any)
        if not fits(annotation, map_leaves(value, lambda leaf, _: _with_integer(leaf))):
            raise InputTypeError(f"{where}: {name} must be {describe(annotation)}, got {value!r}")


def checked(constructor: Callable[P, R]) -> Callable[P, R]:
    """Decorate a constructor to check its arguments against its annotations where it is called without a registry."""
    signature = inspect.signature(constructor)

    @wraps(constructor)
    def check_and_call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        check_arguments(constructor, given, type(given["self"]).__name__)
        return constructor(*args, **kwargs)

    return check_and_call


@cache
def _own_annotations(function: Callable[..., object]) -> list[dict[str, Any]]:
    """Return the annotations of a function, or of the constructors of a class and its bases."""
    makers: list[Any] = [function]
    if isinstance(function, type):
        makers = [vars(kind)["__init__"] for kind in function.__mro__ if "__init__" in vars(kind)]
    found = []
    for maker in map(inspect.unwrap, makers):
        module = sys.modules.get(getattr(maker, "__module__", None) or "")
        is_own = module is not None and module.__name__.partition(".")[0] == __name__.partition(".")[0]
        space = {**vars(typing), **vars(module)} if is_own else {}
        code = getattr(maker, "__code__", None)
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()
        annotations = getattr(maker, "__annotations__", {}) if is_own else {}
        found.append({name: _evaluated(annotations.get(name, Any), space) for name in names})
    return found


def _evaluated(annotation: TypeForm, space: dict[str, object]) -> Any:
    """Evaluate an annotation that may be a string; `Any` if it names what only type checkers import."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, space)
    except (NameError, AttributeError, TypeError):
        return Any


# ------------------------------------------------------------------------------------------------ what pydantic checks


def _checkable(annotation: TypeForm) -> Any:
    """Return an annotation with strict scalars, and `Any` in place of everything that is no plain data."""
    from pydantic import Strict

    kind, args = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return Annotated[(_checkable(args[0]), *args[1:])]
    if kind in (Union, types.UnionType):
        inner = [_checkable(arg) for arg in args]
        return Any if Any in inner else Union[tuple(inner)]  # noqa: UP007 - built from a list
    if kind is Literal:
        return annotation
    if annotation in (bool, int, float, str):
        return Annotated[annotation, Strict()]
    if annotation in (None, type(None), Path):
        return annotation
    if kind is tuple:
        return tuple[tuple(arg if arg is Ellipsis else _checkable(arg) for arg in args)]  # type: ignore[misc]
    if kind in (list, Sequence):
        return Sequence[_checkable(args[0])]  # type: ignore[misc]
    if kind in (dict, Mapping):
        return Mapping[_checkable(args[0]), _checkable(args[1])]  # type: ignore[misc]
    if _section_in(annotation) or typing.is_typeddict(annotation):
        return Mapping
    return Mapping if annotation is dict else annotation if annotation in (list, tuple, Mapping, Sequence) else Any


@cache
def _adapter(annotation: TypeForm) -> TypeAdapter[Any] | None:
    if annotation is Any:
        return None
    from pydantic import TypeAdapter

    form: Any = annotation
    return TypeAdapter(form)


def _without_numpy(value: object) -> object:
    """Convert a numpy scalar to a Python number; return anything else unchanged."""
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def _with_integer(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _section_in(annotation: TypeForm) -> type | None:
    """Return the dataclass of a field that is a section itself, or None."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


# --------------------------------------------------------------------------------------------------------------- words


def describe(annotation: TypeForm) -> str:
    """Describe an annotation for a message: `an integer of at least 1`, `a list of strings`."""
    kind, args = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _describe_annotated(args[0], args[1:])
    if kind in (Union, types.UnionType):
        words = list(dict.fromkeys(describe(arg) for arg in args if arg is not type(None)))
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if kind is Literal:
        return f"one of {', '.join(map(str, args))}"
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    inner = [arg for arg in args if arg is not Ellipsis]
    if (kind or annotation) in (list, tuple, Sequence):
        count = f" {len(inner)}" if kind is tuple and Ellipsis not in args else ""
        return f"a list of{count} {_plural(inner[0])}" if inner and inner[0] is not Any else "a list"
    if (kind or annotation) in (dict, Mapping):
        is_open = not args or args[1] is Any or isinstance(args[1], str | typing.ForwardRef)  # a recursive type
        return "a dict" if is_open else f"a dict of {_plural(args[1])}"
    if typing.is_typeddict(annotation):
        return f"a dict with {', '.join(annotation.__annotations__)}"
    return "a dict" if _section_in(annotation) else getattr(annotation, "__name__", "a value")


def _describe_annotated(annotation: TypeForm, metadata: Sequence[object]) -> str:
    own = [item.text for item in metadata if isinstance(item, Described) and item.text]
    if own:
        return own[0]
    words = describe(annotation)
    if any(isinstance(item, MinLen) for item in metadata):
        words = words.replace("a ", "a non-empty ", 1)
    bounds = [
        (text, getattr(item, name)) for kind, name, text in _BOUNDS for item in metadata if isinstance(item, kind)
    ]
    return " ".join([words, " and ".join(f"{text} {bound!r}" for text, bound in bounds if bound != math.inf)]).rstrip()


def _plural(annotation: TypeForm) -> str:
    words = describe(annotation).replace("True or False", "booleans")
    return re.sub(r"(^|, | or )an? ((?:non-empty )?\w+)", r"\1\2s", words)
