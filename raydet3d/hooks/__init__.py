"""Hooks: what happens beside the training step, and when."""

from raydet3d.hooks.augment import DisableObjectSampleHook
from raydet3d.hooks.checkpoint import CheckpointHook
from raydet3d.hooks.hook import PRIORITIES, STAGES, Hook, Hooks, get_priority
from raydet3d.hooks.info import RuntimeInfoHook
from raydet3d.hooks.logger import LoggerHook
from raydet3d.hooks.sampler import DistSamplerSeedHook
from raydet3d.hooks.schedule import ParamSchedulerHook
from raydet3d.hooks.timer import IterTimerHook
from raydet3d.hooks.visual import Det3DVisualizationHook

__all__ = [
    "PRIORITIES",
    "STAGES",
    "CheckpointHook",
    "Det3DVisualizationHook",
    "DisableObjectSampleHook",
    "DistSamplerSeedHook",
    "Hook",
    "Hooks",
    "IterTimerHook",
    "LoggerHook",
    "ParamSchedulerHook",
    "RuntimeInfoHook",
    "get_priority",
]
