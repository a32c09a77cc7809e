"""`--cfg-options`: values, keys, and setting values at dotted keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet3d.config import parse_options, parse_value
from raydet3d.config.cfg_options import set_key, split_key
from tests.kit.input_errors import message

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0.5", -0.5),
        ("1e-4", 1e-4),
        ("true", True),
        ("False", False),
        ("None", None),
        ("none", "none"),
        ("", ""),
        ("a,b", ["a", "b"]),
        ("1,", [1]),
        ("[1, 2.5,x]", [1, 2.5, "x"]),
        ("[]", []),
        ("()", ()),
        ("(1,)", (1,)),
        ("(0.9, 0.99)", (0.9, 0.99)),
        ("[(1,2),[3]]", [(1, 2), [3]]),
        ("'1'", "1"),
        ("[\"1\", 'a, b', c d]", ["1", "a, b", "c d"]),
        ("{'a': 1, b: [2]}", {"a": 1, "b": [2]}),
        ("dict(type='X', n=dict(k=None))", {"type": "X", "n": {"k": None}}),
        ("{}", {}),
        ("work_dirs/a=b", "work_dirs/a=b"),
        ("http://host:80/x", "http://host:80/x"),
        ("epoch_{}.pth", "epoch_{}.pth"),
        ("f(1,2)", "f(1,2)"),
        (" spaced out ", "spaced out"),
    ],
)
def test_values_are_parsed(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[1", "(1,2]", "{a}", "{a: 1", "'a", "'a' b", "[,]", "a[1", ",a"])
def test_malformed_values_are_refused(text: str) -> None:
    assert message(lambda: parse_options([f"key={text}"])).startswith(f"config option key={text}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab c,.:[](){}=", max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_python_literals_read_back(value: object) -> None:
    text = repr(value).replace("inf", "'inf'")
    assert parse_value(text.replace("'inf'", "inf")) == value


def test_keys_are_split() -> None:
    assert split_key("a.b[0].c.-1") == ["a", "b", 0, "c", -1]
    assert split_key('custom_keys["bbox_head.conv"].lr_mult') == ["custom_keys", "bbox_head.conv", "lr_mult"]
    assert parse_options(["a.b=1", "a['x=y.z'].w=2", "a.b=3"]) == {"a.b": 3, "a['x=y.z'].w": 2}


@pytest.mark.parametrize("text", ["no_sign", "=1", " =1"])
def test_option_without_key_or_value_is_refused(text: str) -> None:
    assert repr(text) in message(lambda: parse_options([text]))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("a.1.x", 5, {"a": [{"x": 0}, {"x": 5}], "t": (1, 2)}),
        ("a.-1", 5, {"a": [{"x": 0}, 5], "t": (1, 2)}),
        ("t.0", 5, {"a": [{"x": 0}, {"x": 1}], "t": (5, 2)}),
        ("a", [], {"a": [], "t": (1, 2)}),
        ("a.0", {"y": 1}, {"a": [{"x": 0, "y": 1}, {"x": 1}], "t": (1, 2)}),
        ("a.0", {"_delete_": True, "y": 1}, {"a": [{"y": 1}, {"x": 1}], "t": (1, 2)}),
        ("n.e.w", 1, {"a": [{"x": 0}, {"x": 1}], "t": (1, 2), "n": {"e": {"w": 1}}}),
    ],
)
def test_set_key_replaces_merges_and_indexes(key: str, value: object, expected: dict[str, Any]) -> None:
    tree = {"a": [{"x": 0}, {"x": 1}], "t": (1, 2)}
    assert set_key(tree, key, value) == expected
    assert tree == {"a": [{"x": 0}, {"x": 1}], "t": (1, 2)}


def test_keys_that_differ_by_a_number_are_no_misspellings() -> None:
    assert set_key({"keys": {"blocks.11": 1}}, 'keys["blocks.10"]', 2) == {"keys": {"blocks.11": 1, "blocks.10": 2}}
