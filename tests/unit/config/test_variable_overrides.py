"""Overrides without a dot: they replace variables, and values computed from them follow; errors of overrides."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raydet3d.config import Config
from tests.kit.input_errors import message

Write = Callable[..., Path]


def test_variable_is_replaced_in_every_file_of_the_chain(write: Write) -> None:
    write("base.py", "lr = 0.1\nbase_min = lr * 10\n")
    path = write("a.py", "_base_ = 'base.py'\nlr = 0.5\neta_min = lr / 10\nfrom_base = _base_.lr\n")
    cfg = Config.fromfile(path, {"lr": 2.0})
    assert cfg.to_dict() == {"lr": 2.0, "base_min": 20.0, "eta_min": 0.2, "from_base": 2.0}
    assert Config.fromfile(path).base_min == pytest.approx(1.0)


def test_variable_in_a_yaml_base_is_replaced(write: Write) -> None:
    write("base.yaml", "lr: 0.1\n")
    cfg = Config.fromfile(write("a.py", "_base_ = 'base.yaml'\neta = _base_.lr * 2\n"), {"lr": 3})
    assert cfg.to_dict() == {"lr": 3, "eta": 6}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n = 1\nn += 1\nm = n", {"n": 11, "m": 11}),  # augmented assignments still run
        ("n: int = 1\nm = n", {"n": 10, "m": 10}),
        ("a = n = 1\nm = n", {"a": 1, "n": 10, "m": 10}),
        ("k, n = 1, 2\nm = n", {"k": 1, "n": 10, "m": 10}),
        ("if True:\n    n = 1\nm = n", {"n": 10, "m": 10}),
        ("n = 1\nn = n * 2", {"n": 10}),
        ("def f():\n    n = 5\n    return n\nn = 1\nm = f()", {"n": 10, "m": 5}),
    ],
)
def test_which_assignments_are_replaced(write: Write, text: str, expected: dict[str, int]) -> None:
    assert Config.fromfile(write("a.py", text), {"n": 10}).to_dict() == expected


def test_list_overrides_replace_variables_and_dict_overrides_are_merged(write: Write) -> None:
    path = write("a.py", "names = ['Car']\nmeta = dict(classes=names)\ntrain_cfg = dict(max_epochs=3, by_epoch=True)\n")
    cfg = Config.fromfile(path, {"names": ["Van", "Car"], "train_cfg": {"max_epochs": 1}})
    assert cfg.meta.classes == ["Van", "Car"]
    assert cfg.train_cfg == {"max_epochs": 1, "by_epoch": True}
    cfg.names.append("x")
    assert cfg.meta.classes == ["Van", "Car"]


def test_dotted_overrides_come_after_merging(write: Write) -> None:
    path = write("a.py", "lr = 0.1\noptim_wrapper = dict(optimizer=dict(lr=lr), clip_grad=None)\n")
    options = {"optim_wrapper.optimizer.lr": 5, "lr": 2, "optim_wrapper.clip_grad.max_norm": 35}
    cfg = Config.fromfile(path, options)
    assert cfg.to_dict() == {"lr": 2, "optim_wrapper": {"optimizer": {"lr": 5}, "clip_grad": {"max_norm": 35}}}


def test_known_keys_can_be_added(write: Write) -> None:
    cfg = Config.fromfile(write("a.py", "lr = 1\n"), {"randomness.seed": 3, "load_from": "x.pth", "resume": True})
    assert cfg.to_dict() == {"lr": 1, "randomness": {"seed": 3}, "load_from": "x.pth", "resume": True}


def test_override_with_the_same_value_is_accepted(write: Write) -> None:
    assert Config.fromfile(write("a.py", "lr = 0.1\nmin_lr = lr\n"), {"lr": 0.1}).lr == 0.1


def test_error_in_the_config_code_names_the_override(write: Write) -> None:
    path = write("a.py", "lr = 0.1\nlow = lr * 0.5\n")
    expected = "in `low = lr * 0.5` (with the override lr='abc')"
    assert message(lambda: Config.fromfile(path, {"lr": "abc"})).endswith(expected)


def test_variable_read_through_base_counts_as_read(write: Write) -> None:
    write("base.yaml", "town: {seed: 1}\n")
    for taken in ("_base_.town", "_base_['town']", "{{_base_.town}}"):
        path = write("a.py", f"_base_ = 'base.yaml'\ndata = dict(town={taken})\n")
        assert "'town' is a variable" in message(lambda: Config.fromfile(path, {"town.seed": 9}))  # noqa: B023


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("epoch_nun", "the config has no 'epoch_nun', so this changes nothing; did you mean 'epoch_num'?"),
        ("lrr", "did you mean 'lr'?"),
        ("optim_wraper.optimizer.lr", "did you mean 'optim_wrapper'?"),
        ("optim_wrapper.optimiser.lr", "optim_wrapper has no 'optimiser'; did you mean 'optimizer'?"),
        ("param_scheduler.7.T_max", "param_scheduler has 1 items, so no index 7"),
        ("param_scheduler.T_max", "param_scheduler is a list of 1; it takes an index, not 'T_max'"),
        ("lr.x", "lr is 0.1, which has nothing inside"),
        ("town.seed", "'town' is a variable, and values computed from it are set already"),
        ("gone", "later code in a.py sets gone again, so this changes nothing"),
        ("a..b", "cannot read the key"),
    ],
)
def test_override_without_effect_is_refused(write: Write, key: str, expected: str) -> None:
    lines = ["lr = 0.1", "epoch_num = 3", "gone = 1", "del gone", "param_scheduler = [dict(T_max=3)]"]
    lines += ["town = dict(seed=1)", "train_dataloader = dict(dataset=dict(town=town))"]
    path = write("a.py", "\n".join([*lines, "optim_wrapper = dict(optimizer=dict(lr=lr))"]))
    text = message(lambda: Config.fromfile(path, {key: 9}))
    assert text.startswith(f"config option {key}")
    assert expected in text


def test_overriding_lr_and_epoch_num_changes_the_whole_schedule() -> None:
    cfg = Config.fromfile(
        "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py", {"lr": 0.002, "epoch_num": 10}
    )
    assert cfg.optim_wrapper.optimizer.lr == 0.002
    assert [s["eta_min"] for s in cfg.param_scheduler[:2]] == pytest.approx([0.02, 2e-7])
    assert [s["end"] for s in cfg.param_scheduler] == [4, 10, 4, 10]
    assert cfg.train_cfg.max_epochs == 10


def test_base_variables_replace_variables_of_the_bases(write: Write) -> None:
    write("deep.py", "root = 'a/'\nfile = root + 'train'\nnames = ['x']\n")
    write("base.py", "_base_ = 'deep.py'\nlr = 0.1\nmodel = dict(num=len(_base_.names), lr=lr)\n")
    path = write("a.py", "_base_ = ['base.py']\n_base_variables_ = dict(root='b/', names=['x', 'y'])\n")
    expected = {"root": "b/", "file": "b/train", "names": ["x", "y"], "lr": 0.1, "model": {"num": 2, "lr": 0.1}}
    assert Config.fromfile(path).to_dict() == expected
    assert Config.fromfile(path, {"root": "c/", "lr": 2}).file == "c/train"
    text = write("a.yaml", "_base_: base.py\n_base_variables_: {root: b/, names: [x, y]}\n")
    assert Config.fromfile(text).to_dict() == expected
    above = write("above.py", "_base_ = 'a.py'\n_base_variables_ = {'names': []}\n")
    assert Config.fromfile(above).to_dict() == {**expected, "names": [], "model": {"num": 0, "lr": 0.1}}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("_base_ = 'base.py'\n_base_variables_ = dict(rate=1)", "'rate'"),
        ("_base_ = 'base.py'\n_base_variables_ = dict(model=dict(num=1))", "model is a dict"),
        ("_base_ = 'base.py'\n_base_variables_ = 3", "got 3"),
        ("_base_ = 'base.py'\n_base_variables_ = dict(lr=x)", "literal dict"),
        ("_base_variables_ = dict(lr=1)", "there is no _base_"),
    ],
)
def test_base_variables_that_replace_nothing_are_refused(write: Write, text: str, named: str) -> None:
    write("base.py", "lr = 0.1\nmodel = dict(num=2)\n")
    path = write("a.py", text)
    assert named in message(lambda: Config.fromfile(path))


def test_variable_set_anew_after_a_base_has_read_it_is_warned_of(write: Write) -> None:
    write("base.py", "lr = 0.1\nmodel = dict(lr=lr)\n")
    path = write("a.py", "_base_ = 'base.py'\nlr = 0.5\n")
    with pytest.warns(UserWarning, match=r"a\.py:2: lr changes nothing that base\.py computes"):
        assert Config.fromfile(path).model.lr == 0.1
    Config.fromfile(write("same.py", "_base_ = 'base.py'\nlr = 0.1\n"))
    Config.fromfile(write("read.py", "_base_ = 'base.py'\nlr = 0.5\nmodel = dict(lr=lr)\n"))


def test_override_of_a_variable_that_nothing_is_computed_from_is_warned_of(write: Write) -> None:
    path = write("a.py", "lr = 0.1\nmodel = dict(lr=lr)\n")
    Config.fromfile(path, {"lr": 0.5}).dump(path.with_name("resolved.py"))
    with pytest.warns(UserWarning, match=r"config option lr: nothing in resolved\.py is computed from lr"):
        assert Config.fromfile(path.with_name("resolved.py"), {"lr": 0.7}).model.lr == 0.5
