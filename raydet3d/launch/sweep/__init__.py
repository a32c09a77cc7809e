"""Sweeps: many runs of one config with other values, searched, stopped early and ranked with Ray Tune."""
