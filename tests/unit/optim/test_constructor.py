"""What the stored table of param groups does not hold: shared parameters, deformable convolutions, bad configs."""

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper, build_optim_wrapper
from raydet3d.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from tests.kit.optim import small_model, toy_model

SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


class ModulatedDeformConv2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
        self.conv_offset = nn.Conv2d(2, 2, 1)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight


def settings_by_name(model, paramwise, optimizer=SGD):
    state = build_optim_wrapper(model, {"optimizer": optimizer, "paramwise_cfg": paramwise}).state_dict()
    return {name: group for group in state["param_groups"] for name in group["param_names"]}


class TestRules:
    def test_deformable_convolutions(self):
        model = nn.Sequential(ModulatedDeformConv2d())
        rules = {
            "bias_lr_mult": 2.0,
            "dcn_offset_lr_mult": 0.1,
            "bias_decay_mult": 0.5,
            "flat_decay_mult": 0.25,
            "norm_decay_mult": 0.0,
        }
        got = settings_by_name(model, rules)
        assert {name: (round(g["lr"], 6), g["weight_decay"]) for name, g in got.items()} == {
            "0.weight": (0.1, 0.01),
            "0.bias": (0.2, 0.005),  # its own parent is no deformable convolution, so it is a bias like any
            "0.conv_offset.weight": (0.01, 0.01),
            "0.conv_offset.bias": (0.01, 0.01),
        }

    def test_only_the_longest_custom_key_applies(self):
        rules = {"custom_keys": {"backbone": {"lr_mult": 0.1}, "backbone.0": {"lr_mult": 0.5}}, "bias_lr_mult": 7.0}
        got = settings_by_name(toy_model(), rules)
        assert [got[f"backbone.{i}.bias"]["lr"] for i in (0, 1)] == pytest.approx([0.05, 0.01])
        assert got["bbox_head.cls.bias"]["lr"] == pytest.approx(0.7)

    def test_multipliers_show_in_the_group(self):
        got = settings_by_name(toy_model(), {"custom_keys": {"cls": {"lr_mult": 0.5, "decay_mult": 2.0}}})
        assert got["bbox_head.cls.bias"]["lr_mult"] == 0.5
        assert got["bbox_head.cls.bias"]["weight_decay"] == 0.02
        assert "lr_mult" not in got["scale"]

    def test_a_custom_key_that_matches_nothing_is_logged(self, caplog):
        rules = {"custom_keys": {"bakbone": {"lr_mult": 0.1}, ".scale": {}, "frozen": {}, "backbone": {}}}
        with caplog.at_level("WARNING", logger="raydet3d"):
            settings_by_name(toy_model(), rules)
        assert [record.getMessage() for record in caplog.records] == [
            "paramwise_cfg.custom_keys: 'bakbone' is part of no trainable parameter's name; did you mean 'backbone'?",
            "paramwise_cfg.custom_keys: 'frozen' is part of no trainable parameter's name",
        ]

    def test_frozen_parameters_are_grouped_only_without_rules(self):
        assert "frozen.weight" in settings_by_name(toy_model(), None)
        assert "frozen.weight" not in settings_by_name(toy_model(), {"bias_lr_mult": 1.0})

    def test_each_setting_is_logged(self, caplog):
        with caplog.at_level("INFO", logger="raydet3d"):
            settings_by_name(small_model(), {"bias_lr_mult": 2.0})
        assert "paramwise_options -- 0.bias:lr=0.2" in caplog.text

    def test_a_wrapped_model(self):
        class Wrapper(nn.Module):
            def __init__(self, module):
                super().__init__()
                self.module = module

        got = settings_by_name(Wrapper(toy_model()), {"custom_keys": {".scale": {"lr_mult": 3.0}}})
        assert got["scale"]["lr"] == pytest.approx(0.3)


class TestShared:
    def test_is_refused(self):
        with pytest.raises(InputError, match=r"b.weight is a.weight under another name.*bypass_duplicate"):
            settings_by_name(Shared(), {"bias_lr_mult": 2.0})

    def test_is_taken_once(self, caplog):
        got = settings_by_name(Shared(), {"bias_lr_mult": 2.0, "bypass_duplicate": True})
        assert list(got) == ["a.weight", "a.bias", "b.bias"]
        assert "b.weight is a duplicate" in caplog.text


