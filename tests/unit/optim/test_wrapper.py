"""OptimWrapper: accumulation, clipping, synchronisation between ranks, states; by hand and against plain torch."""

import doctest
import io
import math

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.optim import OptimWrapper, build_optim_wrapper, wrapper
from tests.kit.optim import batches, same, small_model, train, weights
from tests.kit.spawn import run_ranks


def make(seed=0, lr=0.05, **kwargs):
    model = small_model(seed)
    return model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), **kwargs)


def test_the_example():
    assert doctest.testmod(wrapper).failed == 0


def test_equals_a_plain_training_loop():
    model, wrapped = make()
    train(model, wrapped, batches(5))
    other = small_model()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    for x, y in batches(5):
        optimizer.zero_grad()
        (other(x) - y).square().mean().backward()
        optimizer.step()
    assert same(weights(model), weights(other))


class TestAccumulation:
    def test_two_accumulated_halves_equal_one_batch(self):
        model, wrapped = make(accumulative_counts=2)
        data = batches(6)
        train(model, wrapped, data)
        whole, reference = make()
        pairs = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(data[::2], data[1::2], strict=True)]
        train(whole, reference, pairs)
        for a, b in zip(weights(model), weights(whole), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)

    def test_a_shorter_last_accumulation_makes_a_step(self):
        """Three together, ten in all: steps after 3, 6, 9 and 10, the last undivided."""
        parameter = nn.Parameter(torch.zeros(()))
        wrapped = OptimWrapper(torch.optim.SGD([parameter], lr=1.0), accumulative_counts=3)
        wrapped.initialize_count_status(nn.Linear(1, 1), 0, 10)
        seen, divisors = [], []
        for _ in range(10):
            divisors.append(1 / wrapped.scale_loss(torch.tensor(1.0)).item())
            wrapped.update_params(3 * parameter)
            seen.append(parameter.item())
        assert divisors == pytest.approx([3] * 9 + [1])
        assert seen == [0, 0, -3, -3, -3, -6, -6, -6, -9, -12]

    def test_without_an_end_the_tail_waits(self):
        parameter = nn.Parameter(torch.zeros(()))
        wrapped = OptimWrapper(torch.optim.SGD([parameter], lr=1.0), accumulative_counts=3)
        for _ in range(5):
            wrapped.update_params(3 * parameter)
        assert parameter.item() == -3

    @pytest.mark.parametrize("stop", [3, 4, 5])
    def test_stopped_in_the_middle(self, stop):
        data = batches(9)
        whole, reference = make(accumulative_counts=3)
        train(whole, reference, data)
        first, one = make(accumulative_counts=3)
        train(first, one, data[:stop])
        state = one.checkpoint_state()
        assert ("pending_gradients" in state) == (stop % 3 != 0)
        second, two = make(seed=5, accumulative_counts=3)
        second.load_state_dict(first.state_dict())
        two.load_state_dict(state)
        two.initialize_count_status(second, stop, 9)
        train(second, two, data[stop:])
        assert same(weights(second), weights(whole))

    def test_lost_gradients_are_logged(self, caplog):
        model, wrapped = make(accumulative_counts=3)
        with caplog.at_level("WARNING", logger="raydet3d"):
            wrapped.initialize_count_status(model, 6, 9)
            assert not caplog.records
            wrapped.initialize_count_status(model, 4, 9)
        assert "first gradients are lost" in caplog.text

    def test_batchnorm_with_accumulation_is_logged(self, caplog):
        _, wrapped = make(accumulative_counts=2)
        with caplog.at_level("WARNING", logger="raydet3d"):
            wrapped.initialize_count_status(nn.BatchNorm1d(3), 0, 4)
        assert "BatchNorm" in caplog.text

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
    def test_refuses(self, value):
        with pytest.raises(InputError, match="accumulative_counts"):
            make(accumulative_counts=value)


