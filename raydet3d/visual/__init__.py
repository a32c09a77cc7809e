"""Pictures and curves of a run: visualizers draw, backends keep."""

from raydet3d.visual.backends import (
    BaseVisBackend,
    LocalVisBackend,
    TensorboardVisBackend,
    WandbVisBackend,
)
from raydet3d.visual.visualizer import Det3DLocalVisualizer, Visualizer

__all__ = [
    "BaseVisBackend",
    "Det3DLocalVisualizer",
    "LocalVisBackend",
    "TensorboardVisBackend",
    "Visualizer",
    "WandbVisBackend",
]
