"""The wrapper of several ranks: against torch's own, whose buckets move after the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydet3d import dist
from raydet3d.dist import is_model_wrapper, unwrapped
from raydet3d.errors import InputError
from raydet3d.optim import OptimWrapperDict, build_optim_wrapper
from raydet3d.registry import OPTIM_WRAPPER_CONSTRUCTORS
from raydet3d.runtime import assemble, ddp
from raydet3d.runtime.ddp import (
    MMDistributedDataParallel,
    MMSeparateDistributedDataParallel,
    from_sync_bn,
    to_sync_bn,
)
from tests.kit.spawn import run_ranks
from tests.kit.toy import ToyData, ToyModel, toy_cfg


def _make(kind: Any) -> tuple[Any, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(300, 300) for _ in range(8)])
    return kind(model), model


def _steps(wrapped: Any, model: nn.Module, first: int, end: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for i in range(first, end):
        generator = torch.Generator().manual_seed(i * 10 + dist.get_rank())
        optimizer.zero_grad()
        (0.05 * wrapped(torch.randn(16, 300, generator=generator)).square().sum()).backward()
        optimizer.step()


def resumed_equals_whole(_: str) -> list[bool]:
    torch.set_num_threads(1)
    equal = []
    for kind in (DistributedDataParallel, MMDistributedDataParallel):
        whole, whole_model = _make(kind)
        _steps(whole, whole_model, 0, 6)
        first, first_model = _make(kind)
        _steps(first, first_model, 0, 3)
        again, again_model = _make(kind)
        again_model.load_state_dict(first_model.state_dict())
        _steps(again, again_model, 3, 6)
        pairs = zip(whole_model.parameters(), again_model.parameters(), strict=True)
        equal.append(all(torch.equal(a, b) for a, b in pairs))
    return equal


def test_a_resumed_run_of_three_ranks_sums_gradients_in_the_same_order() -> None:
    # Torch's own wrapper shows that the test can see the difference.
    assert run_ranks(resumed_equals_whole, 3, "") == [[False, True]] * 3


class Uneven(nn.Module):
    """Uses one of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def unused_parameters(_: str) -> bool:
    wrapped = MMDistributedDataParallel(Uneven(), find_unused_parameters=True)
    for _step in range(3):
        wrapped(torch.ones(3, 2)).sum().backward()
    return is_model_wrapper(wrapped) and unwrapped(wrapped).spare.weight.grad is None


def test_unused_parameters_are_found_where_asked() -> None:
    assert run_ranks(unused_parameters, 2, "") == [True, True]


class Half(ToyModel):
    """Has a branch that is used from the third step on."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(6, 1)
        self.frozen = nn.Linear(6, 1).requires_grad_(False)

    def forward(self, inputs: Tensor, data_samples: Any, mode: str = "tensor") -> Any:
        losses = super().forward(inputs, data_samples, mode)
        return {**losses, "loss_spare": self.spare(inputs).mean()} if self.calls > 2 else losses


def name_anomalies(find_unused: bool) -> list[str]:
    lines: list[str] = []
    logger = ddp.get_logger()
    logger.addFilter(lambda record: bool(lines.append(record.getMessage())))
    model = Half()
    wrapped = MMDistributedDataParallel(model, detect_anomalous_params=True, find_unused_parameters=find_unused)
    optim = build_optim_wrapper(model, {"optimizer": {"type": "SGD", "lr": 0.1}})
    batch = {key: [ToyData()[i][key] for i in range(2)] for key in ("inputs", "data_samples")}
    for _ in range(4):
        wrapped.train_step(batch, optim)
    return lines


@pytest.mark.parametrize("world", [1, 2])
def test_parameters_that_no_loss_depends_on_are_named(world: int) -> None:
    named = ["parameters that no loss depends on: spare.weight, spare.bias"]
    assert run_ranks(name_anomalies, world, True) == [named] * world


class Pair(ToyModel):
    """Two optimizers: one goes backward twice a step, through both parts."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        inputs = self.data_preprocessor(data, True)
        loss, log_vars = self.parse_losses(self(**inputs, mode="loss"))
        optim_wrapper["head"].update_params(loss)
        for _ in range(2):
            loss, log_vars = self.parse_losses(self(**inputs, mode="loss"))
            optim_wrapper["first"].update_params(loss)
        optim_wrapper["head"].zero_grad()
        return log_vars


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PairOptims:
    def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None:
        self.count = optim_wrapper_cfg["count"]

    def __call__(self, model: Any) -> OptimWrapperDict:
        cfg = {"optimizer": {"type": "SGD", "lr": 0.05}, "accumulative_counts": self.count}
        parts = {"first": model.first, "head": model.bbox_head}
        return OptimWrapperDict(**{name: build_optim_wrapper(part, cfg) for name, part in parts.items()})


def train_pair(folder: str, count: int, wrapper: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    changes: dict[str, Any] = {"model_wrapper_cfg": {"type": wrapper}} if wrapper else {}
    cfg = toy_cfg(
        folder,
        model={"type": Pair, "dropout": 0.0},
        optim_wrapper={"constructor": "PairOptims", "count": count},
        train_dataloader__batch_size=4 // dist.get_world_size(),
        param_scheduler=[],
        custom_hooks=[{"type": "EMAHook"}],
        log_level="ERROR",
        **changes,
    )
    assemble(cfg).train()
    state = torch.load(f"{folder}/epoch_3.pth", weights_only=True)
    return {name: value.numpy() for key in ("state_dict", "ema_state_dict") for name, value in state[key].items()}


@pytest.mark.parametrize("count", [1, 2])
def test_several_optimizers_on_two_ranks_are_those_of_one_on_the_same_batches(tmp_path: Path, count: int) -> None:
    alone = train_pair(str(tmp_path / "alone"), count, "")
    for rank in run_ranks(train_pair, 2, str(tmp_path / "two"), count, "MMSeparateDistributedDataParallel"):
        assert rank.keys() == alone.keys()
        for name, value in alone.items():
            assert abs(rank[name] - value).max() < 1e-5, name


def test_several_optimizers_need_a_wrapper_that_leaves_the_step_to_the_model(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="InputError: several optimizers on several ranks need model_wrapper_cfg"):
        run_ranks(train_pair, 2, str(tmp_path), 1, "")


def no_exchange_until_the_last() -> float:
    model = nn.Linear(1, 1, bias=False)
    wrapped = MMSeparateDistributedDataParallel(model)
    x = torch.full((1, 1), float(dist.get_rank()))
    with wrapped.no_sync():
        wrapped(x).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.item() == dist.get_rank()
    wrapped(x).sum().backward()
    return model.weight.grad.item()


def test_what_is_added_up_without_an_exchange_is_averaged_by_the_next() -> None:
    assert run_ranks(no_exchange_until_the_last, 2) == [1.0, 1.0]


def test_unwrapping_a_plain_model_returns_it() -> None:
    model = nn.Linear(2, 2)
    assert not is_model_wrapper(model)
    assert unwrapped(model) is model


def test_sync_bn_there_and_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    model[1].running_mean.fill_(0.25)
    expected = model.eval()(torch.ones(2, 3, 5, 5))
    synced = to_sync_bn(model, "torch")
    assert isinstance(synced[1], nn.SyncBatchNorm)
    plain = from_sync_bn(synced).eval()
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in plain.modules())
    assert torch.equal(plain(torch.ones(2, 3, 5, 5)), expected)
    with pytest.raises(InputError, match="must be 'torch' or 'mmcv', got 'apex'"):
        to_sync_bn(model, "apex")
