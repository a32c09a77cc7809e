"""`show data`: samples before and after augmentation as pictures and a 3D page, and counts of labels and points."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from raydet3d.config import Config, is_uri, work_dir_of
from raydet3d.data.dataset_wrappers import ConcatDataset, WrappedDataset
from raydet3d.data.pipeline import Compose, Sample
from raydet3d.data.seeded import sample_seed, seed_generators
from raydet3d.errors import InputError
from raydet3d.ops.points import points_in_boxes
from raydet3d.registry import DATASETS
from raydet3d.runtime.loaders import check_data
from raydet3d.structures.sample_types import PlainSample
from raydet3d.visual.bev import GROUND_TRUTH_COLOR, PALETTE, BoxSet, draw_bev, find_view
from raydet3d.visual.canvas import Array, to_array
from raydet3d.visual.matching import DEFAULT_RULE
from raydet3d.visual.sample_view import ground_truth_boxes, to_scene
from raydet3d.visual.scene_page import PackedScene, pack_scene, write_scene_page

PASTED_COLOR = (189, 147, 249)
MAX_COUNTED = 5000
"""Samples whose labels are counted; of a larger data set evenly spaced ones."""


@dataclass(frozen=True)
class Stage:
    """A sample at a point of its pipeline.

    Args:
        points: (N, 3+) points.
        boxes: Ground truth in the LiDAR's frame.
        pasted: (K,) which boxes an augmentation has added.
    """

    points: Array
    boxes: BoxSet
    pasted: NDArray[np.bool_]


def show_data(cfg: Config, args: argparse.Namespace) -> None:
    """Print label counts of a split; write pictures and a page of some samples.

    Args:
        cfg: The config.
        args: `split`, `n` (samples), `aug` (augmented versions of each) and `page` (folder or None).
    """
    if args.n < 1 or args.aug < 0:
        raise InputError(f"--n must be 1 or more and --aug 0 or more, got {args.n} and {args.aug}")
    loader = cfg.get(f"{args.split}_dataloader")
    if not isinstance(loader, dict) or "dataset" not in loader:
        raise InputError(f"the config has no {args.split}_dataloader.dataset, so there is nothing to show")
    check_data({f"{args.split}_dataloader": loader})
    dataset: WrappedDataset = DATASETS.build(loader["dataset"])
    classes = [str(name) for name in dataset.metainfo.get("classes", ())]
    labels, counted = count_labels(dataset, classes)
    if args.page is None and is_uri(work_dir_of(cfg, cfg.filename)):
        raise InputError("--page DIR is needed where work_dir is a URI")
    folder = Path(args.page) if args.page is not None else Path(work_dir_of(cfg, cfg.filename)) / "data"
    seed = int((cfg.get("randomness") or {}).get("seed") or 0)
    scenes: list[PackedScene] = []
    stages: dict[str, list[Stage]] = {"before": [], "after": []}
    for index in np.unique(np.linspace(0, len(dataset) - 1, args.n).round().astype(int)):
        raw = dataset.get_data_info(int(index))
        name = _file_name(str(raw.get("sample_idx", index)))
        versions = [trace_sample(dataset, int(index), seed=seed, epoch=epoch) for epoch in range(max(args.aug, 1))]
        before, shown = versions[0][0], [after for _, after in versions][: args.aug]
        stages["before"].append(before)
        stages["after"] += shown
        scenes.append(_pack(f"{name} before", before, raw, is_augmented=False))
        titles = [f"{name} after" + (f" (epoch {epoch})" if args.aug > 1 else "") for epoch in range(args.aug)]
        scenes += [_pack(title, stage, raw, is_augmented=True) for title, stage in zip(titles, shown, strict=True)]
        tiles = [
            _picture(title, stage) for title, stage in zip([f"{name} before", *titles], [before, *shown], strict=True)
        ]
        _write_beside(folder / f"{name}.png", tiles)
    points = count_points(stages, classes)
    print(f"{args.split}: {len(dataset)} samples; labels of {counted} of them:\n{labels.to_string(index=False)}\n")
    print(f"Points inside the boxes of the {len(stages['before'])} samples shown:\n{points.to_string(index=False)}\n")
    notes = "".join(
        f"<h3>{title}</h3>{table.to_html(index=False, border=0)}"
        for title, table in ((f"Labels of {counted} samples", labels), ("Points inside the boxes shown", points))
    )
    title = f"{Path(cfg.filename or 'config').stem}, {args.split}"
    page = write_scene_page(folder / "index.html", scenes, title=title, classes=classes, notes=notes)
    print(f"Pictures: {folder}\nPage: {page}")


def count_labels(dataset: WrappedDataset, classes: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Count objects by class.

    Args:
        dataset: The data set.
        classes: Class names by label.

    Returns:
        A table with a row for each class, and the number of samples counted.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MAX_COUNTED)).round().astype(int))
    found: list[NDArray[np.int64]] = []
    for index in indices:
        raw = dataset.get_data_info(int(index))
        annotation = raw.get("ann_info") or raw.get("eval_ann_info") or {}
        found.append(np.asarray(annotation.get("gt_labels_3d", []), np.int64))
    rows = [
        {
            "class": name,
            "objects": sum(int((labels == label).sum()) for labels in found),
            "samples with it": sum(bool((labels == label).any()) for labels in found),
            "most in one": max((int((labels == label).sum()) for labels in found), default=0),
        }
        for label, name in enumerate(classes)
    ]
    total = max(sum(int(str(row["objects"])) for row in rows), 1)
    for row in rows:
        row["share"] = f"{100 * int(str(row['objects'])) / total:.1f} %"
    return pd.DataFrame(rows), len(indices)


def count_points(stages: dict[str, list[Stage]], classes: Sequence[str]) -> pd.DataFrame:
    """Count the points inside boxes by class, before and after augmentation.

    Args:
        stages: Samples by the text of the first column.
        classes: Class names by label.
    """
    rows = []
    for when, samples in stages.items():
        if not samples:
            continue
        counts = [points_in_boxes(s.points[:, :3], s.boxes.boxes.astype(s.points.dtype)).sum(0) for s in samples]
        labels = np.concatenate([s.boxes.labels for s in samples])
        pasted = np.concatenate([s.pasted for s in samples])
        points = np.concatenate(counts)
        for label, name in enumerate(classes):
            own = points[labels == label]
            low, middle, high = np.quantile(own, [0.1, 0.5, 0.9]).round().astype(int) if len(own) else ("", "", "")
            rows.append(
                {
                    **{"augmentation": when, "class": name, "boxes": len(own)},
                    "pasted": int(pasted[labels == label].sum()),
                    **{"points, 10 %": low, "median": middle, "90 %": high, "empty": int((own == 0).sum())},
                }
            )
    return pd.DataFrame(rows)


def trace_sample(dataset: WrappedDataset, index: int, *, seed: int, epoch: int) -> tuple[Stage, Stage]:
    """Run a sample through its pipeline with the random draws of a training run.

    Args:
        dataset: The data set.
        index: Index of the sample.
        seed: Seed of the run.
        epoch: Epoch, counted from 0.

    Returns:
        The sample as loaded (after the transforms named `Load...`) and as it leaves the pipeline.
    """
    seed_generators(sample_seed(seed, epoch, index))
    pipeline = _pipeline_of(dataset, index)
    sample: Any = dataset.get_data_info(index)
    first: Stage | None = None
    pasted = np.zeros(0, bool)
    rows = np.zeros((0, 6))
    for name, step in zip(pipeline.names, pipeline.transforms, strict=True):
        if first is None and "points" in sample and not name.startswith("Load"):
            first = _stage(sample, None)
            rows, pasted = first.boxes.boxes[:, :6], first.pasted
        sample = step(sample)
        sample = sample[0] if isinstance(sample, list) else sample
        if sample is None:
            raise InputError(f"{name} drops sample {index}, so it cannot be shown")
        if first is not None:
            now = _boxes_of(sample).boxes[:, :6]
            pasted, rows = follow_pasted(rows, pasted, now), now
    last = _stage(sample, pasted)
    return first or last, last


def _file_name(text: str) -> str:
    """Return a sample's id as a file name; numbers have six digits, as in KITTI."""
    return text.zfill(6) if text.isdigit() else "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def _pipeline_of(dataset: WrappedDataset, index: int) -> Compose:
    """Return the pipeline of a sample, inside of wrappers too."""
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            if index < len(part):
                return _pipeline_of(part, index)
            index -= len(part)
    pipeline: Compose | None = getattr(dataset, "pipeline", None)
    if pipeline is not None:
        return pipeline
    inner: WrappedDataset = getattr(dataset, "dataset", None) or _no_pipeline(dataset)
    return _pipeline_of(inner, index % max(len(inner), 1))


