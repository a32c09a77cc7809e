"""The finite guard: a good step keeps every bit, a bad one changes nothing, on each of its three ways.

The ways for accelerators run here on the CPU, by telling the guard that it is not on the host.
"""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from raydet3d.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict, torch_private
from raydet3d.optim.nonfinite import FiniteGuard
from tests.kit.optim import batches, same, small_model, train, weights

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "fused SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.05, momentum=0.9, centered=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.05),
}
BAD = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf}


def make(kind, *, device_way=False, guard=True, **kwargs):
    model = small_model()
    wrapper = OptimWrapper(OPTIMIZERS[kind](model.parameters()), guard=guard, **kwargs)
    if device_way:
        wrapper._guard._on_host = False
    return model, wrapper


def bad_iterations(wrapper):
    """The iterations of the steps that were left out since the last call."""
    return [verdict.iteration for verdict in wrapper.verdicts(wait=True) if verdict.is_bad]


def poisoned(value, at=3, count=8):
    data = batches(count)
    data[at] = (data[at][0], data[at][1] * value)
    return data


class TestOptimWrapper:
    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize("device_way", [False, True])
    @pytest.mark.parametrize("clip", [None, {"max_norm": 0.5}, {"type": "value", "clip_value": 0.1}])
    def test_finite_steps_are_bitwise_unchanged(self, kind, device_way, clip):
        guarded, wrapper = make(kind, device_way=device_way, clip_grad=clip)
        plain, reference = make(kind, guard=False, clip_grad=clip)
        train(guarded, wrapper, batches(6))
        train(plain, reference, batches(6))
        assert same(weights(guarded), weights(plain))
        assert bad_iterations(wrapper) == []

    @pytest.mark.parametrize("kind", OPTIMIZERS)
    @pytest.mark.parametrize("device_way", [False, True])
    @pytest.mark.parametrize("at", [0, 3])
    def test_a_bad_step_changes_neither_weights_nor_moments(self, kind, device_way, at):
        model, wrapper = make(kind, device_way=device_way)
        data = poisoned(math.nan, at=at)
        train(model, wrapper, data)
        expected, reference = make(kind, guard=False)
        train(expected, reference, data[:at] + data[at + 1 :])
        assert same(weights(model), weights(expected))
        assert wrapper.bad_steps == 1
        assert bad_iterations(wrapper) == [at + 1]
        assert wrapper.verdicts(wait=True) == []
        ours, theirs = wrapper.optimizer.state_dict(), reference.optimizer.state_dict()
        for slot, moments in theirs["state"].items():
            for key, value in moments.items():
                assert value is None or torch.equal(ours["state"][slot][key], value), key

    @pytest.mark.parametrize("value", BAD.values(), ids=BAD)
    @pytest.mark.parametrize("clip", [None, {"max_norm": 0.5}, {"type": "value", "clip_value": 0.1}])
    def test_a_non_finite_loss_skips_the_step(self, value, clip):
        model, wrapper = make("SGD", clip_grad=clip)
        before = weights(model)
        train(model, wrapper, poisoned(value, at=0, count=1))
        assert same(weights(model), before)
        assert bad_iterations(wrapper) == [1]
        assert all(p.grad is None for p in model.parameters())

    def test_a_bad_loss_with_good_gradients(self):
        model, wrapper = make("AdamW")
        before = weights(model)
        x, y = batches(1)[0]
        wrapper.update_params((model(x) - y).square().mean() + torch.tensor(math.nan))
        assert same(weights(model), before)
        assert wrapper.bad_steps == 1

    def test_a_bad_loss_within_an_accumulation_skips_its_step(self):
        model, wrapper = make("SGD", accumulative_counts=2)
        before = weights(model)
        train(model, wrapper, poisoned(math.nan, at=0, count=2))
        assert same(weights(model), before)
        train(model, wrapper, batches(2))
        assert not same(weights(model), before)
        assert wrapper.bad_steps == 1

    def test_large_finite_gradients_are_not_skipped(self):
        """Squares of 1e30 are infinite; the gradients are not."""
        parameter = nn.Parameter(torch.zeros(3))
        wrapper = OptimWrapper(torch.optim.SGD([parameter], lr=1.0))
        wrapper.update_params((parameter * 1e30).sum())
        assert parameter.tolist() == pytest.approx([-1e30] * 3)
        assert wrapper.bad_steps == 0

    def test_without_the_guard(self):
        model, wrapper = make("SGD", guard=False)
        train(model, wrapper, poisoned(math.nan, at=0, count=1))
        assert any(w.isnan().any() for w in weights(model))
        assert wrapper.bad_steps == 0

    @pytest.mark.parametrize("kind", ["SGD", "fused AdamW"])
    @pytest.mark.parametrize("clip", [None, {"max_norm": 0.5}])
    def test_no_scalar_is_read_on_a_device(self, kind, clip):
        class Reads(TorchDispatchMode):
            seen = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if "_local_scalar_dense" in str(func) or "is_nonzero" in str(func):
                    Reads.seen += 1
                return func(*args, **(kwargs or {}))

        model, wrapper = make(kind, device_way=True, clip_grad=clip)
        wrapper._guard.keep_buffers(model)
        train(model, wrapper, batches(1))  # the first step waits: moments do not exist before
        steps = []
        step = wrapper.optimizer.step
        wrapper.optimizer.step = lambda **kwargs: steps.append(kwargs)  # on a CPU, optimizers read scalars themselves
        with Reads():
            train(model, wrapper, poisoned(math.nan))
        wrapper.optimizer.step = step
        assert (Reads.seen, len(steps)) == (0, 8)
        assert wrapper.bad_steps == 1


