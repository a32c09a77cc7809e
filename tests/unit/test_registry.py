"""Registry: entering, finding and building, and the sentences that a wrong name or argument gets."""

import collections
import functools
import inspect
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from raydet3d import registry
from raydet3d.errors import InputError
from raydet3d.registry import BadArgument, Registry, UnknownName, build_from_cfg


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
def test_register_refuses_what_is_not_callable(table: Registry, kwargs: dict[str, object], module: object) -> None:
    with pytest.raises(TypeError):
        table.register_module(module=module, **kwargs)  # type: ignore[call-overload]


def test_decorator_without_parentheses_is_refused(table: Registry) -> None:
    with pytest.raises(TypeError, match=r"got <class .*Ball'>; write @TABLE\.register_module\(\)"):

        @table.register_module
        class Ball: ...


def test_default_args_fill_missing_arguments(table: Registry) -> None:
    cfg = dict(type="Box", width=1)
    assert table.build(cfg, dict(width=9, height=7)).size == (1, 7)
    assert cfg == dict(type="Box", width=1)
    assert table.build(dict(width=1), dict(type="Box")).size == (1, 2)


def test_type_may_be_a_class_a_function_or_an_import_path(table: Registry) -> None:
    assert table.build(dict(type=Box, width=3)).size == (3, 2)
    assert table.build(dict(type=lambda n: n + 1, n=1)) == 2
    assert table.build(dict(type="fractions.Fraction", numerator=1, denominator=2)) == Fraction(1, 2)


def test_scope_prefixes_are_dropped(table: Registry) -> None:
    assert table.get("mmdet3d.Box") is Box
    assert table.get("mmengine.deep.down.Box") is Box
    assert table.build(dict(type="mmdet.Box", width=1, _scope_="mmdet")).size == (1, 2)


def test_an_import_path_wins_over_an_entry_of_the_same_last_name(table: Registry) -> None:
    table.register_module(name="OrderedDict", module=Box)
    assert table.get("collections.OrderedDict") is collections.OrderedDict
    assert table.get("nowhere_at_all.OrderedDict") is Box


def test_unknown_name_lists_the_nearest(table: Registry) -> None:
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
        (dict(type=5), "a thing's type is a name, a class or a function, got 5"),
        ("Box", "a thing is built from a dict with a 'type', got 'Box'"),
    ],
)
def test_bad_arguments_are_input_errors(table: Registry, cfg: dict[str, object], message: str) -> None:
    with pytest.raises(BadArgument) as caught:
        table.build(cfg)
    assert str(caught.value) == message
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, TypeError)


def test_a_missing_type_is_a_key_error(table: Registry) -> None:
    with pytest.raises(KeyError, match='must contain the key "type"'):
        table.build(dict(width=1))
    with pytest.raises(TypeError, match="name of a thing must be a text"):
        table.get(None)  # type: ignore[arg-type]


def test_errors_of_a_constructor_pass_unchanged(table: Registry) -> None:
    with pytest.raises(ZeroDivisionError):
        table.build(dict(type="fractions.Fraction", numerator=1, denominator=0))


def test_temporary_entries_are_removed(table: Registry) -> None:
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


