"""Transforms of a sample: loading, augmentation, object sampling, formatting."""
