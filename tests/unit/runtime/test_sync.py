"""Between two log points the runtime never waits for the device: no scalar is read, nothing is copied to the host.

Without a GPU, reads are counted in two ways. The model's outputs and its loss are tensors of a class that notes each
read (`item`, `float`, `tolist`, `numpy`, a truth value) and each copy to the host (`cpu`, `to('cpu')`) of themselves
and of everything that is computed from them. A dispatch mode notes every read of a scalar by any operation. The guard
against non-finite steps works as on an accelerator, so its reads count too; in a second run it works as on the CPU,
where it may read its flag, since there is no device to wait for.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raydet3d.hooks import Hook
from raydet3d.runtime import assemble
from tests.kit.toy import ToyData, ToyModel, toy_cfg

READS = {"item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "__array__", "cpu", "is_nonzero"}
NO_VAL = {f"val_{part}": None for part in ("dataloader", "cfg", "evaluator")}
LOG_EVERY = 20


def is_in_guard() -> bool:
    """Whether the caller was called by the guard against non-finite steps."""
    return any(line.filename.endswith("optim/nonfinite.py") for line in traceback.extract_stack())


class Counted(torch.Tensor):
    """A tensor whose reads are counted, and those of everything that comes of it."""

    seen: list[str]
    guard_may_read = False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        to_host = name == "to" and any(str(arg) == "cpu" for arg in [*args[1:], *(kwargs or {}).values()])
        if (name in READS or to_host) and not (Counted.guard_may_read and is_in_guard()):
            lines = [line for line in traceback.extract_stack() if "/raydet3d/" in line.filename]
            Counted.seen.append(f"{name} at {lines[-1].filename}:{lines[-1].lineno}" if lines else name)
        return super().__torch_function__(func, types, args, kwargs or {})


class CountedModel(ToyModel):
    def forward(self, inputs: Any, data_samples: Any, mode: str = "tensor") -> Any:
        losses = super().forward(inputs, data_samples, mode)
        return {name: value.as_subclass(Counted) for name, value in losses.items()} if mode == "loss" else losses


class Window(Hook):
    """Starts counting behind a log point, and notes what was counted up to the next one."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.found: list[str] = []
        self.reads = Reads()
        self.steps = 0

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == LOG_EVERY:
            Counted.seen = []
            self.reads.__enter__()
        self.steps += batch_idx >= LOG_EVERY
        if batch_idx == 2 * LOG_EVERY - 1:  # the step that is about to come is logged
            self.reads.__exit__(None, None, None)
            self.found = list(Counted.seen)


class Reads(TorchDispatchMode):
    """Counts reads of scalars and copies between devices as operations, whoever makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_read = "_local_scalar_dense" in str(func) or "is_nonzero" in str(func)
        if is_read and not (Counted.guard_may_read and is_in_guard()):
            self.found.append(str(func))
        # (Mixed precision names the device too when it changes the type.)
        if "_to_copy" in str(func) and kwargs.get("device") is not None and kwargs.get("dtype") is None:
            self.found.append(f"{func} to {kwargs['device']}")
        return func(*args, **kwargs)


class AsOnAccelerator(Hook):
    """Lets the guard work as on an accelerator."""

    def before_train(self, runner: Any) -> None:
        runner.optim_wrapper._guard._on_host = False


@pytest.mark.parametrize("device", ["accelerator", "cpu"])
@pytest.mark.parametrize("clip", [None, {"max_norm": 10}])
@pytest.mark.parametrize("wrapper", ["OptimWrapper", "AmpOptimWrapper"])
@pytest.mark.parametrize("fused", [False, True])
def test_nothing_is_read_between_log_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, clip: Any, wrapper: str, fused: bool
) -> None:
    monkeypatch.setattr(Counted, "seen", [], raising=False)
    monkeypatch.setattr(Counted, "guard_may_read", device == "cpu")
    window = Window()
    optim = {
        "type": wrapper,
        "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "fused": fused},
        "clip_grad": clip,
    }
    cfg = toy_cfg(
        tmp_path,
        **NO_VAL,
        model={"type": CountedModel, "norm": True},
        optim_wrapper=optim,
        default_hooks={"logger": {"type": "LoggerHook", "interval": LOG_EVERY}},
        train_dataloader__dataset={"type": ToyData, "noise": 0.0, "size": 4 * LOG_EVERY},
        train_cfg={"max_epochs": 1},
        log_level="ERROR",
    )
    hooks = [window, AsOnAccelerator()] if device == "accelerator" else [window]
    runner = assemble(cfg, extra_hooks=hooks)
    assert runner.optim_wrapper.is_guarded
    runner.train()
    assert window.steps == LOG_EVERY
    assert window.found == []
    assert window.reads.found == []


def test_reads_are_counted(tmp_path: Path) -> None:
    class Reader(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            float(outputs["loss"])
            outputs["loss_fit"].cpu()

    Counted.seen = []
    window = Window()
    cfg = toy_cfg(
        tmp_path,
        **NO_VAL,
        model={"type": CountedModel},
        optim_wrapper__optimizer={"type": "SGD", "lr": 0.01},
        train_dataloader__dataset={"type": ToyData, "noise": 0.0, "size": 4 * LOG_EVERY},
        train_cfg={"max_epochs": 1},
        log_level="ERROR",
    )
    assemble(cfg, extra_hooks=[window, Reader()]).train()
    assert len(window.found) >= 2 * (LOG_EVERY - 1)
    assert len(window.reads.found) >= LOG_EVERY - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_nothing_is_read_between_log_points_on_a_gpu(tmp_path: Path) -> None:
    class Strict(Hook):
        """Torch raises an error at every operation that waits for the GPU, but at log points and at the first steps."""

        priority = "HIGHEST"

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            quiet = batch_idx >= LOG_EVERY and (batch_idx + 1) % LOG_EVERY
            torch.cuda.set_sync_debug_mode("error" if quiet else "default")

        def after_train_epoch(self, runner: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    class OnGpu(ToyModel):
        """Its inputs lie on the GPU already: what a data preprocessor copies is no matter of the runtime."""

        def __init__(self) -> None:
            super().__init__()
            self.x = torch.randn(2, 6, device="cuda")

        def forward(self, inputs: Any, data_samples: Any, mode: str = "tensor") -> Any:
            out = self.bbox_head(self.first(self.x).relu()).squeeze(1)
            return {"loss_fit": out.square().mean()}

    for optimizer in ({"type": "SGD", "lr": 0.01, "momentum": 0.9}, {"type": "AdamW", "lr": 0.01}):
        cfg = toy_cfg(
            tmp_path / optimizer["type"],
            **NO_VAL,
            model={"type": OnGpu},
            optim_wrapper__optimizer=optimizer,
            default_hooks={"logger": {"type": "LoggerHook", "interval": LOG_EVERY}},
            train_dataloader__dataset={"type": ToyData, "noise": 0.0, "size": 8 * LOG_EVERY},
            train_cfg={"max_epochs": 1},
            log_level="ERROR",
        )
        try:
            assert assemble(cfg, device="cuda", extra_hooks=[Strict()]).train()["iter"] == 4 * LOG_EVERY
        finally:
            torch.cuda.set_sync_debug_mode("default")
