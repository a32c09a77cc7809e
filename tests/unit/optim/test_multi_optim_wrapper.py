"""OptimWrapperDict: each optimizer by itself equals it alone; names, states, schedules, a whole run of two networks."""

from __future__ import annotations

import doctest
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.optim import (
    AmpOptimWrapper,
    OptimWrapper,
    OptimWrapperDict,
    build_optim_wrapper,
    build_param_scheduler,
    multi_optim_wrapper,
)
from raydet3d.registry import OPTIM_WRAPPER_CONSTRUCTORS
from raydet3d.runtime import assemble
from tests.kit.optim import batches, same, small_model, train, weights
from tests.kit.spawn import run_ranks
from tests.kit.toy import SaveAt, ToyModel, toy_cfg

SCHEDULE = {"type": "ExponentialLR", "gamma": 0.5, "by_epoch": False}


def test_the_example() -> None:
    assert doctest.testmod(multi_optim_wrapper).failed == 0


def two(**kwargs: Any) -> tuple[nn.Module, nn.Module, OptimWrapperDict]:
    first, second = small_model(0), small_model(1)
    one = build_optim_wrapper(first, {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}, **kwargs})
    rules = {"bias_lr_mult": 2.0}
    other = build_optim_wrapper(second, {"optimizer": {"type": "AdamW", "lr": 0.01}, "paramwise_cfg": rules, **kwargs})
    return first, second, OptimWrapperDict(one=one, two=other)


class TestParts:
    def test_each_wrapper_works_as_alone(self) -> None:
        first, second, both = two(clip_grad={"max_norm": 0.5})
        alone_first, alone_second, alone = two(clip_grad={"max_norm": 0.5})
        for batch in batches(4):
            train(first, both["one"], [batch])
            train(second, both["two"], [batch])
        train(alone_first, alone["one"], batches(4))
        train(alone_second, alone["two"], batches(4))
        assert same(weights(first) + weights(second), weights(alone_first) + weights(alone_second))

    def test_names(self) -> None:
        both = two()[2]
        assert both.get_lr() == {
            "one.lr": [0.1],
            "two.base_lr": [0.01],
            "two.lr": [0.01, 0.02, 0.01, 0.01, 0.01, 0.02],
        }
        assert both.get_momentum() == {"one.momentum": [0.9], "two.momentum": [0.9] * 6}
        assert list(both) == list(both.keys()) == ["one", "two"]
        assert [w for _, w in both.items()] == list(both.values())
        assert "one" in both
        assert "three" not in both
        assert len(both) == 2
        assert set(both.param_groups) == {"one", "two"}
        assert [settings["optimizer"] for _, settings in both.describe_groups()] == ["one", "two", "two"]
        assert "name: one\nOptimWrapper" in repr(both)

    @pytest.mark.parametrize("what", ["update_params", "backward", "scale_loss", "optim_context"])
    def test_methods_of_one_wrapper_are_refused(self, what: str) -> None:
        both = two()[2]
        with pytest.raises(InputError, match=rf"optim_wrapper\['one'\]\.{what}") as caught:
            getattr(both, what)(torch.zeros(()))
        assert isinstance(caught.value, NotImplementedError)  # MMEngine's type
        with pytest.raises(InputError, match="step"):
            both.step()

    def test_what_it_is_made_of(self) -> None:
        with pytest.raises(InputError, match="one is a SGD"):
            OptimWrapperDict(one=torch.optim.SGD(small_model().parameters(), lr=1))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="at least one"):
            OptimWrapperDict()
        with pytest.raises(InputError, match="no optimizer 'three'; there are one, two"):
            two()[2]["three"]

    def test_norms_carry_the_name(self) -> None:
        first, second, both = two(clip_grad={"max_norm": 0.5})
        seen: list[str] = []
        both.on_grad_norm(lambda name, norm: seen.append(name), "train/")
        for name, model in (("one", first), ("two", second)):
            train(model, both[name], batches(1))
        assert seen == ["train/one.grad_norm", "train/two.grad_norm"]

    def test_steps_left_out(self) -> None:
        first, second, both = two()
        both.initialize_count_status(first, 10, 20)
        x, y = batches(1)[0]
        train(first, both["one"], [(x, y), (x, y * math.nan)])
        train(second, both["two"], [(x, y * math.nan)])
        assert both.bad_steps == 2
        assert both.verdicts() == [(11, False, "one"), (11, True, "two"), (12, True, "one")]
        assert both.verdicts() == []

    def test_mixed_precision_is_each_ones_own(self) -> None:
        one, other = small_model(), small_model(1)
        both = OptimWrapperDict(
            half=AmpOptimWrapper(dtype="float16", optimizer=torch.optim.SGD(one.parameters(), lr=0.1)),
            full=OptimWrapper(torch.optim.SGD(other.parameters(), lr=0.1)),
        )
        train(one, both["half"], batches(2))
        assert "loss_scaler" in both.state_dict()["half"]
        assert "loss_scaler" not in both.state_dict()["full"]

    def test_scaled_and_cleared_together(self) -> None:
        first, _, both = two()
        both.scale_lr(2.0)
        assert both.get_lr()["one.lr"] == [0.2]
        assert both.get_lr()["two.lr"][:2] == [0.02, 0.04]
        first(torch.ones(1, 3)).sum().backward()
        both.zero_grad()
        assert all(p.grad is None for p in first.parameters())


