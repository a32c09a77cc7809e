"""``${...}``: arithmetic over the config's numbers; nothing else is run."""

import pytest

from raydet3d.errors import InputError
from raydet3d.sweep.expression import fill, has_expression

NAMES = {"lr": 0.002, "epoch_num": 15, "name": "x"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("${lr * 10}", 0.02), ("${int(epoch_num * 0.4)}", 6), ("${-lr}", -0.002), ("${epoch_num // 2 + 2 ** 3}", 15)],
)
def test_an_expression_is_evaluated(text: str, value: float) -> None:
    assert fill(text, NAMES, where="k") == pytest.approx(value)


def test_expressions_are_filled_in_at_any_depth() -> None:
    given = [{"T_max": "${epoch_num}", "betas": ("${lr}", 1)}, "plain ${lr} text"]
    assert has_expression(given)
    assert fill(given, NAMES, where="k") == [{"T_max": 15, "betas": (0.002, 1)}, "plain ${lr} text"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${lrr}", "no number 'lrr'; did you mean 'lr'"),
        ("${name}", "no number 'name'"),
        ("${__import__('os')}", "only numbers"),
        ("${lr.real}", "only numbers"),
        ("${1 / 0}", "division by zero"),
        ("${9 ** 9 ** 9}", "too large"),
        ("${lr +}", "cannot be evaluated"),
    ],
)
def test_anything_but_arithmetic_is_an_error(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"k: .*{message}"):
        fill(text, NAMES, where="k")
