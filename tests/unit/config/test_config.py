"""Config files: inheritance, overrides, access and dumps, against values worked out by hand."""

import argparse
import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet3d.config import Config, ConfigDict, DictAction, configs_root, find_config
from raydet3d.config.config_dict import merge
from raydet3d.config.section_schemas import distance, is_misspelling, misspelled_key
from raydet3d.errors import InputError
from tests.kit.input_errors import message

Write = Callable[..., Path]
THREE_CLASSES = "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
CARS = "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py"


class TestInheritance:
    def test_dicts_merge_lists_and_the_rest_replace(self, write: Write) -> None:
        write("base.py", "a = dict(x=1, y=dict(z=[1, 2, 3], w='old'))\nb = 5\nc = [1]\n")
        cfg = Config.fromfile(
            write("child.py", "_base_ = './base.py'\na = dict(y=dict(z=[9]), n=0)\nb = 'six'\nd = 7\n")
        )
        assert cfg.to_dict() == {"a": {"x": 1, "y": {"z": [9], "w": "old"}, "n": 0}, "b": "six", "c": [1], "d": 7}

    def test_several_bases_at_any_depth_and_across_formats(self, write: Write) -> None:
        write("deep/ground.json", '{"model": {"depth": 18, "width": 4}}')
        write("deep/mid.yaml", "_base_: ground.json\nmodel:\n  depth: 34\nlr: 1e-4\n")
        write("other.py", "steps = (8, 11)\n")
        cfg = Config.fromfile(write("top.py", "_base_ = ['deep/mid.yaml', 'other.py']\nmodel = dict(width=8)\n"))
        assert cfg.to_dict() == {"model": {"depth": 34, "width": 8}, "lr": 1e-4, "steps": (8, 11)}

    def test_base_values_can_be_read_and_changed_by_the_child(self, write: Write) -> None:
        write("base.py", "model = dict(depth=18, neck=dict(k=1))\nhooks = [1]\nlr = 0.1\n")
        text = "_base_ = 'base.py'\ndouble = _base_.lr * 2\n_base_.model.neck.k = 3\ndel _base_.hooks\n"
        cfg = Config.fromfile(write("child.py", text))
        assert cfg.to_dict() == {"model": {"depth": 18, "neck": {"k": 3}}, "lr": 0.1, "double": 0.2}

    @pytest.mark.parametrize(
        ("base", "child", "expected"),
        [
            ({"a": {"x": 1}}, {"a": {"_delete_": True, "y": 2}}, {"a": {"y": 2}}),
            ({"a": {"x": 1}}, {"a": {"_delete_": False, "y": 2}}, {"a": {"x": 1, "y": 2}}),
            ({"a": [1]}, {"a": {"_delete_": True, "y": 2}}, {"a": {"y": 2}}),
            ({"a": {"x": 1}}, {"a": {"_delete_": 1, "y": 2}}, {"a": {"y": 2}}),
            ({}, {"new": {"_delete_": True, "y": 2}}, {"new": {"y": 2}}),
            (
                {},
                {"new": {"in": {"_delete_": True, "y": [{"_delete_": True, "z": 1}]}}},
                {"new": {"in": {"y": [{"z": 1}]}}},
            ),
            ({"a": {"b": {"x": 1}, "c": 0}}, {"a": {"b": {"_delete_": True}}}, {"a": {"b": {}, "c": 0}}),
            ({"a": None}, {"a": {"x": 1}}, {"a": {"x": 1}}),
            ({"a": {"x": 1}}, {"a": None}, {"a": None}),
        ],
    )
    def test_delete(self, base: dict[str, Any], child: dict[str, Any], expected: dict[str, Any]) -> None:
        before = copy.deepcopy((base, child))
        assert merge(base, child) == expected
        assert (base, child) == before

    def test_merge_result_shares_no_containers(self) -> None:
        shared = {"x": [1]}
        merged = merge({"a": shared, "b": shared}, {"c": shared})
        merged["a"]["x"].append(2)
        assert merged["b"] == merged["c"] == shared == {"x": [1]}

    def test_a_dict_does_not_merge_into_a_list(self, write: Write) -> None:
        write("base.py", "model = dict(neck=[1, 2])\n")
        path = write("child.py", "_base_ = 'base.py'\n\nmodel = dict(neck=dict(k=1))\n")
        text = message(lambda: Config.fromfile(path))
        assert text.startswith(f"{path}:3: model.neck: a dict cannot be merged into the list")
        assert "_delete_=True" in text

    def test_two_bases_with_the_same_key(self, write: Write) -> None:
        first, second = write("one.py", "lr = 1\n"), write("two.py", "lr = 2\n")
        path = write("child.py", "_base_ = ['one.py', 'two.py']\n")
        text = message(lambda: Config.fromfile(path))
        assert text.startswith(f"{path}:1: ")
        assert all(part in text for part in ("'lr'", f"{first}:1", f"{second}:1"))

    def test_circular_bases_are_refused(self, write: Write) -> None:
        write("one.py", "_base_ = 'two.py'\n")
        path = write("two.py", "_base_ = 'one.py'\n")
        assert "is circular" in message(lambda: Config.fromfile(path))

    @pytest.mark.parametrize("package", ["mmdet3d", "raydet3d"])
    def test_a_shipped_config_as_base(self, write: Write, package: str) -> None:
        cfg = Config.fromfile(write("a.py", f"_base_ = '{package}::{CARS}'\nmark = _base_.model.type\n"))
        assert cfg.model == Config.fromfile(f"mmdet3d::configs/{CARS}").model
        assert cfg.mark == "VoxelNet"
        path = write("b.py", "x = 1\n_base_ = ['mmdet3d::gone.py']\n")
        assert f"{path}:2: _base_ 'mmdet3d::gone.py': no such config comes with it" in message(
            lambda: Config.fromfile(path)
        )

    def test_a_config_of_an_installed_package_as_base(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        theirs = tmp_path / "site" / "mmseg" / ".mim" / "configs" / "_base_" / "x.py"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("lr = 7\n")
        monkeypatch.syspath_prepend(tmp_path / "site")
        assert Config.fromfile(write("a.py", "_base_ = 'mmseg::_base_/x.py'\nmark = _base_.lr + 1\n")).mark == 8

    def test_a_deprecated_config_names_its_successor(self, write: Write) -> None:
        path = write("a.py", "_deprecation_ = dict(expected='new.py', reference='https://x.org/1')\nlr = 1\n")
        with pytest.warns(
            DeprecationWarning, match=r"a\.py is deprecated; use new\.py instead \(see https://x\.org/1\)"
        ):
            assert Config.fromfile(path) == {"lr": 1}

    def test_modules_functions_and_classes_are_no_config_values(self, write: Write) -> None:
        tools = "import math\nfrom math import pi\nclass Tool: ...\ndef twice(x):\n    return 2 * x\n"
        text = f"{tools}_mine = 1\nlr = twice(pi)\n"
        assert Config.fromfile(write("a.py", text)).to_dict() == {"_mine": 1, "lr": pytest.approx(6.283185307179586)}


class TestBadFiles:
    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("a.py", "lr = 1\nx = dict(\n", "a.py:2: '(' was never closed"),
            ("a.py", "lr = 1\nx = lrr * 2\n", "a.py:2: NameError: name 'lrr' is not defined in `x = lrr * 2`"),
            ("a.py", "_base_ = 3\n", "a.py:1: _base_ must be a path or a list of paths, got 3"),
            ("a.py", "n = 'b.py'\n_base_ = n\n", "a.py:2: _base_ must be a literal path"),
            ("a.py", "_base_ = 'gone.py'\n", "a.py:1: _base_ names a file that does not exist"),
            (
                "a.py",
                "_base_ = 'mmdet::x.py'\n",
                "_base_ 'mmdet::x.py': no package 'mmdet' that has it is installed",
            ),
            ("a.py", "x = 1\nif x:\n    _base_ = 'b.py'\n", "a.py:3: _base_ must be assigned alone, at the top level"),
            ("a.py", "_base_: str = 'b.py'\n", "a.py:1: _base_ must be assigned alone, at the top level"),
            ("a.py", "x = 1\n\0", "a.py:1: source code string cannot contain null bytes"),
            ("a.py", "x = 1\nraise SystemExit(3)\n", "a.py:2: SystemExit: 3"),
            ("a.yaml", "a: 1\n2: x\n", "a.yaml:2: a config's keys must be names, got 2"),
            ("a.yaml", "a: &x [1, *x]\n", "a.yaml:1: a value contains itself"),
            ("a.yaml", "a: [1\nb: 2\n", "a.yaml:2: "),
            ("a.yaml", "- 1\n", "a.yaml: the top level of a config must be a mapping, got a list"),
            ("a.yaml", "a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
            ("a.json", '{"a": 1,\n}', "a.json:2: "),
            ("a.toml", "a = 1\n", "a.toml: a config is a .py, .yaml, .yml or .json file, not '.toml'"),
            ("a.py", "filename = 'x'\n", "filename is reserved"),
        ],
    )
    def test_error_names_file_and_line(self, write: Write, name: str, text: str, expected: str) -> None:
        path = write(name, text)
        assert expected in message(lambda: Config.fromfile(path))

    def test_missing_base_attribute_names_the_nearest(self, write: Write) -> None:
        write("base.py", "model = dict(depth=18)\n")
        path = write("a.py", "_base_ = 'base.py'\nx = _base_.modle.depth\n")
        assert "a.py:2: the config has no 'modle'; did you mean 'model'?" in message(lambda: Config.fromfile(path))


