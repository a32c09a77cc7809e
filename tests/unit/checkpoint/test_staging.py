"""Copies on the host: equal to the state at that moment, in memory of their own that is used again."""

from __future__ import annotations

import torch

from raydet3d.checkpoint.staging import HostStaging


def test_nested_tensors_are_copied() -> None:
    tensor = torch.zeros(2, requires_grad=True)
    copy = HostStaging().take({"a": [tensor, (1, tensor)], "b": "x"})
    with torch.no_grad():
        tensor += 1
    assert copy["a"][0].sum() == copy["a"][1][1].sum() == 0
    assert not copy["a"][0].requires_grad
    assert copy["b"] == "x"


def test_buffers_are_reused_for_equal_shapes_and_types() -> None:
    copies = HostStaging()
    state = {"w": torch.arange(6.0).view(2, 3), "list": [torch.ones(2, dtype=torch.int64)]}
    first = copies.take(state)
    where = first["w"].data_ptr()
    assert where != state["w"].data_ptr()
    state["w"] = state["w"] * 2
    again = copies.take(state)
    assert again["w"].data_ptr() == where
    assert torch.equal(again["w"], state["w"])
    state["w"] = state["w"].t()
    other = copies.take(state)
    assert torch.equal(other["w"], state["w"])
    assert other["w"].stride() == state["w"].stride()
    state["w"] = state["w"].to(torch.float16)
    assert copies.take(state)["w"].dtype == torch.float16


def test_memory_format_is_kept_and_sparse_tensors_are_copied() -> None:
    image = torch.randn(1, 3, 4, 4).to(memory_format=torch.channels_last)
    sparse = torch.eye(3).to_sparse()
    copy = HostStaging().take({"image": image, "sparse": sparse, "wide": torch.ones(1).expand(3)})
    assert copy["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(copy["sparse"].to_dense(), torch.eye(3))
    assert copy["wide"].tolist() == [1, 1, 1]
