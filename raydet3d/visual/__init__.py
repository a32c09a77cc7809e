"""Pictures and curves of a run: visualizers draw, backends keep."""

from raydet3d.visual.backends import (
    BaseVisBackend,
    LocalVisBackend,
    TensorboardVisBackend,
    WandbVisBackend,
)
from raydet3d.visual.local_visualizer import Det3DLocalVisualizer
from raydet3d.visual.visualizer import Visualizer

__all__ = [
    "BaseVisBackend",
    "Det3DLocalVisualizer",
    "LocalVisBackend",
    "TensorboardVisBackend",
    "Visualizer",
    "WandbVisBackend",
]