class TestState:
    @pytest.mark.parametrize("stop", [3, 4])
    def test_resumed_equals_uninterrupted_within_accumulation(self, stop: int) -> None:
        data = batches(9)
        first, second, whole = two(accumulative_counts=3)
        train(first, whole["one"], data)
        train(second, whole["two"], data[:6])
        a, b, part = two(accumulative_counts=3)
        train(a, part["one"], data[:stop])
        train(b, part["two"], data[: stop - 1])
        state = part.checkpoint_state()
        c, d, again = two(accumulative_counts=3)
        c.load_state_dict(a.state_dict())
        d.load_state_dict(b.state_dict())
        again.load_state_dict(state)
        again.initialize_count_status(c, stop, 9)
        train(c, again["one"], data[stop:])
        train(d, again["two"], data[stop - 1 : 6])
        assert same(weights(c) + weights(d), weights(first) + weights(second))

    def test_pending_gradients_by_name(self) -> None:
        first, _, both = two(accumulative_counts=3)
        train(first, both["one"], batches(1))
        pending = both.pending_gradients()
        assert set(pending) == {f"one/{name}" for name, _ in first.named_parameters()}
        again = two(accumulative_counts=3)
        again[2].load_pending_gradients(pending)
        grads = [p.grad for p in again[0].parameters()]
        assert same(grads, [p.grad for p in first.parameters()])  # type: ignore[arg-type]

    def test_other_optimizers(self) -> None:
        both = two()[2]
        state = both.checkpoint_state()
        state["three"] = state.pop("one")
        with pytest.raises(InputError, match="optimizers two, three; this run has one, two"):
            both.load_state_dict(state)


class TestSchedules:
    def build(self, cfg: Any, both: OptimWrapperDict) -> Any:
        return build_param_scheduler(cfg, both, epoch_length=5, max_epochs=4, max_iters=20)

    def test_one_list_for_each(self) -> None:
        both = two()[2]
        made = self.build([SCHEDULE], both)
        for scheduler in made["two"]:
            scheduler.step()
        assert both.get_lr()["one.lr"] == [0.1]
        assert both.get_lr()["two.base_lr"] == [0.005]

    def test_a_dict_by_names(self) -> None:
        both = two()[2]
        made = self.build({"one": SCHEDULE, "two": []}, both)
        assert {name: len(some) for name, some in made.items()} == {"one": 1, "two": 0}
        assert set(self.build({"one": None, "two": [SCHEDULE, {**SCHEDULE, "gamma": 0.1}]}, both)) == {"one", "two"}

    @pytest.mark.parametrize(
        ("cfg", "what"),
        [
            ({"one": [SCHEDULE]}, "is for one and the optimizers are one, two"),
            ({"one": [SCHEDULE], "tow": []}, "is for one, tow and the optimizers are one, two"),
            ({"one": [{"type": "StepLR"}], "two": []}, r"param_scheduler\.one\[0\]: .*step_size"),
        ],
    )
    def test_refuses(self, cfg: Any, what: str) -> None:
        with pytest.raises(InputError, match=what):
            self.build(cfg, two()[2])

    def test_schedulers_by_name_need_several_optimizers(self) -> None:
        wrapper = two()[2]["one"]
        with pytest.raises(InputError, match="param_scheduler is a dict of 'one' and has no 'type'"):
            build_param_scheduler({"one": [SCHEDULE]}, wrapper, epoch_length=5, max_epochs=4, max_iters=20)


