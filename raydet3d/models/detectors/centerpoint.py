"""`CenterPoint`: a detector of object centres. Source: CenterPoint (Yin et al. 2021)."""

from __future__ import annotations

from raydet3d.models.detectors.mvx_two_stage import MVXTwoStageDetector
from raydet3d.registry import MODELS


@MODELS.register_module()
class CenterPoint(MVXTwoStageDetector):
    """`MVXTwoStageDetector` by the name that the configs of CenterPoint use; its head is a `CenterHead`."""