class TestMisspelling:
    @pytest.mark.parametrize(
        ("text", "wrong", "right"),
        [
            ("optim_warpper = dict(type='OptimWrapper')", "optim_warpper", "optim_wrapper"),
            ("\nparam_schedular = [dict()]", "param_schedular", "param_scheduler"),
            ("custom_hook = [1]", "custom_hook", "custom_hooks"),
            ("modle = dict()", "", ""),  # five letters allow one edit; this is two
            ("modl = dict()", "", ""),  # four letters
            ("custom_hook = 3", "", ""),  # no list
            ("custom_hooks = []\ncustom_hook = [1]\nall = custom_hook", "", ""),  # the right key is there
            ("train_pipeline = []", "", ""),
        ],
    )
    def test_top_level_keys_close_to_a_known_key_are_refused(
        self, write: Write, text: str, wrong: str, right: str
    ) -> None:
        path = write("a.py", text)
        if not wrong:
            Config.fromfile(path)
            return
        found = message(lambda: Config.fromfile(path))
        assert found.startswith(f"{path}:{text.count(chr(10)) + 1}: ")
        assert repr(wrong) in found
        assert repr(right) in found

    def test_misspelling_is_found_when_a_base_has_the_right_key(self, write: Write) -> None:
        write("base.py", "optim_wrapper = dict(type='OptimWrapper')\n")
        path = write("a.py", "_base_ = 'base.py'\noptim_wraper = dict(clip_grad=None)\n")
        assert message(lambda: Config.fromfile(path)).startswith(f"{path}:2: unknown key 'optim_wraper'")

    def test_misspelling_in_yaml_names_its_line(self, write: Write) -> None:
        path = write("a.yaml", "lr: 1\nresum: true\n")
        text = message(lambda: Config.fromfile(path))
        assert text.startswith(f"{path}:2: ")
        assert "'resum'" in text
        assert "'resume'" in text

    def test_similar_names_of_published_configs_are_accepted(self, write: Write) -> None:
        """PV-RCNN's config sets one that nobody reads, beside the val_dataloader that it inherits."""
        write("base.py", "val_dataloader = dict(batch_size=1)\n")
        path = write("a.py", "_base_ = 'base.py'\neval_dataloader = dict(batch_size=2)\n")
        assert Config.fromfile(path).val_dataloader.batch_size == 1

    def test_distance(self) -> None:
        assert [distance(a, b) for a, b in [("", "abc"), ("kitten", "sitting"), ("flaw", "lawn"), ("x", "x")]] == [
            3,
            3,
            2,
            0,
        ]

    @given(st.text("ab", max_size=6), st.text("ab", max_size=6))
    def test_distance_is_a_metric(self, a: str, b: str) -> None:
        assert distance(a, b) == distance(b, a)
        assert (distance(a, b) == 0) == (a == b)
        assert abs(len(a) - len(b)) <= distance(a, b) <= max(len(a), len(b))

    def test_misspelling_depends_on_length_and_presence(self) -> None:
        assert is_misspelling("model2", "model")
        assert not is_misspelling("mode", "model")
        assert misspelled_key("model", {}, []) is None
        assert misspelled_key("test_cfgs", {}, ["test_cfg"]) is None