class Pair(ToyModel):
    """A toy with a critic that learns from its own loss, as GANs do."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.critic = nn.Linear(6, 1)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        batch = self.data_preprocessor(data, True)
        with optim_wrapper["model"].optim_context(self):
            fit = self(**batch, mode="loss")["loss_fit"]
        optim_wrapper["model"].update_params(fit)
        with optim_wrapper["critic"].optim_context(self.critic):
            loss = (self.critic(batch["inputs"]).squeeze(1) - fit.detach()).square().mean()
        optim_wrapper["critic"].update_params(loss)
        return {"loss_fit": fit.detach(), "loss_critic": loss.detach()}


class Constructor:
    """What a project that trains two networks writes: a wrapper from each dict of the config."""

    def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None:
        self.cfg = optim_wrapper_cfg

    def __call__(self, model: Any) -> OptimWrapperDict:
        parts = {"model": nn.ModuleList([model.first, model.bbox_head]), "critic": model.critic}
        return OptimWrapperDict(**{name: build_optim_wrapper(parts[name], self.cfg[name]) for name in parts})


CHANGES: dict[str, Any] = {
    "model": {"type": Pair},
    "optim_wrapper": {
        "constructor": "Constructor",
        "model": {"optimizer": {"type": "AdamW", "lr": 0.01}, "clip_grad": {"max_norm": 1.0}, "accumulative_counts": 2},
        "critic": {"optimizer": {"type": "SGD", "lr": 0.1}, "clip_grad": {"max_norm": 1.0}},
    },
    "param_scheduler": {
        "model": [{"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 10}],
        "critic": [{"type": "CosineAnnealingLR", "convert_to_iter_based": True}],
    },
    "default_hooks__checkpoint": {"type": "CheckpointHook", "save_last": False},
    "custom_hooks": [{"type": SaveAt, "iters": [9, 17, 36]}],
}


def test_a_run_of_two_networks_resumes_to_the_bit_and_logs_both(tmp_path: Path) -> None:
    with OPTIM_WRAPPER_CONSTRUCTORS.temporary(Constructor=Constructor):
        assemble(toy_cfg(tmp_path / "whole", **CHANGES)).train()
        for stop in (9, 17):
            part = tmp_path / f"part{stop}"
            assemble(toy_cfg(part, **CHANGES), resume=str(tmp_path / "whole" / f"iter_{stop}.pth")).train()
            ours, theirs = (torch.load(d / "iter_36.pth", weights_only=True) for d in (part, tmp_path / "whole"))
            assert all(torch.equal(ours["state_dict"][name], value) for name, value in theirs["state_dict"].items())
            assert ours["param_schedulers"] == theirs["param_schedulers"]
        log = next((tmp_path / "whole").glob("*/*.log")).read_text()
        for name in ("model.lr: 1.0000e-02", "critic.lr: ", "model.grad_norm: ", "critic.grad_norm: ", "loss_critic: "):
            assert name in log, name


def ranks(folder: str, resume: str) -> list[Any]:
    torch.set_num_threads(1)
    model = {"type": Pair, "dropout": 0.0}
    with OPTIM_WRAPPER_CONSTRUCTORS.temporary(Constructor=Constructor):
        changes = {**CHANGES, "model": model, "model_wrapper_cfg": {"type": Through}, "train_cfg__max_epochs": 2}
        changes["custom_hooks"] = [{"type": SaveAt, "iters": [5, 12]}]
        runner = assemble(toy_cfg(Path(folder), **changes), resume=resume)
        runner.train()
    return [p.detach().numpy().copy() for p in runner.model.module.parameters()]


class Through(nn.parallel.DistributedDataParallel):
    """Hands the step of two networks on to the model; gradients of each rank are its own here."""

    def __init__(self, module: nn.Module, **kwargs: Any) -> None:
        kwargs.pop("broadcast_buffers", None)
        super().__init__(module, **{**kwargs, "find_unused_parameters": True})

    def train_step(self, data: Any, optim_wrapper: Any) -> Any:
        out: Any = self.module.train_step(data, optim_wrapper)
        for param in self.module.parameters():
            dist.broadcast(param.data)
        return out

    def val_step(self, data: Any) -> Any:
        return self.module.val_step(data)


def test_ranks_save_their_pending_gradients(tmp_path: Path) -> None:
    whole = run_ranks(ranks, 2, str(tmp_path / "whole"), "")
    part = run_ranks(ranks, 2, str(tmp_path / "part"), str(tmp_path / "whole" / "iter_5.pth"))
    for before, after in zip(whole, part, strict=True):
        assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_ready_wrappers_by_name(tmp_path: Path) -> None:
    def wrappers(model: nn.Module) -> dict[str, OptimWrapper]:
        return {"all": OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))}

    model = small_model()
    made = build_optim_wrapper(model, wrappers(model))
    assert isinstance(made, OptimWrapperDict)
    assert made.state_dict()["all"]["param_groups"][0]["param_names"][0] == "0.weight"