def norm_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


def spoiled(at, count=6):
    data = batches(count)
    data[at] = (torch.full_like(data[at][0], math.nan), data[at][1])
    return data


def everything(model):
    return [value.clone() for value in model.state_dict().values()]


@pytest.mark.parametrize("device_way", [False, True])
class TestBuffers:
    def wrap(self, model, device_way, **kwargs):
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), **kwargs)
        wrapper._guard._on_host = not device_way
        return wrapper

    def test_a_bad_batch_leaves_the_running_statistics_alone(self, device_way):
        model = norm_model()
        wrapper = self.wrap(model, device_way)
        train(model, wrapper, batches(2))
        before = everything(model)
        train(model, wrapper, spoiled(0, 1))
        assert same(everything(model), before)
        assert wrapper.bad_steps == 1

    @pytest.mark.parametrize("at", [0, 3])
    def test_a_run_with_a_bad_batch_equals_the_run_without_it(self, device_way, at):
        model, expected = norm_model(), norm_model()
        data = spoiled(at)
        train(model, self.wrap(model, device_way), data)
        train(expected, self.wrap(expected, device_way, guard=False), data[:at] + data[at + 1 :])
        assert same(everything(model), everything(expected))

    def test_buffers_are_restored_to_the_start_of_an_accumulation(self, device_way):
        model, expected = norm_model(), norm_model()
        data = spoiled(4, 9)  # the middle one of three groups of three
        train(model, self.wrap(model, device_way, accumulative_counts=3), data)
        train(expected, self.wrap(expected, device_way, accumulative_counts=3, guard=False), data[:3] + data[6:])
        assert same(everything(model), everything(expected))

    def test_finite_steps_are_bitwise_unchanged(self, device_way):
        model, expected = norm_model(), norm_model()
        model.register_buffer("odd", torch.tensor([math.nan, -0.0, math.inf]))
        model.register_buffer("one", torch.zeros(1).expand(3))  # of one memory: cannot be written
        train(model, self.wrap(model, device_way), batches(4))
        train(expected, self.wrap(expected, device_way, guard=False), batches(4))
        ours = model.state_dict()
        assert all(torch.equal(ours[name], value) for name, value in expected.state_dict().items())
        assert [str(v) for v in model.odd.tolist()] == ["nan", "-0.0", "inf"]

    def test_without_the_guard_buffers_are_not_restored(self, device_way):
        model = norm_model()
        train(model, self.wrap(model, device_way, guard=False), spoiled(0, 1))
        assert model[1].running_mean.isnan().all()

    def test_a_loss_scaler(self, device_way):
        model = norm_model()
        wrapper = AmpOptimWrapper(dtype="float16", optimizer=torch.optim.SGD(model.parameters(), lr=0.05))
        wrapper._guard._on_host = not device_way
        train(model, wrapper, batches(1))
        before = everything(model)
        train(model, wrapper, spoiled(0, 1))
        assert same(everything(model), before)


class TestMaskedStep:
    @pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_restores_bad_steps_and_keeps_good_ones(self, kind, dtype):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((3, 4), (5,), (2, 3, 2))]
        params[0].data = torch.randn(4, 3, dtype=dtype).t()  # not contiguous
        twins = [nn.Parameter(p.detach().clone()) for p in params]
        optimizer, twin = OPTIMIZERS[kind](params), OPTIMIZERS[kind](twins)
        guard = device_guard()
        for bad in (0.0, 0.0, 1.0, 1.0, 0.0):
            for p, q in zip(params, twins, strict=True):
                p.grad = torch.full_like(p, math.nan if bad else 0.3)
                q.grad = torch.full_like(q, 0.3)
            guard.flag.fill_(bad)
            guard.step(optimizer, params)
            if not bad:
                twin.step()
            assert same([p.detach() for p in params], [q.detach() for q in twins])

    def test_restoring_keeps_negative_zero(self):
        parameter = nn.Parameter(torch.tensor([-0.0]))
        optimizer, guard = torch.optim.SGD([parameter], lr=1.0), device_guard()
        for _ in range(2):
            parameter.grad = torch.zeros(1)
            guard.step(optimizer, [parameter])
        assert math.copysign(1, parameter.item()) == -1


