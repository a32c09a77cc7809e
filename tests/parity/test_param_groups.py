"""Settings of every parameter for every stored ``paramwise_cfg``, against MMEngine's groups."""

import pytest

from raydet3d.optim import build_optim_wrapper
from raydet3d.registry import OPTIMIZERS
from tests.kit.optim import read_table, toy_model

TABLE = read_table("param_groups")
GOOD = [case for case in TABLE["cases"] if "error" not in case]
BAD = [case for case in TABLE["cases"] if "error" in case]


def _title(case):
    return f"{case['optimizer']['type']}-{'-'.join(case['paramwise_cfg'] or ['none'])}"


def _plain(settings):
    """A group's settings as JSON has them."""
    skipped = ("params", "names", "param_names")
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items() if k not in skipped}


def _build(case):
    model = toy_model()
    return model, build_optim_wrapper(model, {"optimizer": case["optimizer"], "paramwise_cfg": case["paramwise_cfg"]})


def test_the_table_is_whole():
    assert (len(GOOD), len(BAD)) == (34, 20)


@pytest.mark.parametrize("case", GOOD, ids=_title)
def test_state_dict_has_the_groups(case):
    _, wrapper = _build(case)
    state = wrapper.state_dict()
    assert [g["param_names"] for g in state["param_groups"]] == [g["names"] for g in case["groups"]]
    assert [_plain(g) for g in state["param_groups"]] == [_plain(g) for g in case["groups"]]
    ids = [i for g in state["param_groups"] for i in g["params"]]
    assert ids == list(range(len(ids)))
    base = state.get("base_param_settings")
    assert (_plain(base) if base else None) == case["base_param_settings"]
    assert wrapper.get_lr() == case["get_lr"]
    assert wrapper.get_momentum() == case["get_momentum"]


@pytest.mark.parametrize("case", GOOD, ids=_title)
def test_memory_has_each_setting_once(case):
    model, wrapper = _build(case)
    expected = {name: _plain(g) for g in case["groups"] for name in g["names"]}
    names = {id(p): name for name, p in model.named_parameters()}
    got = {names[id(p)]: _plain(g) for g in wrapper.optimizer.param_groups for p in g["params"]}
    assert got == expected
    distinct = {repr(sorted(settings.items())) for settings in expected.values()}
    assert len(wrapper.optimizer.param_groups) == len(distinct)


@pytest.mark.parametrize("case", BAD, ids=_title)
def test_error(case):
    kind, _, message = case["error"].partition(": ")
    assert kind == "ValueError"
    with pytest.raises(ValueError, match=message):
        _build(case)


def test_the_optimizers_of_the_tables_are_registered():
    assert {case["optimizer"]["type"] for case in TABLE["cases"]} <= set(OPTIMIZERS)