def _no_pipeline(dataset: WrappedDataset) -> NoReturn:
    raise InputError(f"{type(dataset).__name__} has no pipeline, so its samples cannot be followed")


def follow_pasted(before: Array, pasted: NDArray[np.bool_], after: Array) -> NDArray[np.bool_]:
    """Return which boxes are pasted ones after a transform that adds boxes behind the others, or removes some.

    Args:
        before: (K, 6) centres and sizes before the transform.
        pasted: (K,) which of them are pasted.
        after: (L, 6) centres and sizes after it.
    """
    if len(after) >= len(before):
        return np.concatenate([pasted, np.ones(len(after) - len(before), bool)])
    kept: list[bool] = []
    place = 0
    for row in after:
        same = np.flatnonzero((before[place:] == row).all(1))
        place += int(same[0]) + 1 if len(same) else 0
        kept.append(bool(len(same)) and bool(pasted[place - 1]))
    return np.array(kept, bool)


def _boxes_of(sample: Sample) -> BoxSet:
    """Return the boxes of a sample in the pipeline or of a packed one."""
    if "data_samples" in sample:
        return ground_truth_boxes(sample["data_samples"].to_dict())
    if "gt_bboxes_3d" in sample:
        own = {"bboxes_3d": sample["gt_bboxes_3d"], "labels_3d": sample["gt_labels_3d"]}
        return ground_truth_boxes({"gt_instances_3d": own})  # type: ignore[typeddict-item]
    return ground_truth_boxes(sample)  # type: ignore[arg-type]


