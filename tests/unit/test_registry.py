"""Registry: entering, finding and building, and the sentences that a wrong name or argument gets."""

import collections
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from raydet3d import registry
from raydet3d.errors import InputError
from raydet3d.registry import BadArgument, Registry, UnknownName


class Box:
    def __init__(self, width: int, *, height: int = 2) -> None:
        self.size = (width, height)


@pytest.fixture
def table() -> Registry:
    things = Registry("thing")
    things.register_module(module=Box)
    return things


def test_enters_as_decorator_under_its_own_or_given_names(table: Registry) -> None:
    @table.register_module()
    class Ball: ...

    @table.register_module(name=["Cone", "Funnel"])
    def make_cone() -> str:
        return "cone"

    assert table.get("Ball") is Ball
    assert table.build(dict(type="Funnel")) == "cone"
    assert list(table) == ["Ball", "Box", "Cone", "Funnel"]
    assert "make_cone" not in table


def test_a_name_is_taken_once_unless_forced(table: Registry) -> None:
    table.register_module(module=Box)  # the same thing again is no clash
    with pytest.raises(KeyError, match="Box is already a thing"):
        table.register_module(name="Box", module=Fraction)
    assert table.get("Box") is Box
    table.register_module(name="Box", force=True, module=Fraction)
    assert table.get("Box") is Fraction


@pytest.mark.parametrize(("kwargs", "module"), [(dict(force="yes"), Box), ({}, "no callable")])
def test_refuses_what_is_no_entry(table: Registry, kwargs: dict[str, object], module: object) -> None:
    with pytest.raises(TypeError):
        table.register_module(module=module, **kwargs)  # type: ignore[call-overload]


def test_builds_with_defaults_only_where_the_config_is_silent(table: Registry) -> None:
    cfg = dict(type="Box", width=1)
    assert table.build(cfg, dict(width=9, height=7)).size == (1, 7)
    assert cfg == dict(type="Box", width=1)
    assert table.build(dict(width=1), dict(type="Box")).size == (1, 2)


def test_type_may_be_a_class_a_function_or_an_import_path(table: Registry) -> None:
    assert table.build(dict(type=Box, width=3)).size == (3, 2)
    assert table.build(dict(type=lambda n: n + 1, n=1)) == 2
    assert table.build(dict(type="fractions.Fraction", numerator=1, denominator=2)) == Fraction(1, 2)


def test_scopes_are_dropped(table: Registry) -> None:
    assert table.get("mmdet3d.Box") is Box
    assert table.get("mmengine.deep.down.Box") is Box
    assert table.build(dict(type="mmdet.Box", width=1, _scope_="mmdet")).size == (1, 2)


def test_an_import_path_wins_over_an_entry_of_the_same_last_name(table: Registry) -> None:
    table.register_module(name="OrderedDict", module=Box)
    assert table.get("collections.OrderedDict") is collections.OrderedDict
    assert table.get("nowhere_at_all.OrderedDict") is Box


def test_unknown_names_get_the_nearest(table: Registry) -> None:
    table.register_module(name="VoxelNet", module=Box)
    with pytest.raises(UnknownName, match=r"unknown thing type 'VoxlNet'; did you mean 'VoxelNet'\?"):
        table.get("VoxlNet")
    with pytest.raises(UnknownName, match="known: Box, VoxelNet"):
        table.get("qqq")
    with pytest.raises(KeyError):
        table.get("fractions.Nothing")
    with pytest.raises(UnknownName):
        table.get("fractions.__name__")


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(type="Box", widht=1), "thing Box has no argument 'widht'; did you mean 'width'?"),
        (dict(type="Box", width=1, xyz=2), "thing Box has no argument 'xyz'; it takes width, height"),
        (dict(type="Box"), "thing Box: missing a required argument: 'width'"),
        (dict(width=1), "a thing config needs a 'type'; got keys ['width']"),
        (dict(type=5), "a thing's type is a name, a class or a function, got 5"),
        ("Box", "a thing is built from a dict with a 'type', got 'Box'"),
    ],
)
def test_bad_arguments_are_the_users_to_mend(table: Registry, cfg: dict[str, object], message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        table.build(cfg)
    assert str(caught.value) == message
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, TypeError)


def test_errors_of_a_constructor_pass_unchanged(table: Registry) -> None:
    with pytest.raises(ZeroDivisionError):
        table.build(dict(type="fractions.Fraction", numerator=1, denominator=0))


def test_temporary_entries_go_again(table: Registry) -> None:
    with table.temporary(Ball=Fraction):
        assert table.get("Ball") is Fraction
    assert "Ball" not in table
    assert "Box" in table


def test_home_is_imported_on_the_first_miss_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_home.py").write_text(
        "import homely\nhomely.TABLE.register_module(name='Chair', module=dict)\nhomely.WOKEN.append(1)\n"
    )
    (tmp_path / "homely.py").write_text(
        "from raydet3d.registry import Registry\nTABLE = Registry('chair', home='a_home')\nWOKEN = []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import homely  # type: ignore[import-not-found]

    homely.TABLE.register_module(name="Stool", module=list)
    assert homely.TABLE.get("Stool") is list
    assert homely.WOKEN == []
    assert homely.TABLE.get("Chair") is dict
    assert "Sofa" not in homely.TABLE
    assert homely.WOKEN == [1]
    for name in ("homely", "a_home"):
        sys.modules.pop(name)


def test_a_home_that_fails_fails_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_home.py").write_text("raise RuntimeError('on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    broken = Registry("thing", home="broken_home")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on purpose"):
            broken.get("Anything")


def test_the_tables_are_apart() -> None:
    tables = [value for value in vars(registry).values() if isinstance(value, Registry)]
    assert len({table.name for table in tables}) == len(tables) == 23