def test_an_optional_entry_is_imported_when_its_name_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rd_extra.py").write_text("import rd_table\nrd_table.T.register_module(name='Extra', module=dict)\n")
    (tmp_path / "rd_table.py").write_text(
        "from raydet3d.registry import Registry\nT = Registry('t', optional={'Extra': 'rd_extra'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import rd_table  # type: ignore[import-not-found]

    with pytest.raises(UnknownName, match="did you mean 'Extra'"):
        rd_table.T.get("Extras")
    assert "rd_extra" not in sys.modules
    assert rd_table.T.get("Extra") is dict
    for name in ("rd_table", "rd_extra"):
        sys.modules.pop(name)


def test_listing_a_table_imports_its_optional_entries() -> None:
    assert {"MuonAdamW", "ZeroRedundancyOptimizer", "AdamW"} <= set(registry.OPTIMIZERS)


def test_failing_home_raises_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_home.py").write_text("raise RuntimeError('on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    broken = Registry("thing", home="broken_home")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on purpose"):
            broken.get("Anything")


def test_partial_can_be_a_type(table: Registry) -> None:
    half = functools.partial(Box, 1)
    assert table.build(dict(type=half, height=3)).size == (1, 3)
    with pytest.raises(BadArgument, match="thing Box has no argument 'heigth'; did you mean 'height'"):
        table.build(dict(type=half, heigth=3))


class TestTablesOfProjects:
    """A project's own table below one of ours, as ``Registry('model', parent=MODELS, scope='mine')``."""

    @pytest.fixture
    def child(self, table: Registry) -> Registry:
        mine = Registry("part", parent=table, scope="mine")
        mine.register_module(name="Ball", module=Fraction)
        return mine

    def test_parent_and_child_find_each_others_entries(self, table: Registry, child: Registry) -> None:
        assert child.get("Box") is Box
        assert table.get("Ball") is Fraction
        assert table.get("mine.Ball") is Fraction
        assert child.get("mmdet3d.Box") is Box
        assert child.parent is table
        assert table.children == {"mine": child}
        assert "Ball" not in table.module_dict

    def test_scope_prefix_selects_among_equal_names(self, table: Registry, child: Registry) -> None:
        child.register_module(name="Box", module=dict)
        assert table.get("Box") is Box
        assert child.get("Box") is dict
        assert table.get("mine.Box") is dict
        assert table.get("mmdet3d.Box") is Box

    def test_a_scope_is_taken_once_and_is_the_callers_package_by_default(
        self, table: Registry, child: Registry
    ) -> None:
        with pytest.raises(ValueError, match="has a table of scope 'mine' already"):
            Registry("part", parent=table, scope="mine")
        assert Registry("part", parent=table).scope == __name__.partition(".")[0]

    def test_a_scope_finds_the_tables_of_other_projects(self, table: Registry, child: Registry) -> None:
        other = Registry("part", parent=table, scope="other")
        inner = Registry("part", parent=child, scope="inner")
        inner.register_module(name="Deep", module=list)
        assert other.get("mine.Ball") is Fraction
        assert other.get("mine.inner.Deep") is list
        with pytest.raises(KeyError):
            other.get("Ball")

    def test_parent_and_scope_have_their_types(self) -> None:
        with pytest.raises(AssertionError):
            Registry("part", parent="table")  # type: ignore[arg-type]
        with pytest.raises(AssertionError):
            Registry("part", scope=1)  # type: ignore[arg-type]

    def test_locations_are_imported_on_a_miss(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "rd_parts.py").write_text("import rd_home\nrd_home.T.register_module(name='Late', module=dict)\n")
        (tmp_path / "rd_home.py").write_text(
            "from raydet3d.registry import Registry\nT = Registry('t', locations=['rd_parts'])\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        import rd_home  # type: ignore[import-not-found]

        assert rd_home.T.get("Late") is dict
        for name in ("rd_home", "rd_parts"):
            sys.modules.pop(name)

    def test_a_build_function_goes_before_and_is_inherited(self) -> None:
        def make(cfg: object, registry: Registry, default_args: object = None) -> object:
            return cfg, registry.name, default_args

        parent = Registry("thing", build_func=make)
        assert parent.build(3) == (3, "thing", None)
        child = Registry("part", parent=parent, scope="x")
        assert child.build(4, default_args={"a": 1}) == (4, "part", {"a": 1})
        assert child.build_func is make
        assert Registry("thing").build_func is build_from_cfg


def test_error_names_the_table_that_has_the_name() -> None:
    import raydet3d.optim  # noqa: F401  fills the table of optimizers

    with pytest.raises(UnknownName, match=r"unknown hook type 'AdamW'; the optimizer table has it"):
        registry.HOOKS.get("AdamW")


def test_entries_can_be_listed_and_removed(table: Registry) -> None:
    assert "Registry of thing" in repr(table)
    assert "Box" in repr(table)
    table.module_dict.pop("Box")
    assert "Box" not in table


def test_something_else_than_a_registry_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        build_from_cfg(dict(type="Box", width=1), "table")  # type: ignore[arg-type]


def test_descriptions(table: Registry) -> None:
    class Tall:
        """Stands up,
        and is tall. More.

        Rest.
        """

    table.register_module(module=Tall)
    assert table.describe() == [("Box", __name__, ""), ("Tall", __name__, "Stands up, and is tall.")]


def test_list_of_models_builds_a_sequential() -> None:
    row = registry.MODELS.build(
        [dict(type="torch.nn.Linear", in_features=2, out_features=3), dict(type="torch.nn.ReLU")]
    )
    assert [type(part).__name__ for part in row] == ["Linear", "ReLU"]
    assert type(row).__name__ == "Sequential"


def test_every_optimizer_of_torch_has_its_name() -> None:
    import torch

    for name, thing in vars(torch.optim).items():
        if isinstance(thing, type) and issubclass(thing, torch.optim.Optimizer) and thing is not torch.optim.Optimizer:
            assert registry.OPTIMIZERS.get(name) is thing
    assert {"Muon", "AdamW", "TorchAdafactor"} <= set(registry.OPTIMIZERS)


TAKES_BACKEND_ARGS = {
    "DATASETS": ["Det3DDataset", "KittiDataset", "NuScenesDataset", "LyftDataset", "WaymoDataset", "ScanNetDataset"],
    "TRANSFORMS": [
        *("LoadPointsFromFile", "LoadPointsFromMultiSweeps", "LoadAnnotations3D", "LoadMultiViewImageFromFiles"),
        *("LoadImageFromFile", "LoadImageFromFileMono3D", "DataBaseSampler"),
    ],
    "METRICS": ["KittiMetric", "NuScenesMetric", "LyftMetric", "WaymoMetric"],
    "HOOKS": ["CheckpointHook", "LoggerHook", "Det3DVisualizationHook"],
}


def test_backend_args_are_taken_where_published_configs_give_them() -> None:
    """Of what MMDetection3D's own classes take; those that are not here yet are passed over."""
    seen = 0
    for title, names in TAKES_BACKEND_ARGS.items():
        table = registry.tables()[title]
        for name in names:
            if name in table:
                parameters = inspect.signature(table.get(name)).parameters
                kinds = {parameter.kind for parameter in parameters.values()}
                assert "backend_args" in parameters or inspect.Parameter.VAR_KEYWORD in kinds, name
                seen += 1
    assert seen >= 8


def test_tables_hold_different_entries() -> None:
    tables = [value for value in vars(registry).values() if isinstance(value, Registry)]
    assert len({table.name for table in tables}) == len(tables) == 23
    assert set(registry.tables()) == {
        *("RUNNERS", "RUNNER_CONSTRUCTORS", "LOOPS", "HOOKS", "STRATEGIES", "DATASETS", "DATA_SAMPLERS", "TRANSFORMS"),
        *("MODELS", "MODEL_WRAPPERS", "WEIGHT_INITIALIZERS", "OPTIMIZERS", "OPTIM_WRAPPERS"),
        *("OPTIM_WRAPPER_CONSTRUCTORS", "PARAM_SCHEDULERS", "METRICS", "EVALUATOR", "TASK_UTILS", "VISUALIZERS"),
        *("VISBACKENDS", "LOG_PROCESSORS", "INFERENCERS", "FUNCTIONS"),
    }


@pytest.mark.parametrize(
    ("table", "path", "why"),
    [
        (registry.HOOKS, "os.system", "Python's standard library"),
        (registry.MODELS, "subprocess.Popen", "Python's standard library"),
        (registry.TASK_UTILS, "subprocess.Popen", "Python's standard library"),
        (registry.FUNCTIONS, "os.system", "Python's standard library"),
        (registry.MODELS, "builtins.exec", "Python's standard library"),
        (registry.MODELS, "torch.load", "a function that is not registered"),
        (registry.HOOKS, "torch.nn.Linear", "a class without after_train_iter"),
        (registry.DATASETS, "torch.nn.Linear", "a class without __getitem__"),
    ],
)
def test_import_paths_that_fit_no_table_are_refused_before_a_call(table: Registry, path: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        table.build({"type": path})
    assert repr(path) in str(caught.value)


def test_import_paths_that_fit(table: Registry) -> None:
    assert registry.MODELS.get("torch.nn.Linear").__name__ == "Linear"
    assert registry.HOOKS.get("raydet3d.hooks.EMAHook").__name__ == "EMAHook"
    assert registry.FUNCTIONS.get("torch.utils.data.default_collate").__name__ == "default_collate"
    function = registry.MODELS.get("torch.nn.Linear").forward
    table.register_module(name="step", module=function)
    assert table.get("torch.nn.Linear.forward") is function  # registered
