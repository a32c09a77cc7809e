"""Dataset wrappers: repeat one data set, concatenate several, balance the classes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from raydet3d.config import ConfigDict, PartCfg
from raydet3d.data.dataset import check_dataset
from raydet3d.data.pipeline import Sample
from raydet3d.data.seeded import MapDataset
from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.registry import DATASETS


class WrappedDataset(MapDataset, Protocol):
    """What the wrappers ask of a data set."""

    @property
    def metainfo(self) -> Mapping[str, Any]:
        """Return the meta information."""

    def get_data_info(self, index: int) -> Sample:
        """Return the sample before the pipeline."""

    def disable_transform(self, type_name: str, from_epoch: int) -> int:
        """Skip transforms from an epoch on."""


def _build(dataset: WrappedDataset | PartCfg) -> WrappedDataset:
    built: WrappedDataset = DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
    return built


@DATASETS.register_module()
class RepeatDataset(Dataset[Any]):
    """Repeat a data set: one epoch passes over it `times` times, each time with other augmentation.

    Args:
        dataset: A data set or its config.
        times: Number of repetitions.
        lazy_init: Read info files on first use only.
    """

    def __init__(self, dataset: WrappedDataset | PartCfg, times: int, lazy_init: bool = False) -> None:
        if times < 1:
            raise InputError(f"RepeatDataset: times must be at least 1, got {times!r}")
        self.dataset = _build(dataset)
        self.times = int(times)
        if not lazy_init:
            self.full_init()

    @classmethod
    def check_data(cls, cfg: ConfigDict) -> None:
        """Check the data of the repeated data set."""
        if isinstance(cfg.get("dataset"), Mapping):
            check_dataset(cfg["dataset"])

    @property
    def metainfo(self) -> dict[str, Any]:
        """Return the meta information of the repeated data set."""
        return dict(self.dataset.metainfo)

    def full_init(self) -> None:
        """Read the info file of the repeated data set."""
        if hasattr(self.dataset, "full_init"):
            self.dataset.full_init()

    def disable_transform(self, type_name: str, from_epoch: int) -> int:
        """Disable transforms of the repeated data set."""
        return int(self.dataset.disable_transform(type_name, from_epoch))

    def get_data_info(self, index: int) -> Any:
        """Return the sample before the pipeline."""
        return self.dataset.get_data_info(index % len(self.dataset))

    def __len__(self) -> int:
        return self.times * len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return a sample."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        return self.dataset[index % len(self.dataset)]


@DATASETS.register_module()
class ConcatDataset(Dataset[Any]):
    """Concatenate data sets with the same classes.

    Args:
        datasets: Data sets or their configs.
        lazy_init: Read info files on first use only.
        ignore_keys: Names of meta information that may differ between them; `classes` is compared unless named.
    """

    def __init__(
        self,
        datasets: Sequence[WrappedDataset | PartCfg],
        lazy_init: bool = False,
        ignore_keys: str | Sequence[str] | None = None,
    ) -> None:
        if not datasets:
            raise InputError("ConcatDataset: datasets is empty")
        self.datasets = [_build(dataset) for dataset in datasets]
        ignored = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        self._ends: list[int] = []
        if not lazy_init:
            self.full_init()
        first = self.datasets[0].metainfo
        for number, dataset in enumerate(self.datasets[1:], 1):
            expected, found = first.get("classes"), dataset.metainfo.get("classes")
            if "classes" not in ignored and expected != found:
                raise InputError(f"ConcatDataset: datasets[0] has classes {expected}, datasets[{number}] has {found}")

    @classmethod
    def check_data(cls, cfg: ConfigDict) -> None:
        """Check the data of all data sets."""
        for dataset in cfg.get("datasets", ()):
            if isinstance(dataset, Mapping):
                check_dataset(dataset)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Return the meta information of the first data set."""
        return dict(self.datasets[0].metainfo)

    def full_init(self) -> None:
        """Read the info files of all data sets."""
        for dataset in self.datasets:
            if hasattr(dataset, "full_init"):
                dataset.full_init()
        self._ends = list(accumulate(len(dataset) for dataset in self.datasets))

    def disable_transform(self, type_name: str, from_epoch: int) -> int:
        """Disable transforms of all data sets."""
        return sum(dataset.disable_transform(type_name, from_epoch) for dataset in self.datasets)

    def get_data_info(self, index: int) -> Any:
        """Return the sample before the pipeline."""
        dataset, inner = self._find(index)
        return dataset.get_data_info(inner)

    def __len__(self) -> int:
        if not self._ends:
            self.full_init()
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        """Return a sample."""
        dataset, inner = self._find(index)
        return dataset[inner]

    def _find(self, index: int) -> tuple[WrappedDataset, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        return self.datasets[number], index - (self._ends[number - 1] if number else 0)


class LabelledDataset(Protocol):
    """A data set that knows the labels of each sample."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def get_cat_ids(self, index: int) -> set[int]:
        """Return the labels of a sample's objects."""


@DATASETS.register_module()
class CBGSDataset(Dataset[Any]):
    """Resample a data set so that each class occurs in equally many samples of an epoch.

    The samples are drawn once, with replacement, from numpy's global generator, which a run seeds: they are the same
    on all ranks and after a resume. Source: Zhu et al., "Class-balanced Grouping and Sampling for Point Cloud 3D Object
    Detection", 2019.

    Args:
        dataset: A data set that has `get_cat_ids`, or its config.
        lazy_init: Read the info file and draw on first use only.
    """

    def __init__(self, dataset: WrappedDataset | PartCfg, lazy_init: bool = False) -> None:
        self.dataset: Any = _build(dataset)
        self.sample_indices: list[int] = []
        if not lazy_init:
            self.full_init()

    @classmethod
    def check_data(cls, cfg: ConfigDict) -> None:
        """Check the data of the resampled data set."""
        dataset = cfg.get("dataset")
        if isinstance(dataset, Mapping):
            check_dataset(dataset)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Return the meta information of the resampled data set."""
        return dict(self.dataset.metainfo)

    def full_init(self) -> None:
        """Read the info file and draw the samples; only the first call does anything."""
        if self.sample_indices:
            return
        if hasattr(self.dataset, "full_init"):
            self.dataset.full_init()
        self.sample_indices = self._get_sample_indices(self.dataset)

    def _get_sample_indices(self, dataset: LabelledDataset) -> list[int]:
        """Draw, for each class, samples that hold it: as many as the mean over the classes."""
        classes = self.metainfo["classes"]
        holding: dict[int, list[int]] = {label: [] for label in range(len(classes))}
        for index in range(len(dataset)):
            for label in dataset.get_cat_ids(index):
                if label in holding:
                    holding[label].append(index)
        missing = [name for label, name in enumerate(classes) if not holding[label]]
        if len(missing) == len(classes):
            raise InputError(f"CBGSDataset: no sample holds an object of {', '.join(classes)}")
        if missing:
            get_logger().warning("CBGSDataset: no sample holds %s; the other classes are balanced", ", ".join(missing))
        total = sum(map(len, holding.values()))
        drawn: list[int] = []
        for indices in filter(None, holding.values()):
            # In this order of operations, so that rounding gives MMDetection3D's numbers.
            count = int(len(indices) * ((1.0 / len(classes)) / (len(indices) / total)))
            drawn += np.random.choice(indices, count).tolist()
        return drawn

    def disable_transform(self, type_name: str, from_epoch: int) -> int:
        """Disable transforms of the resampled data set."""
        return int(self.dataset.disable_transform(type_name, from_epoch))

    def get_cat_ids(self, index: int) -> set[int]:
        """Return the labels of a sample's objects."""
        labels: set[int] = self.dataset.get_cat_ids(self._indices()[index])
        return labels

    def get_data_info(self, index: int) -> Any:
        """Return the sample before the pipeline."""
        return self.dataset.get_data_info(self._indices()[index])

    def __len__(self) -> int:
        return len(self._indices())

    def __getitem__(self, index: int) -> Any:
        """Return a sample."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        return self.dataset[self.sample_indices[index]]

    def _indices(self) -> list[int]:
        self.full_init()
        return self.sample_indices
