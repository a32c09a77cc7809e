"""Frames to measure or to export a model with: a config's own, or generated ones where its data are not here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from raydet3d.data import pseudo_collate
from raydet3d.errors import InputError
from raydet3d.hooks.context import PartCfg
from raydet3d.models.detector_parts import detector_parts
from raydet3d.models.module import BatchData
from raydet3d.registry import DATASETS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes

Packed: TypeAlias = "dict[str, dict[str, Tensor] | Det3DDataSample]"
"""A sample as the pipeline packs it: `inputs` with `points` (N, C), and `data_samples`."""

GROUND_Z_M = -1.7
POINT_LOADERS = ("LoadPointsFromFile", "LoadCustomPointsFromFile", "LoadPointsFromMultiSweeps")
NUM_BEAMS, NUM_THINGS = 64, 180
POINTS_OF_A_SWEEP = 20000
BOX_SIZE_M = (4.0, 1.8, 1.6)


@dataclass(frozen=True)
class ExampleFrames:
    """Packed samples.

    Attributes:
        samples: The frames.
        source: Where they come from, for people.
    """

    samples: list[Packed]
    source: str

    def batch(self, size: int, first: int = 0) -> BatchData:
        """Collate `size` frames from the given one on; frames repeat where there are fewer."""
        chosen = [self.samples[(first + i) % len(self.samples)] for i in range(size)]
        collated: BatchData = pseudo_collate(chosen)
        return collated


def info_files(dataset: PartCfg) -> Iterator[Path]:
    """Yield the info files of a data set's config, also inside wrappers."""
    inner = dataset.get("dataset")
    several = dataset.get("datasets") or ([inner] if isinstance(inner, Mapping) else [])
    for item in several:
        yield from info_files(item)
    if not several and dataset.get("ann_file"):
        yield Path(dataset.get("data_root") or "", dataset["ann_file"])


def missing_info_file(cfg: PartCfg, mode: str) -> str | None:
    """Return why the data of a mode (`train`, `val`, `test`) cannot be read here; None if they can."""
    loader = cfg.get(f"{mode}_dataloader")
    if not isinstance(loader, Mapping) or not isinstance(loader.get("dataset"), Mapping):
        return f"the config has no {mode}_dataloader with a dataset"
    files = list(info_files(loader["dataset"]))
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        return f"{missing[0]} does not exist" if missing else f"{mode}_dataloader.dataset has no ann_file"
    return None


def example_frames(cfg: PartCfg, model: nn.Module, count: int, *, mode: str = "test") -> ExampleFrames:
    """Read the first frames of a config's data set, or generate frames where its info file is not here.

    Args:
        cfg: The config.
        model: Its model, which says what generated frames must look like.
        count: Number of frames, at least 1.
        mode: `train`, `val` or `test`: which data loader's data set and pipeline.
    """
    reason = missing_info_file(cfg, mode)
    if reason is None:
        dataset = DATASETS.build(cfg[f"{mode}_dataloader"]["dataset"])
        samples = [dataset[i] for i in range(min(count, len(dataset)))]
        return ExampleFrames(samples, f"{len(samples)} frames of {mode}_dataloader")
    generator = torch.Generator().manual_seed(0)
    num_points = POINTS_OF_A_SWEEP * (1 + _num_sweeps(cfg))
    samples = [generate_frame(cfg, model, generator, num_points) for _ in range(count)]
    return ExampleFrames(samples, f"{count} generated frames of {num_points} points ({reason})")


def generate_frame(cfg: PartCfg, model: nn.Module, generator: torch.Generator, num_points: int) -> Packed:
    """Generate a frame within a model's range: points as dense as a rotating scanner's, and ten boxes on the ground.

    Args:
        cfg: The config: the model's dict says how many numbers a point has.
        model: A detector with a voxel layer and a head.
        generator: Source of random numbers.
        num_points: Number of points.
    """
    layer = getattr(getattr(model, "data_preprocessor", None), "voxel_layer", None)
    parts = detector_parts(model)
    if layer is None or "bbox_head" not in parts:
        raise InputError(
            f"frames can be generated for a detector with a voxel_layer and a head, not for {type(model).__name__}; "
            "prepare the data of the config"
        )
    low = torch.tensor(layer.point_cloud_range[:3], dtype=torch.float32)
    high = torch.tensor(layer.point_cloud_range[3:], dtype=torch.float32)
    points = torch.rand(num_points, num_point_features(cfg), generator=generator)
    points[:, :3] = _scan(low, high, num_points, generator)
    head = parts["bbox_head"].module
    return {
        "inputs": {"points": points},
        "data_samples": _boxes(head, low, high, generator),
    }


