"""Data preprocessors: from a collated batch to what a detector reads."""
