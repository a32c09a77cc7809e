"""Hooks: what happens beside the training step, and when."""

from raydet3d.hooks import refused
from raydet3d.hooks.augment import DisableAugHook, DisableObjectSampleHook
from raydet3d.hooks.benchmark import BenchmarkHook
from raydet3d.hooks.buffers import SyncBuffersHook
from raydet3d.hooks.checkpoint import CheckpointHook
from raydet3d.hooks.ema import EMAHook
from raydet3d.hooks.guard import GuardHook
from raydet3d.hooks.hook import PRIORITIES, STAGES, Hook, Hooks, get_priority
from raydet3d.hooks.info import RuntimeInfoHook
from raydet3d.hooks.logger import LoggerHook
from raydet3d.hooks.memory import EmptyCacheHook
from raydet3d.hooks.profiler import ProfilerHook
from raydet3d.hooks.sampler import DistSamplerSeedHook
from raydet3d.hooks.schedule import ParamSchedulerHook
from raydet3d.hooks.stop import EarlyStoppingHook
from raydet3d.hooks.timer import IterTimerHook
from raydet3d.hooks.tta import PrepareTTAHook
from raydet3d.hooks.visual import Det3DVisualizationHook

__all__ = [
    "PRIORITIES",
    "STAGES",
    "BenchmarkHook",
    "CheckpointHook",
    "Det3DVisualizationHook",
    "DisableAugHook",
    "DisableObjectSampleHook",
    "DistSamplerSeedHook",
    "EMAHook",
    "EarlyStoppingHook",
    "EmptyCacheHook",
    "GuardHook",
    "Hook",
    "Hooks",
    "IterTimerHook",
    "LoggerHook",
    "ParamSchedulerHook",
    "PrepareTTAHook",
    "ProfilerHook",
    "RuntimeInfoHook",
    "SyncBuffersHook",
    "get_priority",
    "refused",
]
