"""Backbones: from a bird's-eye-view map to maps of several strides."""
