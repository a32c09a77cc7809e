"""`CBGSDataset`: balanced classes, drawn from the run's seed."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from raydet3d.data import CBGSDataset
from raydet3d.errors import InputError
from raydet3d.registry import DATASETS
from raydet3d.runtime.loaders import build_dataloader, release


class Labelled:
    """Samples 0, 1, ... with given labels; a sample is its number and a draw."""

    def __init__(self, labels: list[set[int]], classes: tuple[str, ...] = ("car", "bus")) -> None:
        self.labels = labels
        self.metainfo = {"classes": classes}

    def __len__(self) -> int:
        return len(self.labels)

    def get_cat_ids(self, index: int) -> set[int]:
        return self.labels[index]

    def get_data_info(self, index: int) -> dict[str, int]:
        return {"sample_idx": index}

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(np.random.rand())


LABELS = [{0}] * 17 + [{0, 1}] * 3 + [{-1}] * 2


def test_each_class_gets_the_mean_number_of_samples() -> None:
    np.random.seed(0)
    dataset = CBGSDataset(Labelled(LABELS))
    # 20 samples with cars and 3 with buses: 23 / 2 for each.
    assert len(dataset) == 11 + 11
    assert all(index < 20 for index in dataset.sample_indices[:11])
    assert set(dataset.sample_indices[11:]) <= {17, 18, 19}
    assert dataset.get_cat_ids(11) == {0, 1}
    assert dataset.get_data_info(3) == {"sample_idx": dataset.sample_indices[3]}
    assert dataset[5][0] == dataset.sample_indices[5]
    assert dataset.metainfo == {"classes": ("car", "bus")}
    with pytest.raises(IndexError, match="22"):
        dataset[22]


def test_draws_are_those_of_numpys_global_generator() -> None:
    np.random.seed(4)
    expected = np.random.choice(20, 11).tolist() + np.random.choice([17, 18, 19], 11).tolist()
    np.random.seed(4)
    assert CBGSDataset(Labelled(LABELS)).sample_indices == expected


def test_classes_that_no_sample_holds_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="raydet3d"):
        assert len(CBGSDataset(Labelled(LABELS, ("car", "bus", "tram")))) == 7 + 7
    assert "tram" in caplog.text
    with pytest.raises(InputError, match="no sample holds an object of car, bus"):
        CBGSDataset(Labelled([{-1}, set()]))


def loader(workers: int, seed: int = 7) -> Any:
    cfg = {
        "batch_size": 4,
        "num_workers": workers,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "dataset": {"type": "CBGSDataset", "dataset": {"type": "CBGSLabelled", "labels": LABELS}},
        "collate_fn": {"type": "pseudo_collate"},
    }
    return build_dataloader(cfg, seed=seed)


@pytest.fixture
def _registered() -> Any:
    DATASETS.register_module(name="CBGSLabelled", module=Labelled)
    yield
    DATASETS.module_dict.pop("CBGSLabelled", None)


@pytest.mark.usefixtures("_registered")
def test_samples_and_their_draws_depend_on_the_seed_alone() -> None:
    def epochs(workers: int, seed: int = 7, disturb: int = 0) -> list[Any]:
        np.random.seed(disturb)
        one = loader(workers, seed)
        found = []
        for epoch in range(2):
            one.batch_sampler.set_position(epoch)
            found.append(list(one))
        release(one)
        return found

    first = epochs(0)
    assert epochs(1, disturb=1) == first
    assert epochs(2, disturb=2) == first
    assert epochs(0, seed=8) != first
    numbers = [number for batch in first[0] for number in batch[0]]
    assert Counter(number >= 17 for number in numbers)[True] >= 11
    # Two passes have the same samples in another order.
    assert sorted(numbers) == sorted(number for batch in first[1] for number in batch[0])


@pytest.mark.usefixtures("_registered")
def test_a_resumed_epoch_continues_with_the_same_samples() -> None:
    one = loader(0)
    one.batch_sampler.set_position(1)
    whole = list(one)
    again = loader(0)
    again.batch_sampler.set_position(1, 3)
    assert list(again) == whole[3:]


@pytest.mark.usefixtures("_registered")
def test_building_a_data_set_leaves_the_generators_as_they_were() -> None:
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    loader(0)
    assert np.random.rand() == expected
