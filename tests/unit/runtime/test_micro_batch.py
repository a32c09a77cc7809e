"""An iteration in parts: gradients and logged numbers against the same batch in one piece."""

from __future__ import annotations

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.optim import OptimWrapper
from raydet3d.runtime.micro_batch import batch_length, divide, train_in_parts
from tests.kit.toy import ToyData, ToyModel


def batch_of(count: int) -> dict:
    samples = [ToyData(noise=0)[i] for i in range(count)]
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def setup() -> tuple[ToyModel, OptimWrapper]:
    torch.manual_seed(0)
    model = ToyModel(dropout=0.0)
    return model, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))


def test_equal_micro_batches_give_the_gradients_of_the_whole_batch() -> None:
    whole, wrapper = setup()
    expected = whole.train_step(batch_of(6), wrapper)
    model, wrapper = setup()
    out = train_in_parts(model, batch_of(6), wrapper, [1 / 3] * 3)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value)
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert wrapper.inner_count == 1


def test_accumulation_counts_iterations_and_not_parts() -> None:
    torch.manual_seed(0)
    model = ToyModel(dropout=0.0)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    before = model.first.weight.detach().clone()
    train_in_parts(model, batch_of(4), wrapper, [0.5, 0.5])
    assert torch.equal(model.first.weight, before)
    train_in_parts(model, batch_of(4), wrapper, [0.5, 0.5])
    assert not torch.equal(model.first.weight, before)


def test_nested_batches_are_divided_by_sample() -> None:
    batch = {"inputs": {"points": [10, 11, 12], "rows": torch.arange(6).reshape(3, 2)}, "data_samples": (1, 2, 3)}
    assert batch_length(batch) == 3
    part = divide(batch, 0, 2, 3)
    assert part["inputs"]["points"] == [10, 12]
    assert part["inputs"]["rows"].tolist() == [[0, 1], [4, 5]]
    assert part["data_samples"] == (1, 3)


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match=r"lengths \[2, 3\]: they cannot be divided"):
        batch_length({"a": [1, 2], "b": [1, 2, 3]})
    with pytest.raises(InputError, match="object cannot train on an iteration in parts"):
        train_in_parts(None, {}, object(), [0.5, 0.5])
