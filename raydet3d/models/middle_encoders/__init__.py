"""Middle encoders: from voxel features to a bird's-eye-view map."""
