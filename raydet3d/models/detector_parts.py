"""The parts of a detector, in the order in which a frame passes through them."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

PARTS = ("data_preprocessor", "voxel_encoder", "middle_encoder", "backbone", "neck", "bbox_head")


class Part(NamedTuple):
    """A part of a detector.

    Attributes:
        name: Name of the model's attribute, such as `pts_backbone`.
        module: The part.
    """

    name: str
    module: nn.Module


def detector_parts(model: nn.Module) -> dict[str, Part]:
    """Return the parts of a detector by their names of `PARTS`, in this order; those that it lacks are left out."""
    found = {}
    for part in PARTS:
        for name in (f"pts_{part}", part):
            module = getattr(model, name, None)
            if isinstance(module, nn.Module):
                found[part] = Part(name, module)
                break
    return found
