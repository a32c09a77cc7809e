"""Hyperparameter sweeps with Ray Tune over any key of a config."""
