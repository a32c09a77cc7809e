"""The toys under registered names, for configs that are files: imported by ``custom_imports`` in each process."""

from raydet3d.registry import DATASETS, HOOKS, METRICS, MODELS
from tests.kit import faults, toy, trace

MODELS.register_module(module=toy.ToyModel)
DATASETS.register_module(module=toy.ToyData)
METRICS.register_module(module=toy.ToyMetric)
for hook in (
    trace.WriteSamples, trace.KillOnce, toy.SaveAt, faults.Slow, faults.Hang, faults.KillAt, faults.CallAt,
    faults.Touch, faults.PoisonAt,
):  # fmt: skip
    HOOKS.register_module(module=hook)
