"""Necks: from maps of several strides to those of the head."""
