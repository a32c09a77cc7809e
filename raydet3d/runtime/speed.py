"""Measure how fast a config loads, trains and predicts, what costs most, and what would help."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from raydet3d.config.provenance import config_context
from raydet3d.data import Compose
from raydet3d.data.seeded import seeded_generators
from raydet3d.hooks.context import PartCfg
from raydet3d.host import num_processors
from raydet3d.models import BaseModel
from raydet3d.models.module import BatchData
from raydet3d.optim import OptimWrapper
from raydet3d.registry import DATASETS
from raydet3d.runtime.build import build_optim
from raydet3d.runtime.example_frames import ExampleFrames
from raydet3d.runtime.loaders import build_dataloader, release
from raydet3d.runtime.part_clock import PartClock

SEED = 0
WARM_UP_STEPS = 2
LEAST_STEPS = 3
CLOCKED_STEPS = 3
MATTERS = 0.1  # a part below this share of a step is not worth moving
MIB = 2**20


@dataclass(frozen=True)
class LoadingSpeed:
    """How fast the training data are loaded.

    Attributes:
        samples_per_s: With the loader's worker processes.
        num_workers: Number of worker processes.
        in_process_ms: Milliseconds of a sample in one process, without the collate function.
        costs_ms: Milliseconds of a sample by transform.
    """

    samples_per_s: float
    num_workers: int
    in_process_ms: float
    costs_ms: dict[str, float]


@dataclass(frozen=True)
class StepSpeed:
    """How fast a model trains or predicts.

    Attributes:
        samples_per_s: Frames a second.
        batch_size: Frames of a step.
        steps: Number of measured steps.
        step_ms: Milliseconds of a step: `mean`, `p50`, `p99`.
        peak_memory_mb: Most memory at once, in MiB: of the whole process on a CPU, of tensors on a GPU.
        costs_ms: Milliseconds of a step by part, largest first, from steps of their own.
    """

    samples_per_s: float
    batch_size: int
    steps: int
    step_ms: dict[str, float]
    peak_memory_mb: float
    costs_ms: dict[str, float]


@dataclass
class SpeedReport:
    """What the benchmark command measured.

    Attributes:
        config: Name of the config file.
        device: Where the model ran.
        threads: Torch threads.
        version: Versions of this package and of those below it.
        frames: What training and inference ran on.
        loading: Speed of the training data loader.
        loading_left_out: Why there is none.
        training: Speed of training as the config has it.
        training_amp: Speed of training with mixed precision.
        inference: Speed of inference.
        advice: See `advise`.
    """

    config: str
    device: str
    threads: int
    version: str
    frames: dict[str, str] = field(default_factory=dict)
    loading: LoadingSpeed | None = None
    loading_left_out: str | None = None
    training: StepSpeed | None = None
    training_amp: StepSpeed | None = None
    inference: StepSpeed | None = None
    advice: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------ loading


def measure_loading(cfg: PartCfg, *, seconds: float, num_workers: int | None = None) -> LoadingSpeed:
    """Measure the training data loader, and each transform in this process.

    Args:
        cfg: The config, whose data are on this machine.
        seconds: Time to measure, for the loader and for the transforms each.
        num_workers: Worker processes; the config's by default.
    """
    given = {**cfg["train_dataloader"]}
    given["num_workers"] = int(given.get("num_workers", 0)) if num_workers is None else num_workers
    if given["num_workers"]:
        given["persistent_workers"] = True  # their start is not measured
    else:
        given = {key: value for key, value in given.items() if key not in ("persistent_workers", "prefetch_factor")}
    in_process_ms, costs = _time_transforms(given["dataset"], seconds)
    loader = build_dataloader(given, seed=SEED, key="train_dataloader")
    batch_size, workers = int(given.get("batch_size", 1)), loader.num_workers
    # What the workers have loaded ahead when the clock starts is left out.
    ahead = 1 + workers * (loader.prefetch_factor or 0)
    count, begin = 0, 0.0
    for number, _ in enumerate(_endless(loader)):
        if number == ahead:
            begin = time.perf_counter()
        elif number > ahead:
            count += 1
            if time.perf_counter() - begin > seconds and count >= LEAST_STEPS:
                break
    taken = time.perf_counter() - begin
    release(loader)
    return LoadingSpeed(count * batch_size / taken, workers, in_process_ms, costs)


def _endless(loader: torch.utils.data.DataLoader[object]) -> Iterator[object]:
    while True:
        yield from loader


def _time_transforms(dataset_cfg: PartCfg, seconds: float) -> tuple[float, dict[str, float]]:
    """Return milliseconds of a sample in this process, and of each transform."""
    with config_context("train_dataloader.dataset"), seeded_generators(SEED):
        dataset = DATASETS.build(dataset_cfg)
        order = np.random.permutation(len(dataset))
        dataset[int(order[0])]  # files and caches are read for the first time
        times: dict[str, float] = defaultdict(float)
        for pipeline in _pipelines(dataset):
            pipeline.transforms = [
                _timed(step, name, times) for step, name in zip(pipeline.transforms, pipeline.names, strict=True)
            ]
        begin, count = time.perf_counter(), 0
        while count < LEAST_STEPS or time.perf_counter() - begin < seconds:
            dataset[int(order[count % len(order)])]
            count += 1
        whole = time.perf_counter() - begin
    times["other"] = max(whole - sum(times.values()), 0.0)
    return whole / count * 1e3, _largest_first(times, count)


def _pipelines(dataset: object) -> Iterator[Compose]:
    """Yield the pipelines of a data set, also inside wrappers."""
    own = vars(dataset).get("pipeline")
    if isinstance(own, Compose):
        yield own
    inner = vars(dataset).get("dataset")
    for one in vars(dataset).get("datasets") or ([] if inner is None else [inner]):
        yield from _pipelines(one)


def _timed(step: Callable[[object], object], name: str, times: dict[str, float]) -> Callable[[object], object]:
    def call(sample: object) -> object:
        begin = time.perf_counter()
        made = step(sample)
        times[name] += time.perf_counter() - begin
        return made

    return call


def _largest_first(times: Mapping[str, float], count: int) -> dict[str, float]:
    """Convert seconds of `count` steps to milliseconds of one."""
    return {name: value / count * 1e3 for name, value in sorted(times.items(), key=lambda item: -item[1])}


# ------------------------------------------------------------------------------------------------ training, inference


def measure_training(
    cfg: PartCfg, model: BaseModel, frames: ExampleFrames, *, batch_size: int, seconds: float, amp: bool = False
) -> StepSpeed:
    """Measure training steps: forward pass, losses, backward pass and optimizer; the batch is loaded already.

    Args:
        cfg: The config; its optimizer is built anew.
        model: The model, on its device; its weights change.
        frames: Frames with ground truth.
        batch_size: Frames of a step.
        seconds: Time to measure.
        amp: Measure with `AmpOptimWrapper`, whatever the config says.
    """
    optim = {**cfg["optim_wrapper"]}
    if amp:
        optim.update(type="AmpOptimWrapper", loss_scale="dynamic")
    wrapper = build_optim({**cfg, "optim_wrapper": optim}, model)
    model.train()
    device = next(model.parameters()).device

    def step(index: int) -> None:
        model.train_step(frames.batch(batch_size, index * batch_size), wrapper)

    with peak_memory(device) as peak:
        times = _repeat(step, device, seconds)
    clock = PartClock(model, device)
    if type(model).train_step is BaseModel.train_step:  # else the parts of a step are not known
        with clock.watching():
            for index in range(CLOCKED_STEPS):
                _clocked_step(model, wrapper, frames.batch(batch_size, index * batch_size), clock)
    return _step_speed(times, batch_size, peak[0], clock)


def _clocked_step(model: BaseModel, wrapper: OptimWrapper, batch: BatchData, clock: PartClock) -> None:
    """Do what `BaseModel.train_step` does, and charge what no hook sees."""
    clock.start()
    with wrapper.optim_context(model):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
    loss, _ = model.parse_losses(losses)
    clock.charge("bbox_head forward")
    clock.start_backward()
    wrapper.backward(wrapper.scale_loss(loss))
    clock.end_backward()
    wrapper.step()
    wrapper.zero_grad()
    clock.charge("optimizer")


def measure_inference(model: BaseModel, frames: ExampleFrames, *, batch_size: int, seconds: float) -> StepSpeed:
    """Measure prediction from points on the host to boxes.

    Args:
        model: The model, on its device.
        frames: Frames.
        batch_size: Frames of a step.
        seconds: Time to measure.
    """
    model.eval()
    device = next(model.parameters()).device

    def step(index: int) -> None:
        model.test_step(frames.batch(batch_size, index * batch_size))

    with peak_memory(device) as peak:
        times = _repeat(step, device, seconds)
    clock = PartClock(model, device)
    with clock.watching():
        for index in range(CLOCKED_STEPS):
            clock.start()
            step(index)
            clock.charge("bbox_head")
    return _step_speed(times, batch_size, peak[0], clock)


def _repeat(step: Callable[[int], None], device: torch.device, seconds: float) -> list[float]:
    """Return the seconds of each step, after some that are not measured."""
    for index in range(WARM_UP_STEPS):
        step(index)
    times: list[float] = []
    while len(times) < LEAST_STEPS or sum(times) < seconds:
        _wait(device)
        begin = time.perf_counter()
        step(len(times))
        _wait(device)
        times.append(time.perf_counter() - begin)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _step_speed(times: Sequence[float], batch_size: int, peak: float, clock: PartClock) -> StepSpeed:
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1e3
    mean = sum(times) / len(times)
    return StepSpeed(
        batch_size / mean,
        batch_size,
        len(times),
        {"mean": mean * 1e3, "p50": float(p50), "p99": float(p99)},
        peak,
        _largest_first(clock.times, CLOCKED_STEPS),
    )


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Yield a list that holds, after the block, the most memory at once in MiB; see `StepSpeed.peak_memory_mb`."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) / MIB)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak of this process begins anew
    yield found
    found.append(_peak_rss_mib())


def _peak_rss_mib() -> float:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = MIB if sys.platform == "darwin" else 1024  # bytes there, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# ------------------------------------------------------------------------------------------------------------- advice


def advise(
    loading: LoadingSpeed | None,
    training: StepSpeed | None,
    training_amp: StepSpeed | None,
    processors: int | None = None,
) -> list[str]:
    """Say what would make training faster, and what would not.

    Args:
        loading: Speed of the loader.
        training: Speed of training as the config has it.
        training_amp: Speed of training with mixed precision.
        processors: Processors of this machine.
    """
    said = []
    if loading is not None and training is not None:
        said.append(_advise_workers(loading, training, processors or num_processors()))
    if training is not None and training.costs_ms:
        share = training.costs_ms.get("data_preprocessor forward", 0.0) / sum(training.costs_ms.values())
        said.append(
            f"voxelization takes {share:.0%} of a training step: "
            + (
                "the loader workers can do it (transform VoxelizePoints), which makes a step that much shorter at most"
                if share >= MATTERS
                else "doing it elsewhere would not help"
            )
        )
    if training is not None and training_amp is not None:
        factor = training.step_ms["p50"] / training_amp.step_ms["p50"]
        memory = training_amp.peak_memory_mb / training.peak_memory_mb
        said.append(
            f"AMP makes a training step {factor:.2f} times as fast with {memory:.2f} times the memory: "
            + ("optim_wrapper.type='AmpOptimWrapper' helps" if factor > 1 + MATTERS else "it would not help")
        )
    return said


def _advise_workers(loading: LoadingSpeed, training: StepSpeed, processors: int) -> str:
    rates = f"{loading.samples_per_s:.1f} samples/s are loaded by {loading.num_workers} workers"
    if loading.samples_per_s >= training.samples_per_s:
        return f"{rates}, {training.samples_per_s:.1f} are trained: more loader workers would not help"
    wanted = math.ceil(training.samples_per_s * loading.in_process_ms / 1e3 * (1 + MATTERS))
    more = f"train_dataloader.num_workers={max(wanted, loading.num_workers + 1)} would keep up"
    if wanted > processors:
        more += f", with more processors than the {processors} of this machine"
    return f"{rates}, {training.samples_per_s:.1f} could be trained: {more}"