class TestClip:
    def gradients(self, clip, sink=None):
        a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
        groups = [{"params": [a]}, {"params": [b], "lr": 10.0}]
        wrapped = OptimWrapper(torch.optim.SGD(groups, lr=1.0), clip_grad=clip)
        wrapped.grad_norm_sink = sink
        wrapped.update_params(3 * a[0] + 12 * b.sum() + 4 * a[1])
        return [-a[0].item(), -a[1].item(), -b.item() / 10]

    def test_by_norm_over_all_groups(self):
        norms = []
        assert self.gradients({"max_norm": 6.5}, norms.append) == pytest.approx([1.5, 2.0, 6.0], rel=1e-5)
        assert [n.item() for n in norms] == [13.0]  # the norm before clipping, still a tensor

    def test_by_another_norm(self):
        assert self.gradients({"max_norm": 6, "norm_type": math.inf}) == pytest.approx([1.5, 2.0, 6.0], rel=1e-5)

    def test_below_the_limit_nothing_happens(self):
        assert self.gradients({"max_norm": 35, "norm_type": 2}) == [3, 4, 12]

    def test_by_value(self):
        norms = []
        assert self.gradients({"type": "value", "clip_value": 3.5}, norms.append) == [3, 3.5, 3.5]
        assert norms == []

    def test_only_on_updates(self):
        norms = []
        model, wrapped = make(accumulative_counts=2, clip_grad={"max_norm": 0.1})
        wrapped.grad_norm_sink = norms.append
        train(model, wrapped, batches(4))
        assert len(norms) == 2

    @pytest.mark.parametrize(
        ("clip", "what"),
        [
            ({}, "needs 'max_norm'"),
            ({"type": "norm"}, "needs 'max_norm'"),
            ({"type": "value"}, "needs 'clip_value'"),
            ({"type": "nrm", "max_norm": 1}, "'norm' or 'value'"),
            ({"max_norm": 1, "norm": 2}, "has no 'norm'"),
            (35, "should be a dict"),
        ],
    )
    def test_refuses(self, clip, what):
        before = dict(clip) if isinstance(clip, dict) else clip
        with pytest.raises(InputError, match=what):
            make(clip_grad=clip)
        assert clip == before


def _both():
    return [_ranks(poison) for poison in (False, True)]


def _ranks(poison):
    """Two ranks, accumulation of two; one rank's loss may be spoilt."""
    model = small_model()
    wrapped = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05), accumulative_counts=2)
    parallel = DistributedDataParallel(model)
    wrapped.name_parameters(parallel.named_parameters())
    exchanged = []
    for i, (x, y) in enumerate(batches(4, seed=10 + dist.get_rank())):
        with wrapped.optim_context(parallel):
            exchanged.append(parallel.require_backward_grad_sync)
            loss = (parallel(x) - y).square().mean()
        if poison and i == 1 and dist.get_rank() == 1:
            loss = loss + math.nan
        wrapped.update_params(loss)
    names = wrapped.state_dict()["param_groups"][0]["param_names"]
    return [w.tolist() for w in weights(model)], int(wrapped.bad_steps), exchanged, names


class TestRanks:
    def test_ranks_stay_together(self):
        for poison, first, second in zip((False, True), *run_ranks(_both, 2), strict=True):
            self.compare(poison, first, second)

    def compare(self, poison, first, second):
        (one, bad_one, exchanged, names), (two, bad_two, _, _) = first, second
        assert one == two
        assert bad_one == bad_two == int(poison)
        assert exchanged == [False, True, False, True]
        assert names[0] == "0.weight"
        model = small_model()
        wrapped = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
        data = [
            (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))
            for a, b in zip(batches(4, seed=10), batches(4, seed=11), strict=True)
        ]
        steps = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(data[::2], data[1::2], strict=True)]
        train(model, wrapped, steps[1:] if poison else steps)
        for ours, expected in zip(one, weights(model), strict=True):
            torch.testing.assert_close(torch.tensor(ours), expected, atol=1e-6, rtol=1e-5)


