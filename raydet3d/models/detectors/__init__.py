"""Detectors: the model of a whole sample."""
