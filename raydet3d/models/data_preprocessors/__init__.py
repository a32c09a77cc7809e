"""Data preprocessors: from a collated batch to the inputs of a detector."""
