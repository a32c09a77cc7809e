"""Losses of detection heads."""
