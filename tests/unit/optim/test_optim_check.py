"""Bad input in ``optim_wrapper`` and ``param_scheduler`` is said in one line, by its key, before anything is built."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.optim import OptimWrapper, ParamScheduler, check_optimization
from raydet3d.registry import OPTIMIZERS, PARAM_SCHEDULERS

SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9}
ROOT = Path(__file__).resolve().parents[3]


def cfg(optim_wrapper=None, param_scheduler=None, **changes):
    wrapper = {"type": "OptimWrapper", "optimizer": SGD, **(optim_wrapper or {})}
    return {
        "optim_wrapper": wrapper,
        "param_scheduler": param_scheduler,
        "train_cfg": {"by_epoch": True, "max_epochs": 12},
        **changes,
    }


BAD = [
    ({"optimizer": None}, None, "optim_wrapper.optimizer must be a dict with a 'type', got None"),
    ({"clip_grad": {}}, None, "optim_wrapper: clip_grad of type 'norm' needs 'max_norm'; got {}"),
    ({"clip_grad": {"type": "value"}}, None, "optim_wrapper: clip_grad of type 'value' needs 'clip_value'"),
    ({"clip_grad": {"max_norm": "10"}}, None, "clip_grad.max_norm must be a number of at least 0, got '10'"),
    ({"clip_grad": {"max_norm": 1, "norm_type": "two"}}, None, "clip_grad.norm_type must be a number or 'inf'"),
    ({"clip_grad": 35}, None, "clip_grad must be a dict with type, max_norm"),
    ({"accumulative_counts": 0}, None, "accumulative_counts must be an integer of at least 1, got 0"),
    ({"clip_gard": None}, None, "has no argument 'clip_gard'; did you mean 'clip_grad'?"),
    ({"type": "AmpOptimWraper"}, None, "unknown optim wrapper type 'AmpOptimWraper'; did you mean 'AmpOptimWrapper'"),
    ({"type": "AmpOptimWrapper", "loss_scale": "static"}, None, "loss_scale must be of type float, dict"),
    ({"type": "AmpOptimWrapper", "loss_scale": -1.0}, None, "loss_scale must be above 0 and finite, got -1.0"),
    (
        {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": {"growth": 2}},
        None,
        "optim_wrapper.loss_scale: ",
    ),
    ({"type": "AmpOptimWrapper", "dtype": "fp16"}, None, "dtype must be one of float16, bfloat16"),
    ({"optimizer": {"type": "AdmW", "lr": 1}}, None, "optim_wrapper.optimizer: unknown optimizer type 'AdmW'"),
    ({"optimizer": {**SGD, "wieght_decay": 0.1}}, None, "did you mean 'weight_decay'?"),
    ({"optimizer": {**SGD, "lr": -1}}, None, "optim_wrapper.optimizer: SGD: Invalid learning rate: -1"),
    ({"optimizer": {"lr": 1}}, None, "optim_wrapper.optimizer: needs a 'type'"),
    ({"paramwise_cfg": {"norm_decay_mul": 0.0}}, None, "paramwise_cfg has no rule 'norm_decay_mul'"),
    ({"paramwise_cfg": {"norm_decay_mult": 0.0}}, None, "base_wd should not be None"),
    ({"paramwise_cfg": {"custom_keys": {"backbone": 0.1}}}, None, "custom_keys must be a dict of dicts"),
    (None, [{"type": "LinearLR", "begin": 5, "end": 3}], "param_scheduler[0]: end should be larger than begin"),
    (None, [{"type": "CosineAnnealingLR", "begin": 12}], "param_scheduler[0]: end should be larger than begin"),
    (None, [{"type": "LinearLR"}, {"type": "StepLr", "step_size": 1}], "param_scheduler[1]: unknown param scheduler"),
    (None, {"type": "LinearLR", "start_facto": 0.1}, "did you mean 'start_factor'?"),
    (None, [{"type": "MultiStepLR"}], "milestones"),
    (None, [{"type": "CosineAnnealingLR", "eta_min": 0, "eta_min_ratio": 0.1}], "give eta_min or eta_min_ratio"),
    (None, [{"type": "LinearLR", "by_epoch": False, "convert_to_iter_based": True}], "needs by_epoch=True"),
    (None, [{"type": "ReduceOnPlateauLR", "convert_to_iter_based": True}], "cannot be converted to iterations"),
    (
        {"optimizer": {"type": "Adagrad", "lr": 0.1}},
        [{"type": "CosineAnnealingMomentum"}],
        "param_scheduler[0]: optimizer must support momentum when using momentum scheduler: Adagrad has neither",
    ),
    (None, [{"type": "StepParamScheduler", "param_name": "wd", "step_size": 1}], "param groups have no 'wd'"),
    (None, {"generator": [{"type": "LinearLR"}]}, "param_scheduler is a dict of 'generator' and has no 'type'"),
]


@pytest.mark.parametrize(("wrapper", "schedule", "said"), BAD, ids=[said[:60] for _, _, said in BAD])
def test_an_error_is_one_sentence_with_its_key(wrapper, schedule, said):
    with pytest.raises(InputError) as caught:
        check_optimization(cfg(wrapper, schedule))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("optim_wrapper", "param_scheduler"))


def test_valid_configs_pass_without_log_lines(caplog):
    listed = {"type": "OneCycleLR", "eta_max": [0.1, 0.2, 0.3], "total_steps": 5}
    with caplog.at_level("INFO"):
        check_optimization({})
        check_optimization(cfg({"paramwise_cfg": {"custom_keys": {"backbone": {"lr_mult": 0.1}}}}, [listed]))
        check_optimization(cfg({"optimizer": {"type": "Muon", "lr": 0.1}}))
        check_optimization(cfg({"type": "AmpOptimWrapper", "loss_scale": 512}, {"type": "PolyLR"}))
        check_optimization(cfg({"constructor": "NobodyKnows", "optimizer": 3}))
        check_optimization({"optim_wrapper": OptimWrapper(torch.optim.SGD([torch.zeros(1)], lr=1))})
        iters = {"by_epoch": False, "max_iters": 500}
        check_optimization(cfg(None, [{"type": "LinearLR", "by_epoch": False, "begin": 400}], train_cfg=iters))
    assert not caplog.records


def test_classes_of_users_are_not_built():
    class Own(torch.optim.SGD):
        def __init__(self, params, secret):
            raise RuntimeError("made")

    class OwnScheduler(ParamScheduler):
        def __init__(self, optimizer):
            raise RuntimeError("made")

    with OPTIMIZERS.temporary(Own=Own), PARAM_SCHEDULERS.temporary(OwnScheduler=OwnScheduler):
        good = [{"type": "OwnScheduler"}, {"type": "CosineAnnealingMomentum"}]
        check_optimization(cfg({"optimizer": {"type": "Own", "secret": 1}}, good))
        bad = {"type": "LinearLR", "begin": 5, "end": 3}
        with pytest.raises(InputError, match=r"param_scheduler\[2\]"):
            check_optimization(cfg({"optimizer": {"type": "Own", "secret": 1}}, [*good, bad]))
        with pytest.raises(InputError, match=r"param_scheduler\.one\[0\]"):
            check_optimization(cfg({"constructor": "NobodyKnows"}, {"one": [bad]}))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("param_scheduler.0.end=-1", "param_scheduler[0]: end should be larger than begin"),
        ("optim_wrapper.clip_grad.norm=2", "clip_grad of type 'norm' has no 'norm'"),
    ],
)
def test_train_exits_2_before_data_are_generated(tmp_path, option, said):
    config = ROOT / "configs" / "demo" / "pointpillars_town.py"
    command = [sys.executable, "-m", "raydet3d.train", str(config), "--workers", "0", "--work-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--cfg-options", option], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.bin"))
