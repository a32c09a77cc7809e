"""The runtime: a Runner made from a config, its loops, its history and its checkpoints."""

from raydet3d.registry import RUNNERS
from raydet3d.runtime.assemble import assemble, build_runner
from raydet3d.runtime.ddp import MMDistributedDataParallel
from raydet3d.runtime.evaluator import Evaluator
from raydet3d.runtime.history import History, register_statistic
from raydet3d.runtime.inference import inference_detector, init_model
from raydet3d.runtime.inferencer import LidarDet3DInferencer
from raydet3d.runtime.loaders import check_data
from raydet3d.runtime.log_processor import LogProcessor
from raydet3d.runtime.loops import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop
from raydet3d.runtime.runner import Runner
from raydet3d.runtime.tta_runner import build_runner_with_tta

RUNNERS.build_func = build_runner

__all__ = [
    "EpochBasedTrainLoop",
    "Evaluator",
    "History",
    "IterBasedTrainLoop",
    "LidarDet3DInferencer",
    "LogProcessor",
    "MMDistributedDataParallel",
    "Runner",
    "TestLoop",
    "ValLoop",
    "assemble",
    "build_runner_with_tta",
    "check_data",
    "inference_detector",
    "init_model",
    "register_statistic",
]
