"""Backbones: from a map to maps of several strides."""