class TestShown:
    def test_lr_and_momentum_of_groups_as_given(self):
        model = small_model()
        groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
        wrapped = OptimWrapper(torch.optim.Adam(groups, lr=0.2))
        assert wrapped.get_lr() == {"base_lr": [0.2], "lr": [0.1, 0.2]}
        assert wrapped.get_momentum() == {"momentum": [0.9, 0.9]}
        assert len(wrapped.param_groups) == 3
        assert torch.equal(wrapped.state_dict()["base_param_settings"]["params"], torch.tensor([0.0]))

    def test_a_group_that_comes_later(self):
        model = small_model()
        cfg = {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": {"bias_lr_mult": 2.0}}
        wrapped = build_optim_wrapper(model, cfg)
        late = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
        wrapped.optimizer.add_param_group({"params": late, "lr": 0.5})
        assert wrapped.get_lr()["lr"] == [0.1, 0.2, 0.1, 0.1, 0.1, 0.2, 0.5]
        assert wrapped.state_dict()["param_groups"][-1]["params"] == [6, 7]

    def test_groups_are_described(self):
        cfg = {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": {"bias_lr_mult": 2.0}}
        described = build_optim_wrapper(small_model(), cfg).describe_groups()
        assert [names for names, _ in described] == [
            ["0.weight", "1.weight", "1.bias", "2.weight"],
            ["0.bias", "2.bias"],
        ]
        assert [settings["lr"] for _, settings in described] == [0.1, 0.2]
        assert "clip_grad=None" in repr(make()[1])

    def test_an_optimizer_is_needed(self):
        with pytest.raises(InputError, match="torch optimizer, got dict"):
            OptimWrapper({"type": "SGD"})


class TestScaleLr:
    def test_all_but_the_base(self):
        cfg = {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": {"bias_lr_mult": 2.0}}
        wrapped = build_optim_wrapper(small_model(), cfg)
        wrapped.scale_lr(0.5)
        assert wrapped.get_lr() == {"base_lr": [0.1], "lr": [0.05, 0.1, 0.05, 0.05, 0.05, 0.1]}
        assert wrapped.checkpoint_state()["configured"][0]["lr"] == 0.05

    def test_not_after_schedulers(self):
        _, wrapped = make()
        wrapped.param_groups[0]["initial_lr"] = 0.1
        with pytest.raises(RuntimeError, match="before schedulers"):
            wrapped.scale_lr(2.0)


def through_a_file(state):
    """What a checkpoint makes of a state."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class TestState:
    @pytest.mark.parametrize("kind", ["SGD", "AdamW"])
    @pytest.mark.parametrize("saved", [None, {"norm_decay_mult": 0.0}])
    @pytest.mark.parametrize("loaded", [None, {"norm_decay_mult": 0.0}, {"bias_lr_mult": 1.0}])
    def test_moments_are_restored_with_any_group_layout(self, kind, saved, loaded):
        optimizer = {"type": kind, "lr": 0.05, "weight_decay": 0.0}
        model = small_model()
        first = build_optim_wrapper(model, {"optimizer": optimizer, "paramwise_cfg": saved})
        train(model, first, batches(3))
        state = through_a_file(first.checkpoint_state())
        other = small_model(seed=9)
        second = build_optim_wrapper(other, {"optimizer": optimizer, "paramwise_cfg": loaded})
        second.load_state_dict(state)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert first.optimizer.state[p].keys() == second.optimizer.state[q].keys()
            for key, value in first.optimizer.state[p].items():
                assert torch.equal(second.optimizer.state[q][key], value)
        assert second.config_changes == []

    @pytest.mark.parametrize("paramwise", [None, {"norm_decay_mult": 0.0}])
    def test_resumed_equals_uninterrupted(self, paramwise):
        cfg = {"optimizer": {"type": "AdamW", "lr": 0.05, "weight_decay": 0.1}, "paramwise_cfg": paramwise}
        data = batches(8)
        whole = small_model()
        train(whole, build_optim_wrapper(whole, cfg), data)
        first = small_model()
        one = build_optim_wrapper(first, cfg)
        train(first, one, data[:3])
        second = small_model(seed=4)
        two = build_optim_wrapper(second, cfg)
        second.load_state_dict(first.state_dict())
        two.load_state_dict(through_a_file(one.checkpoint_state()))
        train(second, two, data[3:])
        assert same(weights(second), weights(whole))

    def test_by_name_where_the_order_differs(self):
        class Two(nn.Module):
            def __init__(self, *names):
                super().__init__()
                for name in names:
                    setattr(self, name, nn.Linear(1, 1, bias=False))

        a, b = Two("x", "y"), Two("y", "x")
        cfg = {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}
        first, second = build_optim_wrapper(a, cfg), build_optim_wrapper(b, cfg)
        first.update_params((a.x.weight + 5 * a.y.weight).sum())
        second.load_state_dict(first.state_dict())
        assert second.optimizer.state[b.x.weight]["momentum_buffer"].item() == 1
        assert second.optimizer.state[b.y.weight]["momentum_buffer"].item() == 5

    def test_without_names_the_order_counts_and_frozen_ones_may_lack(self):
        model = small_model()
        model[1].requires_grad_(False)
        plain = {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}
        rules = {**plain, "paramwise_cfg": {"bias_lr_mult": 1.0}}
        for saved, loaded in ((plain, rules), (rules, plain)):
            first = build_optim_wrapper(model, saved)
            train(model, first, batches(2))
            state = first.state_dict()
            for group in state["param_groups"]:
                del group["param_names"]
            second = build_optim_wrapper(model, loaded)
            second.load_state_dict(state)
            for p in model[2].parameters():
                kept = second.optimizer.state[p]["momentum_buffer"]
                assert torch.equal(kept, first.optimizer.state[p]["momentum_buffer"])

    def test_the_argument_is_not_changed(self):
        model, wrapped = make()
        train(model, wrapped, batches(2))
        state = wrapped.state_dict()
        keys = set(state)
        wrapped.load_state_dict(state)
        assert set(state) == keys

    def test_another_model(self):
        cfg = {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}
        small, big = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        first = build_optim_wrapper(small, cfg)
        first.update_params(small(torch.ones(1, 3)).sum())
        with pytest.raises(InputError, match=r"it lacks 1\.weight, 1\.bias"):
            build_optim_wrapper(big, cfg).load_state_dict(first.state_dict())
        second = build_optim_wrapper(big, cfg)
        second.update_params(big(torch.ones(1, 3)).sum())
        state = second.state_dict()
        with pytest.raises(InputError, match=r"the model has no 1\.weight, 1\.bias"):
            build_optim_wrapper(small, cfg).load_state_dict(state)
        del state["param_groups"][0]["param_names"]
        with pytest.raises(InputError, match="holds 4 parameters, the optimizer 2"):
            build_optim_wrapper(small, cfg).load_state_dict(state)

    def test_another_shape(self):
        cfg = {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}}
        one, two = nn.Linear(3, 2), nn.Linear(3, 4)
        first = build_optim_wrapper(one, cfg)
        first.update_params(one(torch.ones(1, 3)).sum())
        with pytest.raises(InputError, match=r"momentum_buffer of weight has shape \(2, 3\), the parameter \(4, 3\)"):
            build_optim_wrapper(two, cfg).load_state_dict(first.state_dict())


class TestMMEngineLayout:
    def test_state_dict_has_mmengines_keys(self):
        _, one = make()
        assert set(one.state_dict()) == {"state", "param_groups"}
        cfg = {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": {"bias_lr_mult": 2.0}}
        several = build_optim_wrapper(small_model(), cfg)
        assert set(several.state_dict()) == {"state", "param_groups", "base_param_settings"}
        assert set(several.checkpoint_state()) == {"state", "param_groups", "base_param_settings", "configured"}

    def test_a_plain_optimizers_state_loads(self):
        model, wrapped = make()
        twin = torch.optim.SGD(small_model().parameters(), lr=0.05, momentum=0.9)
        train(model, wrapped, batches(1))
        wrapped.load_state_dict(twin.state_dict())
        assert wrapped.optimizer.state_dict()["state"] == {}

    def test_errors_are_mmengines_types(self):
        optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
        with pytest.raises(AssertionError, match="clip_grad"):
            OptimWrapper(optimizer, clip_grad=[])
        with pytest.raises(TypeError):
            OptimWrapper("optimizer")