def device_guard():
    """A guard that works as on an accelerator."""
    guard = FiniteGuard(torch.device("cpu"))
    guard._on_host = False
    return guard


class TestJudgeGradients:
    @staticmethod
    def is_bad(*grads):
        guard = FiniteGuard(torch.device("cpu"))
        guard.judge(grads, 1)
        return guard.num_bad == 1

    @pytest.mark.parametrize("value", BAD.values(), ids=BAD)
    @pytest.mark.parametrize("place", [0, 5])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_finds_every_element(self, value, place, dtype):
        grads = [torch.ones(3), torch.ones(2, 3, dtype=dtype)]
        assert not self.is_bad(*grads)
        grads[1].view(-1)[place] = value
        assert self.is_bad(*grads)

    def test_sparse_complex_and_empty(self):
        sparse = torch.sparse_coo_tensor([[0, 2]], [1.0, math.nan], (4,), check_invariants=True)
        assert self.is_bad(sparse)
        assert self.is_bad(torch.tensor([1.0, complex(0, math.inf)]))
        assert not self.is_bad(torch.ones(3, dtype=torch.complex64), torch.zeros(0))


def test_step_counts_on_the_host_are_corrected():
    """On an accelerator Adam counts its steps on the host, where a mask does not reach."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    guard = FiniteGuard(torch.device("cpu"))
    guard.device = torch.device("cuda")
    parameter.grad = torch.ones(1)
    for _ in range(5):
        optimizer.step()
    guard._num_excess = torch.tensor(2.0)
    for _ in range(2):
        guard.settle(optimizer)
        assert optimizer.state[parameter]["step"].item() == 3


@pytest.mark.parametrize("device_way", [False, True])
def test_verdicts(device_way):
    """Five steps of which the second, third and fifth are bad."""
    model, wrapper = make("SGD", device_way=device_way)
    data = batches(5)
    for at in (1, 2, 4):
        data[at] = (data[at][0], data[at][1] * math.nan)
    train(model, wrapper, data)
    expected = [(i, bad, "") for i, bad in enumerate([False, True, True, False, True], 1)]
    # A device that is not CUDA's tells nothing before it is waited for.
    assert wrapper.verdicts() == ([] if device_way else expected)
    assert wrapper.verdicts(wait=True) == (expected if device_way else [])
    assert wrapper.verdicts(wait=True) == []
    assert wrapper.is_guarded
    assert not make("SGD", guard=False)[1].is_guarded


def test_verdicts_of_several_optimizers():
    (one, first), (two, second) = make("SGD"), make("AdamW")
    both = OptimWrapperDict(one=first, two=second)
    train(one, first, poisoned(math.nan, at=1, count=2))
    train(two, second, poisoned(math.nan, at=0, count=2))
    assert both.verdicts() == [(1, False, "one"), (1, True, "two"), (2, False, "two"), (2, True, "one")]
    assert both.bad_steps == 2
    assert both.is_guarded
    assert not OptimWrapperDict(one=make("SGD", guard=False)[1]).is_guarded


def test_a_missing_private_kernel_changes_nothing(monkeypatch):
    monkeypatch.setattr(torch_private, "_CHECK", None)
    TestJudgeGradients().test_finds_every_element(math.nan, 5, torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_verdicts_of_a_gpu_arrive_without_waiting():
    model = small_model().cuda()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    for x, y in poisoned(math.nan, at=1, count=3):
        wrapper.update_params((model(x.cuda()) - y.cuda()).square().mean())
    torch.cuda.synchronize()
    assert wrapper.verdicts() == [(1, False, ""), (2, True, ""), (3, False, "")]


def test_bad_first_steps_are_not_subtracted_from_step_counts():
    """As after a resume: the first step of each parameter waits for the flag; more bad ones than good would show."""
    model, wrapper = make("AdamW", device_way=True)
    data = batches(6)
    bad = [(x, y * math.nan) for x, y in data[:3]]
    train(model, wrapper, [*bad, *data[3:]])
    expected, reference = make("AdamW", guard=False)
    train(expected, reference, data[3:])
    assert bad_iterations(wrapper) == [1, 2, 3]
    steps = [float(state["step"]) for state in wrapper.optimizer.state.values()]
    assert steps == [3.0] * len(steps)
    assert same(weights(model), weights(expected))
