"""Optim wrappers, param groups and schedulers. Optional modules (muon, zero, layer_decay) are not imported here."""

from raydet3d.optim.amp import AmpOptimWrapper
from raydet3d.optim.build_schedulers import build_param_scheduler
from raydet3d.optim.constructor import DefaultOptimWrapperConstructor, build_optim_wrapper
from raydet3d.optim.curves import CURVES, Curve, preview
from raydet3d.optim.multi_optim_wrapper import OptimWrapperDict
from raydet3d.optim.optim_check import check_optimization
from raydet3d.optim.optimizers import TORCH_OPTIMIZERS
from raydet3d.optim.plateau import (
    ReduceOnPlateauLR,
    ReduceOnPlateauMomentum,
    ReduceOnPlateauParamScheduler,
)
from raydet3d.optim.resume_schedulers import resume_schedulers
from raydet3d.optim.schedule import CurveScheduler, ParamScheduler, Schedule, register_curve
from raydet3d.optim.wrapper import OptimWrapper

__all__ = [
    "CURVES",
    "TORCH_OPTIMIZERS",
    "AmpOptimWrapper",
    "Curve",
    "CurveScheduler",
    "DefaultOptimWrapperConstructor",
    "OptimWrapper",
    "OptimWrapperDict",
    "ParamScheduler",
    "ReduceOnPlateauLR",
    "ReduceOnPlateauMomentum",
    "ReduceOnPlateauParamScheduler",
    "Schedule",
    "build_optim_wrapper",
    "build_param_scheduler",
    "check_optimization",
    "preview",
    "register_curve",
    "resume_schedulers",
]