class TestAccess:
    def test_attributes_and_items(self) -> None:
        cfg = Config({"a": {"b": [{"c": 1}], "t": ({"d": 2},)}})
        assert cfg.a.b[0].c == cfg["a"]["b"][0]["c"] == 1
        assert cfg.a.t[0].d == 2
        cfg.a.b[0].c = {"deep": 3}
        cfg.x = {"y": 4}
        assert cfg.a.b[0].c.deep == 3
        assert cfg.x.y == 4
        del cfg.a.b, cfg["x"]
        assert cfg == {"a": {"t": ({"d": 2},)}}
        assert len(cfg) == 1
        assert list(cfg) == ["a"]
        assert cfg.get("nope", 7) == 7
        assert cfg.pop("nope") is None
        assert "a" in cfg

    def test_missing_names_raise_attribute_or_key_error(self) -> None:
        cfg = Config({"model": {"depth": 1}})
        with pytest.raises(AttributeError, match=r"no 'modell'; did you mean 'model'\?"):
            cfg.modell  # noqa: B018
        with pytest.raises(KeyError):
            cfg["model"]["width"]
        with pytest.raises(AttributeError):
            del cfg.model.width
        assert not hasattr(cfg, "__wrapped__")

    def test_update_merges_inside_and_merge_honours_delete(self) -> None:
        tree = ConfigDict(a={"x": 1, "y": 2}, b=[1])
        tree.update({"a": {"x": 5}}, b=[2, 3])
        assert tree == {"a": {"x": 5, "y": 2}, "b": [2, 3]}
        tree.merge({"a": {"_delete_": True, "z": {"k": 1}}})
        assert tree.a.z.k == 1
        assert tree.setdefault("n", {"m": 1}).m == 1

    @pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), Config.copy])
    def test_copies_are_independent(self, how: Callable[[Config], Config]) -> None:
        cfg = Config.fromfile(CARS)
        other = how(cfg)
        assert other == cfg
        assert (other.filename, other.text) == (cfg.filename, cfg.text)
        other.model.bbox_head.num_classes = 99
        assert cfg.model.bbox_head.num_classes == 1

    def test_to_dict_is_plain(self) -> None:
        def kinds(value: Any) -> set[type]:
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
            return {type(value)}.union(*map(kinds, inner))

        assert kinds(Config.fromfile(CARS).to_dict()) <= {dict, list, tuple, str, int, float, bool, type(None)}

    def test_a_class_becomes_its_import_path(self, write: Write) -> None:
        cfg = Config.fromfile(write("a.py", "from fractions import Fraction\nx = dict(type=Fraction)\n"))
        assert cfg.to_dict() == {"x": {"type": "fractions.Fraction"}}

    def test_classes_defined_in_the_config_are_kept(self, write: Write) -> None:
        cfg = Config.fromfile(write("a.py", "class Mine: ...\nx = dict(type=Mine, f=[lambda: 1])\n"))
        assert cfg.to_dict()["x"]["type"].__name__ == "Mine"
        assert cfg.to_dict()["x"]["f"][0]() == 1
        assert message(lambda: cfg.pretty_text).startswith("x.type is a type (<class 'config:a.Mine'>)")

    def test_mmengine_keywords_are_accepted(self, write: Write) -> None:
        assert Config(cfg_dict={"a": 1}).a == 1
        assert Config.fromfile(write("a.py", "a = 1\n"), lazy_import=False, format_python_code=False).a == 1

    def test_merge_from_dict(self) -> None:
        cfg = Config({"a": [{"x": 1}, 2]})
        cfg.merge_from_dict({"a.0.x": 5, "a.1": 3})
        assert cfg.a == [{"x": 5}, 3]

        assert Config({"a": {"0": 1}}).merge_from_dict({"a.0": 2}, allow_list_keys=False) is None
        with pytest.raises(InputError, match="it takes an index"):
            cfg.merge_from_dict({"a.0.x": 5}, allow_list_keys=False)

    def test_dict_action_collects_repeated_options(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--cfg-options", nargs="+", action=DictAction)
        args = parser.parse_args(["--cfg-options", "a.b=1", "c=(1,2)", "--cfg-options", "a.b=x", "d='1'"])
        assert args.cfg_options == {"a.b": "x", "c": (1, 2), "d": "1"}
        assert parser.parse_args([]).cfg_options is None

    def test_from_string(self) -> None:
        assert Config.fromstring("a: 1e-3\n", ".yaml").a == 1e-3
        assert Config.fromstring("a = dict(b=1)\n").filename is None

    def test_diff(self) -> None:
        old, new = Config({"lr": 1, "n": 2}), Config({"lr": 3, "n": 2})
        assert Config.diff(old, old) == ""
        assert "-lr = 1\n+lr = 3\n n = 2" in Config.diff(old, new)


class TestCustomImports:
    def test_modules_are_imported_at_load(self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        write("plug_in_a.py", "LOADED = True\n")
        path = write("a.py", "custom_imports = dict(imports='plug_in_a')\n")
        assert "plug_in_a" not in sys.modules
        Config.fromfile(path, import_custom_modules=False)
        assert "plug_in_a" not in sys.modules
        Config.fromfile(write("b.py", "_base_ = 'a.py'\n"))
        assert sys.modules.pop("plug_in_a").LOADED

    def test_failing_module_is_an_error_or_a_warning(self, write: Write) -> None:
        path = write("a.py", "custom_imports = dict(imports=['no_such_plug_in'])\n")
        text = message(lambda: Config.fromfile(path))
        assert text.startswith(f"{path}:1: custom_imports cannot import 'no_such_plug_in': No module named")
        with pytest.warns(UserWarning, match="no_such_plug_in"):
            Config.fromfile(write("b.py", "_base_='a.py'\ncustom_imports = dict(allow_failed_imports=True)\n"))

    @pytest.mark.parametrize("text", ["[1]", "['a']", "dict(import_='a')"])
    def test_malformed_custom_imports_are_refused(self, write: Write, text: str) -> None:
        path = write("a.json", "{}") if text == "[1]" else write("a.py", f"custom_imports = {text}\n")
        if text == "[1]":
            cfg = Config({"custom_imports": [1]})
            assert "custom_imports takes" in message(cfg.import_custom_modules)
        else:
            assert "custom_imports takes" in message(lambda: Config.fromfile(path))


class TestFinding:
    def test_a_path_that_exists_is_itself(self, write: Write) -> None:
        path = write("a.py", "")
        assert find_config(path) == path

    def test_shipped_configs_are_found_from_anywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        root = configs_root()
        assert root is not None
        assert find_config(f"configs/{CARS}") == find_config(CARS) == root / CARS

    def test_missing_config_names_the_nearest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        wrong = CARS.replace("hv_secfpn", "secfpn")
        text = message(lambda: Config.fromfile(f"configs/{wrong}"))
        assert text.startswith(f"no such config: configs/{wrong}; did you mean configs/{CARS}")
        with pytest.raises(FileNotFoundError):
            find_config(tmp_path / "gone.py")
        assert "is a folder" in message(lambda: find_config(tmp_path))
        assert "no such config" in message(lambda: find_config("configs/../../pyproject.toml"))


def test_published_config_has_its_published_values() -> None:
    """What MMDetection3D's table and its two pages of config come to, written out."""
    cfg = Config.fromfile(THREE_CLASSES)
    assert cfg.optim_wrapper.to_dict() == {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 0.001, "betas": (0.95, 0.99), "weight_decay": 0.01},
        "clip_grad": {"max_norm": 35, "norm_type": 2},
    }
    assert [s["type"] for s in cfg.param_scheduler] == ["CosineAnnealingLR"] * 2 + ["CosineAnnealingMomentum"] * 2
    assert [(s["begin"], s["end"], s["T_max"]) for s in cfg.param_scheduler] == [(0, 32, 32), (32, 80, 48)] * 2
    assert [s["eta_min"] for s in cfg.param_scheduler] == pytest.approx([0.01, 1e-7, 0.85 / 0.95, 1])
    assert cfg.train_cfg == {"by_epoch": True, "max_epochs": 80, "val_interval": 2}
    assert cfg.train_dataloader.batch_size == 6
    assert cfg.train_dataloader.dataset.times == 2
    assert cfg.auto_scale_lr == {"enable": False, "base_batch_size": 48}
    voxels = cfg.model.data_preprocessor.voxel_layer
    assert (voxels.max_num_points, voxels.max_voxels) == (32, (16000, 40000))
    train = cfg.train_dataloader.dataset.dataset
    assert [t["type"] for t in train.pipeline] == [
        "LoadPointsFromFile",
        "LoadAnnotations3D",
        "ObjectSample",
        "RandomFlip3D",
        "GlobalRotScaleTrans",
        "PointsRangeFilter",
        "ObjectRangeFilter",
        "PointShuffle",
        "Pack3DDetInputs",
    ]
    assert train.pipeline[2].db_sampler.sample_groups == {"Car": 15, "Pedestrian": 15, "Cyclist": 15}
    cars = Config.fromfile(CARS)
    assert "bottom_heights" not in cars.model.bbox_head.anchor_generator
    assert isinstance(cars.model.train_cfg.assigner, dict)
    assert cars.val_dataloader.dataset.metainfo == {"classes": ["Car"]}


def test_reading_a_config_needs_no_torch() -> None:
    code = f"import sys; from raydet3d.config import Config; Config.fromfile({CARS!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
