"""raydet3d: train 3D object detectors from a config, on one machine or on a Ray cluster."""

__version__ = "0.1.0"