def innermost_dataset(cfg: PartCfg, mode: str) -> PartCfg:
    """Return the config of a loader's data set without wrappers; an empty one where there is none."""
    dataset: PartCfg = (cfg.get(f"{mode}_dataloader") or {}).get("dataset") or {}
    while isinstance(dataset.get("dataset"), Mapping):
        dataset = dataset["dataset"]
    return dataset


def loading_steps(cfg: PartCfg) -> list[PartCfg]:
    """Return the configs of the transforms that load points for testing."""
    steps = innermost_dataset(cfg, "test").get("pipeline") or ()
    return [
        step
        for step in steps
        if isinstance(step, Mapping) and str(step.get("type")).rpartition(".")[2] in POINT_LOADERS
    ]


def _num_sweeps(cfg: PartCfg) -> int:
    return sum(int(step.get("sweeps_num", 10)) for step in loading_steps(cfg) if "Sweeps" in str(step["type"]))


def num_point_features(cfg: PartCfg) -> int:
    """Return how many numbers of a point a model's config takes."""
    model = cfg["model"]
    for part, keys in (("voxel_encoder", ("in_channels", "num_features")), ("middle_encoder", ("in_channels",))):
        for name in (f"pts_{part}", part):
            for key in keys:
                if (model.get(name) or {}).get(key):
                    return int(model[name][key])
    return 4


def _scan(low: Tensor, high: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return (count, 3) points where 64 beams meet the ground or one of 180 upright things, each in its sector."""
    reach = float(torch.maximum(low.abs(), high.abs())[:2].norm())
    things = 4 + reach * torch.rand(NUM_THINGS, generator=generator)  # distances
    kept = torch.empty(0, 3)
    while len(kept) < count:
        turn, beam = torch.rand(2, 4 * count, generator=generator)
        slope = torch.deg2rad(-25 + 27 * (beam * NUM_BEAMS).floor() / NUM_BEAMS).tan()
        distance = torch.where(slope < 0, GROUND_Z_M / slope, torch.inf)
        distance = torch.minimum(distance, things[(turn * NUM_THINGS).long()])
        angle = turn * 2 * math.pi
        points = torch.stack((distance * angle.cos(), distance * angle.sin(), distance * slope), 1)
        points += 0.03 * torch.randn(points.shape, generator=generator)
        kept = torch.cat((kept, points[((points > low) & (points < high)).all(1)]))
        if not len(kept):  # a range that no beam reaches
            kept = low + torch.rand(count, 3, generator=generator) * (high - low)
    return kept[:count]


def _boxes(head: nn.Module, low: Tensor, high: Tensor, generator: torch.Generator, count: int = 10) -> Det3DDataSample:
    """Return ground truth of `count` boxes with the classes and the numbers that a head learns."""
    given: object = head.num_classes  # of a centre head a list, by task
    num_classes = sum(given) if isinstance(given, list) else given
    assert isinstance(num_classes, int)
    rows = torch.zeros(count, int(getattr(getattr(head, "bbox_coder", None), "code_size", 7)))
    rows[:, :2] = low[:2] + (0.05 + 0.9 * torch.rand(count, 2, generator=generator)) * (high - low)[:2]
    rows[:, 2] = GROUND_Z_M
    rows[:, 3:6] = torch.tensor(BOX_SIZE_M)
    rows[:, 6] = (torch.rand(count, generator=generator) - 0.5) * 2 * math.pi
    sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(rows, box_dim=rows.shape[1]),
        labels_3d=torch.from_numpy(np.arange(count) % num_classes),
    )
    return sample