def _stage(sample: Sample, pasted: NDArray[np.bool_] | None) -> Stage:
    """Copy points and boxes out of a sample, which later transforms change in place."""
    points = sample["inputs"]["points"] if "inputs" in sample else sample["points"]
    boxes = _boxes_of(sample)
    boxes = BoxSet(np.array(boxes.boxes), np.array(boxes.labels))
    return Stage(np.array(to_array(points)), boxes, np.zeros(len(boxes), bool) if pasted is None else pasted)


def _pack(name: str, stage: Stage, raw: Sample, *, is_augmented: bool) -> PackedScene:
    """Return a frame of the page; cameras belong to samples that were not moved."""
    cameras = {key: raw[key] for key in ("img_path", "lidar2img", "cam2img", "lidar2cam") if key in raw}
    sample: PlainSample = {} if is_augmented else cameras  # type: ignore[assignment]
    scene = to_scene(
        name,
        {"points": stage.points},
        sample,
        mode=0,
        palette=PALETTE,
        draw_gt=False,
        draw_pred=False,
        show_pcd_rgb=False,
        least=0.0,
        warn=print,
    )
    scene = replace(scene, ground_truth=stage.boxes, pasted=stage.pasted)
    return pack_scene(scene, rule=DEFAULT_RULE, score_thr=0.0)


def _picture(title: str, stage: Stage) -> NDArray[np.uint8]:
    """Draw a stage from above, pasted objects in their own colour."""
    own, pasted = (
        BoxSet(stage.boxes.boxes[part], stage.boxes.labels[part] * 0) for part in (~stage.pasted, stage.pasted)
    )
    legend = [(f"ground truth {len(own)}", GROUND_TRUTH_COLOR)]
    legend += [(f"pasted objects {len(pasted)}", PASTED_COLOR)] if len(pasted) else []
    return draw_bev(
        stage.points,
        own,
        BoxSet(pasted.boxes, pasted.labels, np.zeros(0)),  # no scores to write beside them
        view=find_view(stage.points, stage.boxes.boxes, pixels=800),
        palette=[PASTED_COLOR],
        title=title,
        legend=legend,
    )


def _write_beside(path: Path, tiles: Sequence[NDArray[np.uint8]]) -> None:
    """Write pictures side by side into one file."""
    height = max(len(tile) for tile in tiles)
    padded = [np.pad(tile, ((0, height - len(tile)), (0, 8), (0, 0))) for tile in tiles]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(padded, 1)).save(path, compress_level=3)
