"""Values against annotations: strict scalars, ranges, lists for tuples, sections, arguments, and the words for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Gt, Le

from raydet3d.config.section_schemas import read_run_config
from raydet3d.config.type_check import (
    NonEmptyStr,
    Part,
    PositiveFloat,
    PositiveInt,
    Probability,
    check_arguments,
    describe,
    fits,
    read_section,
)
from raydet3d.errors import InputError
from raydet3d.hooks import CheckpointHook, EarlyStoppingHook
from raydet3d.registry import HOOKS, LOG_PROCESSORS


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [1, np.int64(3)], [1.0, "1", True, None]),
        (float, [1, 1.5, np.float32(2)], ["1", True]),
        (bool, [True], [1, "true"]),
        (str, ["a"], [1, b"a"]),
        (PositiveInt | None, [1, None], [0, -1, 1.5]),
        (PositiveFloat, [0.1, 3], [0, float("nan")]),
        (Probability, [0, 1, 0.5], [1.1, -0.1]),
        (NonEmptyStr, ["a"], [""]),
        (tuple[int, int], [(1, 2), [1, 2]], [[1], [1, 2, 3], [1, 2.5]]),
        (Sequence[float], [(1, 2), [0.5]], ["ab", 3, ["a"]]),
        (Sequence[str] | str, [["a"], "a"], [[1]]),
        (Mapping[str, str], [{"a": "b"}, {}], [{"a": 1}, ["a"]]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (Part, [{}, object()], [1, "x", []]),
        (int | Callable[[int], int], [1, abs, "what cannot be checked fits"], []),
        (type[int], ["what cannot be checked fits"], []),
    ],
)
def test_types_and_ranges(annotation: Any, good: list[object], bad: list[object]) -> None:
    assert [value for value in good if not fits(annotation, value)] == []
    assert [value for value in bad if fits(annotation, value)] == []


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "an integer"),
        (PositiveInt | None, "an integer of at least 1"),
        (Annotated[float, Gt(0), Le(1)], "a number above 0 and of at most 1"),
        (tuple[int, int], "a list of 2 integers"),
        (Mapping[str, str], "a dict of strings"),
        (Literal["a", "b"], "one of a, b"),
        (bool | str | Sequence[str], "True or False, a string or a list of strings"),
        (Sequence[Part], "a list of dicts with a type"),
    ],
)
def test_descriptions_of_annotations(annotation: Any, words: str) -> None:
    assert describe(annotation) == words


@dataclass(frozen=True)
class Inner:
    size: PositiveInt = 1


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    either: bool | Inner = False


def test_a_section_is_read_into_its_dataclass() -> None:
    assert read_section(Outer, {"name": "a", "inner": {"size": 2}}, "x") == Outer("a", Inner(2))
    assert read_section(Outer, {"name": "a", "inner": None, "either": {"size": 3}}, "x") == Outer("a", either=Inner(3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nam": "a"}, "x has no 'nam'; did you mean 'name'"),
        ({"q": 1}, "x has no 'q'; it takes name, inner, either"),
        ({}, "x has no name, which must be a string"),
        ({"name": 3}, "x.name must be a string, got 3"),
        ({"name": "a", "inner": {"size": 0}}, "x.inner.size must be an integer of at least 1, got 0"),
        ({"name": "a", "inner": {"sise": 1}}, "x.inner has no 'sise'; did you mean 'size'"),
        ({"name": "a", "inner": 3}, "x.inner must be a dict with size, got 3"),
        ({"name": "a", "either": 3}, "x.either must be True or False or a dict, got 3"),
        (3, "x must be a dict with name, inner, either, got 3"),
    ],
)
def test_section_refuses_unknown_keys_and_wrong_values(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_section(Outer, given, "x")


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"env_cfg": {"dist_cfg": {"timeout": 0}}}, "env_cfg.dist_cfg.timeout must be a number above 0, got 0"),
        ({"env_cfg": {"dist_cfg": {"timeot": 9}}}, "env_cfg.dist_cfg has no 'timeot'; did you mean 'timeout'"),
        ({"compile": {"fulgraph": True}}, "compile has no 'fulgraph'"),
        ({"compile": "yes"}, "compile must be"),
        ({"randomness": {"seed": -1}}, "randomness.seed must be an integer of at least 0, got -1"),
        ({"custom_hooks": "EMAHook"}, "custom_hooks must be a list of dicts with a type, got 'EMAHook'"),
        ({"default_hooks": {"logger": 10}}, "default_hooks must be a dict of dicts with a type"),
        ({"activation_checkpointing": "backbone"}, "activation_checkpointing must be a list of names"),
        ({"sync_bn": "apex"}, "sync_bn must be one of torch, mmcv"),
        ({"log_level": "LOUD"}, "log_level must be DEBUG, INFO"),
        ({"param_scheduler": 3}, "param_scheduler must be"),
        ({"val_dataloader": [{"dataset": {}}]}, r"val_dataloader\[0\] has no sampler"),
    ],
)
def test_config_refuses_wrong_sections(cfg: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_run_config(cfg)


def test_a_key_that_is_none_has_its_default() -> None:
    assert read_run_config({"env_cfg": None, "resume": None, "lr": 3}) == read_run_config({})


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"type": "LogProcessor", "window_size": "epoch"}, "window_size must be an integer of at least 1, got 'epoch'"),
        ({"type": "LogProcessor", "window_size": 0}, "window_size must be"),
        ({"type": "LogProcessor", "window_size": -3}, "window_size must be"),
        ({"type": "LogProcessor", "num_digits": "x"}, "LogProcessor: num_digits must be"),
    ],
)
def test_arguments_of_the_log_processor(cfg: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LOG_PROCESSORS.build(cfg)


def test_arguments_of_hooks_are_checked_for_subclasses_too() -> None:
    class Mine(CheckpointHook):
        def __init__(self, own: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    with pytest.raises(InputError, match=r"CheckpointHook: interval must be .*, got 1\.5"):
        HOOKS.build({"type": "CheckpointHook", "interval": 1.5})
    with HOOKS.temporary(Mine=Mine):
        HOOKS.build({"type": "Mine", "own": "not this package's annotation", "interval": 2})
        with pytest.raises(InputError, match="interval must be"):
            HOOKS.build({"type": "Mine", "own": 1, "interval": "2"})


def test_functions_of_other_packages_are_not_checked() -> None:
    def function(count: int) -> None: ...

    check_arguments(function, {"count": "three"}, "a function")


def test_checked_constructors_refuse_wrong_arguments_when_they_are_called_directly() -> None:
    with pytest.raises(InputError, match="EarlyStoppingHook: patience must be an integer of at least 0, got -1"):
        EarlyStoppingHook("loss", patience=-1)
    with pytest.raises(InputError, match="hook EarlyStoppingHook: patience must be an integer of at least 0"):
        HOOKS.build({"type": "EarlyStoppingHook", "monitor": "loss", "patience": -1})
    with pytest.raises(TypeError, match="a"):
        EarlyStoppingHook()  # type: ignore[call-arg]


def test_a_checked_constructor_of_a_base_class_names_the_class_that_is_made() -> None:
    class Named(EarlyStoppingHook):
        """Of another name."""

    with pytest.raises(InputError, match="Named: patience"):
        Named("loss", patience=-1)
    assert Named("loss", patience=0).patience == 0
