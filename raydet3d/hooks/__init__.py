"""Hooks that extend training, validation and testing at fixed stages."""

from raydet3d.hooks import refused_hooks
from raydet3d.hooks.base import PRIORITIES, STAGES, Hook, Hooks, Priority, get_priority
from raydet3d.hooks.benchmark_hook import BenchmarkHook
from raydet3d.hooks.checkpoint import CheckpointHook
from raydet3d.hooks.disable_augmentation import DisableAugHook, DisableObjectSampleHook
from raydet3d.hooks.early_stopping import EarlyStoppingHook
from raydet3d.hooks.ema import EMAHook
from raydet3d.hooks.empty_cache import EmptyCacheHook
from raydet3d.hooks.guard import GuardHook
from raydet3d.hooks.iter_timer import IterTimerHook
from raydet3d.hooks.logger import LoggerHook
from raydet3d.hooks.param_scheduler import ParamSchedulerHook
from raydet3d.hooks.prepare_tta import PrepareTTAHook
from raydet3d.hooks.profiler import ProfilerHook
from raydet3d.hooks.runtime_info import RuntimeInfoHook
from raydet3d.hooks.sampler_seed import DistSamplerSeedHook
from raydet3d.hooks.sync_buffers import SyncBuffersHook
from raydet3d.hooks.visualization import Det3DVisualizationHook

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
    "Priority",
    "ProfilerHook",
    "RuntimeInfoHook",
    "SyncBuffersHook",
    "get_priority",
    "refused_hooks",
]
