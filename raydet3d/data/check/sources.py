"""Find what to check: the splits of a config's loaders, or of a folder whose layout a preparer knows."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from raydet3d.config import ConfigDict
from raydet3d.data.check.expectations import iter_datasets
from raydet3d.data.dataset import Det3DDataset, check_dataset
from raydet3d.data.paths import join
from raydet3d.data.prepare.preparers import LAYOUTS, PREPARERS, DataLayout, RawFrame, Split
from raydet3d.errors import InputError
from raydet3d.info_file import FrameInfo, read_infos, to_v2
from raydet3d.log import get_logger
from raydet3d.registry import DATASETS

MODES = ("train", "val", "test")


@dataclass(frozen=True)
class InfoFrame:
    """A frame of an info file.

    Args:
        entry: Its entry, pickled: thousands of them take a tenth of the memory.
        cloud: Path of its cloud; empty where the entry does not name one.
    """

    entry: bytes
    cloud: str

    def files(self) -> list[Path]:
        """Return its cloud."""
        return [Path(self.cloud)] if self.cloud else []

    def read(self) -> FrameInfo:
        """Return its entry."""
        return cast(FrameInfo, pickle.loads(self.entry))


@dataclass(frozen=True)
class CheckedSplit:
    """A split to check.

    Args:
        name: Its name.
        dataset: Config of its data set.
        categories: Number of each category; -1 for what is no object.
        frames: Its frames.
        info_file: Info file that describes them; empty for raw frames.
        is_trained: Whether it is trained on.
    """

    name: str
    dataset: ConfigDict
    categories: Mapping[str, int]
    frames: Sequence[RawFrame]
    info_file: str = ""
    is_trained: bool = False


def splits_of_root(root: Path) -> list[CheckedSplit]:
    """Return the splits of a folder: by its raw files where these are there, else by its info files.

    Raises:
        InputError: No preparer knows its layout, or its lists of frames are wrong.
    """
    layouts = {name: cast(type[DataLayout], LAYOUTS.get(name)) for name in PREPARERS if name in LAYOUTS}
    for layout in layouts.values():
        splits = layout.raw_splits(root)
        if splits:
            return [
                CheckedSplit(one.name, one.dataset, one.categories, one.frames or (), is_trained=one.name == "train")
                for one in splits
            ]
    for layout in layouts.values():
        splits = layout.prepared_splits(root)
        if splits:
            return [_read_split(one, is_trained=one.name == "train") for one in splits]
    raise InputError(
        f"{root}: neither the raw nor the prepared folder of {', '.join(layouts)}; "
        "'python -m raydet3d.data.prepare --help' shows their layouts"
    )


def splits_of_config(cfg: ConfigDict) -> list[CheckedSplit]:
    """Return the splits of a config's loaders; a test split that repeats the validation split is left out.

    Raises:
        InputError: The config has no data set, or an info file is missing or damaged.
    """
    found: list[Split] = []
    seen: dict[tuple[str, ...], str] = {}
    for mode in MODES:
        datasets = list(iter_datasets((cfg.get(f"{mode}_dataloader") or {}).get("dataset")))
        for number, dataset in enumerate(datasets, 1):
            key = tuple(str(dataset.get(part)) for part in ("type", "data_root", "ann_file", "data_prefix"))
            if mode == "test" and seen.get(key) == "val":
                continue
            try:
                check_dataset(dataset)
            except InputError as error:
                if mode != "test":
                    raise
                get_logger().warning("the test split is left out: %s", error)
                continue
            seen[key] = mode
            found.append(Split(mode if len(datasets) == 1 else f"{mode} {number}", dataset))
    if not found:
        raise InputError("the config has no data set: train_dataloader.dataset, val_dataloader.dataset")
    return [_read_split(one, is_trained=one.name.startswith("train")) for one in found]


def _read_split(split: Split, *, is_trained: bool) -> CheckedSplit:
    root = str(split.dataset.get("data_root") or "")
    path = join(root, split.dataset.get("ann_file") or "")
    content = to_v2(read_infos(path), path)
    kind = cast(type[Det3DDataset], DATASETS.get(split.dataset["type"]))
    categories = (content.get("metainfo") or {}).get("categories") or kind.METAINFO.get("classes", ())
    if not isinstance(categories, Mapping):
        categories = {str(name): number for number, name in enumerate(categories)}
    prefix = (split.dataset.get("data_prefix") or {}).get("pts") or ""
    entries = content["data_list"]
    frames = list(_pack(entries, join(root, prefix)))
    return CheckedSplit(split.name, split.dataset, dict(categories), frames, path, is_trained)


def _pack(entries: list[object], folder: str) -> Iterator[InfoFrame]:
    """Yield the frames of an info file, and let go of each entry."""
    for number, entry in enumerate(entries):
        points = entry.get("lidar_points") if isinstance(entry, Mapping) else None
        name = points.get("lidar_path") if isinstance(points, Mapping) else None
        cloud = os.path.normpath(os.path.join(folder, name)) if isinstance(name, str) and name else ""
        entries[number] = None
        yield InfoFrame(pickle.dumps(entry, protocol=5), cloud)
