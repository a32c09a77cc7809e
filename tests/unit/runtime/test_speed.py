"""Measured speeds agree with loops timed by hand; costs are charged to the part that causes them; advice follows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raydet3d.data import Compose
from raydet3d.models import SECOND
from raydet3d.registry import DATASETS, MODELS
from raydet3d.runtime.example_frames import ExampleFrames, generate_frame
from raydet3d.runtime.speed import (
    LoadingSpeed,
    StepSpeed,
    advise,
    measure_inference,
    measure_loading,
    measure_training,
    peak_memory,
)
from tests.kit.pointpillars import reduced

NAP_S = 0.15
CPU = torch.device("cpu")


class SlowSECOND(SECOND):
    """Sleeps in the forward pass."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        time.sleep(NAP_S)
        return super().forward(x)


class SlowData:
    """Samples whose second transform sleeps."""

    def __init__(self, size: int = 500) -> None:
        self.size = size
        self.pipeline = Compose([lambda sample: sample, self.nap, lambda sample: sample])

    @staticmethod
    def nap(sample: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.02)
        return sample

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> object:
        return self.pipeline({"inputs": np.zeros(3), "data_samples": index})


@pytest.fixture
def tables() -> Iterator[None]:
    with MODELS.temporary(), DATASETS.temporary():
        MODELS.register_module(module=SlowSECOND)
        DATASETS.register_module(module=SlowData)
        yield


def slow_model() -> tuple[dict[str, Any], Any, ExampleFrames]:
    model_cfg = reduced(cells=32)
    model_cfg["backbone"]["type"] = "SlowSECOND"
    cfg = {"model": model_cfg, "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 1e-6}}}
    model = MODELS.build(model_cfg)
    model.init_weights()
    generator = torch.Generator().manual_seed(0)
    return cfg, model, ExampleFrames([generate_frame(cfg, model, generator, 500) for _ in range(2)], "")


@pytest.mark.usefixtures("tables")
def test_inference_agrees_with_a_timed_loop() -> None:
    _, model, frames = slow_model()
    speed = measure_inference(model, frames, batch_size=2, seconds=1)
    times = []
    for _ in range(speed.steps):
        begin = time.perf_counter()
        model.test_step(frames.batch(2))
        times.append(time.perf_counter() - begin)
    assert speed.step_ms["mean"] == pytest.approx(1e3 * np.mean(times), rel=0.5)
    assert speed.step_ms["p50"] <= speed.step_ms["p99"]
    assert speed.samples_per_s == pytest.approx(2e3 / speed.step_ms["mean"])
    assert next(iter(speed.costs_ms)) == "backbone"
    assert speed.costs_ms["backbone"] >= NAP_S * 1e3
    assert {"data_preprocessor", "voxel_encoder", "middle_encoder", "neck", "bbox_head"} <= set(speed.costs_ms)
    assert sum(speed.costs_ms.values()) == pytest.approx(speed.step_ms["mean"], rel=0.5)


@pytest.mark.usefixtures("tables")
def test_training_agrees_with_a_timed_loop_and_knows_forward_and_backward() -> None:
    cfg, model, frames = slow_model()
    speed = measure_training(cfg, model, frames, batch_size=2, seconds=0.5)
    assert speed.costs_ms["backbone forward"] >= NAP_S * 1e3
    assert speed.costs_ms["backbone backward"] < NAP_S * 1e3
    parts = ("voxel_encoder", "middle_encoder", "backbone", "neck", "bbox_head")
    assert {f"{part} {way}" for part in parts for way in ("forward", "backward")} <= set(speed.costs_ms)
    assert "optimizer" in speed.costs_ms
    assert sum(speed.costs_ms.values()) == pytest.approx(speed.step_ms["mean"], rel=0.5)


@pytest.mark.usefixtures("tables")
def test_loading_agrees_with_what_a_transform_takes() -> None:
    cfg = {
        "train_dataloader": {
            "batch_size": 2,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "dataset": {"type": "SlowData"},
        }
    }
    alone = measure_loading(cfg, seconds=0.5)
    assert alone.num_workers == 0
    assert 10 < alone.samples_per_s <= 50
    assert alone.in_process_ms >= 20
    assert next(iter(alone.costs_ms.values())) >= 20
    assert measure_loading(cfg, seconds=0.5, num_workers=2).samples_per_s > 1.3 * alone.samples_per_s


def test_peak_memory_sees_what_was_freed_again() -> None:
    with peak_memory(CPU) as before:
        pass
    with peak_memory(CPU) as with_block:
        np.ones(50_000_000)  # 400 MB
    with peak_memory(CPU) as after:
        pass
    assert with_block[0] > before[0] + 300
    assert after[0] < with_block[0] - 300


def step(ms: float, costs: dict[str, float] | None = None, memory: float = 1000.0) -> StepSpeed:
    return StepSpeed(1e3 / ms, 1, 10, {"mean": ms, "p50": ms, "p99": ms}, memory, costs or {"backbone forward": ms})


def test_advice_on_loader_workers() -> None:
    slow = LoadingSpeed(50.0, 2, 40.0, {})
    (said, _) = advise(slow, step(10.0), None, processors=8)
    assert "num_workers=5 would keep up" in said  # 100 samples/s of 40 ms each, and a tenth more
    assert "8 of this machine" not in said
    assert "4 of this machine" in advise(slow, step(10.0), None, processors=4)[0]
    assert "more loader workers would not help" in advise(slow, step(30.0), None, processors=8)[0]


def test_advice_on_voxelization_and_mixed_precision() -> None:
    costs = {"data_preprocessor forward": 30.0, "backbone forward": 70.0}
    said = advise(None, step(100.0, costs), step(50.0, memory=600.0))
    assert said[0].startswith("voxelization takes 30% of a training step: the loader workers can do it")
    assert said[1].startswith("AMP makes a training step 2.00 times as fast with 0.60 times the memory")
    assert said[1].endswith("helps")
    assert advise(None, step(100.0), step(99.0))[1].endswith("it would not help")
    assert advise(None, None, None) == []