class TestBuild:
    def test_default_and_named_types(self):
        assert type(build_optim_wrapper(small_model(), {"optimizer": SGD})) is OptimWrapper
        assert type(build_optim_wrapper(small_model(), {"type": "AmpOptimWrapper", "optimizer": SGD})) is (
            AmpOptimWrapper
        )

    def test_the_config_is_not_changed(self):
        cfg = {
            "type": "OptimWrapper",
            "optimizer": dict(SGD),
            "paramwise_cfg": {"custom_keys": {"a": {"lr_mult": 1.0}}},
            "clip_grad": {"type": "norm", "max_norm": 1},
        }
        before = {k: dict(v) if isinstance(v, dict) else v for k, v in cfg.items()}
        build_optim_wrapper(small_model(), cfg)
        assert cfg == before

    def test_a_ready_optimizer_and_a_ready_wrapper(self):
        model = small_model()
        ready = torch.optim.SGD(model.parameters(), lr=0.3)
        wrapper = build_optim_wrapper(model, {"optimizer": ready, "clip_grad": {"max_norm": 1}})
        assert wrapper.optimizer is ready
        assert build_optim_wrapper(model, wrapper) is wrapper
        assert wrapper.state_dict()["param_groups"][0]["param_names"][0] == "0.weight"

    def test_an_optimizer_that_calls_its_parameters_otherwise(self):
        class Own(torch.optim.SGD):
            def __init__(self, model_params, lr):
                super().__init__(model_params, lr=lr)

        with OPTIMIZERS.temporary(Own=Own):
            wrapper = build_optim_wrapper(small_model(), {"optimizer": {"type": "Own", "lr": 0.5}})
        assert wrapper.get_lr() == {"lr": [0.5]}

    def test_a_user_defined_constructor_is_used(self):
        class Own:
            def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
                self.lr = optim_wrapper_cfg["optimizer"]["lr"] * paramwise_cfg["times"]

            def __call__(self, model):
                return OptimWrapper(torch.optim.SGD(model.parameters(), lr=self.lr))

        cfg = {"constructor": "Own", "optimizer": {"type": "SGD", "lr": 0.5}, "paramwise_cfg": {"times": 3}}
        with OPTIM_WRAPPER_CONSTRUCTORS.temporary(Own=Own):
            assert build_optim_wrapper(small_model(), cfg).get_lr() == {"lr": [1.5]}

    def test_a_constructor_that_adds_its_own_groups(self):
        class Layers(DefaultOptimWrapperConstructor):
            def _validate_cfg(self):
                pass

            def add_params(self, params, module, prefix="", is_dcn_module=None):
                for i, layer in enumerate(module):
                    params.append({"params": list(layer.parameters()), "lr": 0.5 if i else 0.1})

        with OPTIM_WRAPPER_CONSTRUCTORS.temporary(Layers=Layers):
            cfg = {"constructor": "Layers", "optimizer": {"type": "SGD", "lr": 1.0}, "paramwise_cfg": {"x": 1}}
            wrapper = build_optim_wrapper(small_model(), cfg)
        assert wrapper.get_lr() == {"base_lr": [1.0], "lr": [0.1, 0.5, 0.5]}
        assert len(wrapper.optimizer.param_groups) == 2
        assert [g["params"] for g in wrapper.state_dict()["param_groups"]] == [[0, 1], [2, 3], [4, 5]]

    @pytest.mark.parametrize(
        ("cfg", "what"),
        [
            ({"clip_grad": {"max_norm": 1}}, "must contain an 'optimizer'.*_delete_"),
            ([], "or a dict, got"),
            ({"optimizer": "SGD"}, "optim_wrapper.optimizer must be a dict"),
            ({"optimizer": {"type": "SDG", "lr": 0.1}}, "SGD"),
            ({"optimizer": {"type": "SGD", "lr": 0.1, "momentun": 0.9}}, "optim_wrapper.optimizer: .*momentum"),
            ({"optimizer": SGD, "clip_gard": None}, "clip_grad"),
            ({"optimizer": SGD, "paramwise_cfg": {"bias_lr": 1}}, "no rule 'bias_lr'.*bias_lr_mult"),
            ({"optimizer": SGD, "paramwise_cfg": {"custom_keys": {"a": 0.1}}}, "dict of dicts"),
            (
                {"optimizer": {"type": "SGD"}, "paramwise_cfg": {"bias_lr_mult": 2.0}},
                "bias_lr_mult multiplies the learning rate",
            ),
            (
                {"optimizer": {"type": "SGD"}, "paramwise_cfg": {"custom_keys": {"a": {}}}},
                "multiplies the learning rate",
            ),
        ],
    )
    def test_refuses(self, cfg, what):
        with pytest.raises(InputError, match=what):
            build_optim_wrapper(small_model(), cfg)

    def test_a_model_without_trainable_parameters_is_refused(self):
        model = small_model().requires_grad_(False)
        with pytest.raises(InputError, match="no trainable parameter"):
            build_optim_wrapper(model, {"optimizer": SGD, "paramwise_cfg": {"bias_lr_mult": 2.0}})


class TestMMEngineScripts:
    @pytest.mark.parametrize("name", ["lr_mul", "decay_mul", "weight_decays"])
    def test_a_misspelt_setting_of_a_custom_key_is_found(self, name):
        rules = {"custom_keys": {"bbox_head": {name: 0.1}}}
        with pytest.raises(
            KeyError, match=rf"custom_keys\['bbox_head'\] has an unknown setting '{name}'; did you mean"
        ):
            settings_by_name(toy_model(), rules)

    def test_settings_of_the_optimizer_are_custom_settings(self):
        got = settings_by_name(toy_model(), {"custom_keys": {"bbox_head": {"momentum": 0.5}}})
        assert got["bbox_head.cls.bias"]["momentum"] == 0.5

    def test_a_subclass_reads_a_rule_of_its_own(self):
        class Own(DefaultOptimWrapperConstructor):
            def add_params(self, params, module, prefix="", is_dcn_module=None):
                super().add_params(params, module, prefix, is_dcn_module)
                for group in params:
                    group["lr"] = self.base_lr * self.paramwise_cfg["own_mult"]

        wrapper = Own({"optimizer": SGD}, {"own_mult": 0.5, "norm_decay_mult": 0.0})(small_model())
        assert wrapper.get_lr()["lr"][0] == SGD["lr"] * 0.5

    def test_errors_are_mmengines_types(self):
        with pytest.raises(TypeError):
            DefaultOptimWrapperConstructor([])
        with pytest.raises(TypeError):
            DefaultOptimWrapperConstructor({"optimizer": SGD}, ["error"])
        with pytest.raises(AssertionError, match="must contain"):
            DefaultOptimWrapperConstructor({"type": "OptimWrapper"})
        with pytest.raises(KeyError):
            build_optim_wrapper(small_model(), {"optimizer": SGD, "constructor": "Unknown"})
