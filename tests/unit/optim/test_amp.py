"""Mixed precision on the CPU: bfloat16 without a scaler, float16 with one, and states."""

import math

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from tests.kit.optim import batches, same, small_model, train, weights


def make(seed=0, **kwargs):
    model = small_model(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, AmpOptimWrapper(optimizer=optimizer, **kwargs)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, torch.bfloat16),
        ("bfloat16", torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        ("float16", torch.float16),
        ("float32", torch.float32),
        ("float64", torch.float32),
    ],
)
def test_forward_runs_in_the_type(dtype, expected):
    model, wrapper = make(dtype=dtype)
    with wrapper.optim_context(model):
        assert model[0](torch.ones(1, 3)).dtype is expected
    assert model[0](torch.ones(1, 3)).dtype is torch.float32
    assert (wrapper.loss_scaler is not None) == (expected is torch.float16)


def test_bfloat16_is_torchs_autocast():
    model, wrapper = make(dtype="bfloat16", clip_grad={"max_norm": 0.5})
    train(model, wrapper, batches(5))
    other = small_model()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    for x, y in batches(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (other(x).float() - y).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
    assert same(weights(model), weights(other))
    assert "loss_scaler" not in wrapper.state_dict()


@pytest.mark.parametrize("clip", [None, {"max_norm": 0.5}])
@pytest.mark.parametrize("loss_scale", [512.0, 512, {"init_scale": 512.0, "growth_interval": 2}])
def test_scaling_by_powers_of_two_changes_little(clip, loss_scale):
    model, wrapper = make(dtype="float16", loss_scale=loss_scale, clip_grad=clip)
    train(model, wrapper, batches(5))
    plain = small_model()
    reference = OptimWrapper(torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9), clip_grad=clip)
    train(plain, reference, batches(5))
    for a, b in zip(weights(model), weights(plain), strict=True):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=5e-3)
    scale = wrapper.loss_scaler.get_scale()
    assert scale == (2048.0 if isinstance(loss_scale, dict) else 512.0)


def test_the_scale_by_default():
    assert make(dtype="float16")[1].loss_scaler.get_scale() == 65536.0


def test_a_scale_too_large_is_lowered_and_not_counted():
    model, wrapper = make(dtype="float16", loss_scale={"init_scale": 2.0**40})
    before = weights(model)
    train(model, wrapper, batches(1))
    assert same(weights(model), before)
    assert wrapper.loss_scaler.get_scale() == 2.0**39
    assert wrapper.bad_steps == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_bad_loss_is_counted(dtype):
    model, wrapper = make(dtype=dtype)
    before = weights(model)
    (x, y), good = batches(2)
    train(model, wrapper, [(x, y * math.nan)])
    assert same(weights(model), before)
    assert wrapper.verdicts(wait=True) == [(1, True, "")]
    train(model, wrapper, [good])
    assert wrapper.bad_steps == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_resumed_equals_uninterrupted(dtype):
    settings = {"dtype": dtype, "loss_scale": {"init_scale": 4.0, "growth_interval": 3}, "accumulative_counts": 2}
    data = batches(12)
    whole, reference = make(**settings)
    train(whole, reference, data)
    first, one = make(**settings)
    train(first, one, data[:5])
    second, two = make(seed=3, **settings)
    second.load_state_dict(first.state_dict())
    two.load_state_dict(one.checkpoint_state())
    two.initialize_count_status(second, 5, 12)
    train(second, two, data[5:])
    assert same(weights(second), weights(whole))
    if dtype == "float16":
        assert two.loss_scaler.get_scale() == reference.loss_scaler.get_scale() == 16.0


def test_a_scaler_that_is_not_needed_is_passed_over():
    _, half = make(dtype="float16")
    _, short = make(dtype="bfloat16")
    short.load_state_dict(half.state_dict())
    half.load_state_dict(short.state_dict())


def test_from_a_config():
    cfg = {"type": "AmpOptimWrapper", "loss_scale": 4096.0, "dtype": "float16", "optimizer": {"type": "SGD", "lr": 1}}
    wrapper = build_optim_wrapper(small_model(), cfg)
    assert wrapper.loss_scaler.get_scale() == 4096.0


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"loss_scale": "static"}, "loss_scale must be"),
        ({"loss_scale": True}, "loss_scale must be"),
        ({"loss_scale": {"scale": 1.0}, "dtype": "float16"}, "optim_wrapper.loss_scale.*scale"),
        ({"dtype": "half"}, "one of float16"),
        ({"dtype": 16}, "torch.dtype"),
    ],
)
def test_refuses(settings, what):
    with pytest.raises(InputError, match=what):
        make(**settings)
