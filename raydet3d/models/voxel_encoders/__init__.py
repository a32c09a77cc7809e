"""Voxel encoders: from the points of a voxel to its feature."""
