"""Visualizers, which draw, and back ends, which store images and scalars."""

from raydet3d.visual.backends import BaseVisBackend, LocalVisBackend, TensorboardVisBackend
from raydet3d.visual.local_visualizer import Det3DLocalVisualizer
from raydet3d.visual.visualizer import Visualizer

__all__ = [
    "BaseVisBackend",
    "Det3DLocalVisualizer",
    "LocalVisBackend",
    "TensorboardVisBackend",
    "Visualizer",
]
