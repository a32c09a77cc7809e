"""Arguments of this package's registered parts: the wrong type or range is refused before the part is made."""

import inspect
from typing import Any

import pytest
import torch

from raydet3d import registry
from raydet3d.errors import InputError
from raydet3d.registry import Registry


@pytest.mark.parametrize(
    ("table", "cfg"),
    [
        (registry.HOOKS, {"type": "CheckpointHook", "interval": 1.5}),
        (registry.HOOKS, {"type": "CheckpointHook", "save_last": "yes"}),
        (registry.HOOKS, {"type": "CheckpointHook", "keep_every": 0}),
        (registry.HOOKS, {"type": "LoggerHook", "interval": 0}),
        (registry.HOOKS, {"type": "LoggerHook", "interval": "10"}),
        (registry.HOOKS, {"type": "EMAHook", "begin_iter": -1}),
        (registry.HOOKS, {"type": "EarlyStoppingHook", "monitor": "AP", "patience": "5"}),
        (registry.HOOKS, {"type": "Det3DVisualizationHook", "max_frames": -1}),
        (registry.HOOKS, {"type": "GuardHook", "max_bad_steps": 0.5}),
        (registry.HOOKS, {"type": "DisableObjectSampleHook", "disable_after_epoch": [15]}),
        (registry.LOOPS, {"type": "EpochBasedTrainLoop", "max_epochs": "80"}),
        (registry.LOOPS, {"type": "IterBasedTrainLoop", "max_iters": 10, "val_begin": 1.5}),
        (registry.LOOPS, {"type": "ValLoop", "fp16": "no"}),
        (registry.LOG_PROCESSORS, {"type": "LogProcessor", "by_epoch": 1}),
        (registry.LOG_PROCESSORS, {"type": "LogProcessor", "mean_pattern": 3}),
        (registry.DATA_SAMPLERS, {"type": "DefaultSampler", "seed": -1}),
        (registry.DATA_SAMPLERS, {"type": "InfiniteSampler", "shuffle": "True"}),
        (registry.DATASETS, {"type": "RepeatDataset", "times": "2"}),
        (registry.MODEL_WRAPPERS, {"type": "MMFullyShardedDataParallel", "min_params": -1}),
        (registry.OPTIM_WRAPPERS, {"type": "OptimWrapper", "accumulative_counts": 0}),
        (registry.OPTIM_WRAPPERS, {"type": "AmpOptimWrapper", "dtype": 16}),
        (registry.VISUALIZERS, {"type": "Det3DLocalVisualizer", "alpha": 2}),
        (registry.VISBACKENDS, {"type": "TensorboardVisBackend", "flush_secs": 0}),
        (registry.PARAM_SCHEDULERS, {"type": "LinearLR", "begin": "0"}),
        (registry.TRANSFORMS, {"type": "LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": "4"}),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_a_wrong_argument_is_named(table: Registry, cfg: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    needed = dict.fromkeys(("runner", "dataloader", "evaluator", "module"), None) | {
        "dataset": [],
        "optimizer": optimizer,
    }
    signature = set(needed) & _parameters(table.get(cfg["type"]))
    name = list(cfg)[-1]
    with pytest.raises(InputError, match=rf"{name}\b"):
        table.build(cfg, {key: needed[key] for key in signature})


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)
