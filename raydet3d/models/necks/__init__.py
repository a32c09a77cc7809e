"""Necks: from maps of several strides to the map of the head."""
