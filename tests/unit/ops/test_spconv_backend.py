"""spconv as back end of sparse convolutions: its weights, the refusal without it, and equality with ours where it is.

Equality runs where spconv is installed: `pip install spconv` on a CPU, `spconv-cu126` or the like on a GPU.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.models import SparseConv3d, SparseConvTensor, SparseEncoder, SparseInverseConv3d, SubMConv3d
from raydet3d.ops.spconv_backend import to_spconv_weight
from tests.kit.close import assert_close

SHAPE = (7, 9, 8)
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(not find_spec("spconv"), reason="spconv is not installed")),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(
                not (torch.cuda.is_available() and find_spec("spconv")), reason="spconv or a GPU is not here"
            ),
        ],
    ),
]


def cells(channels: int, device: str, backend: str) -> SparseConvTensor:
    generator = torch.Generator().manual_seed(0)
    indices = (torch.rand(2, *SHAPE, generator=generator) < 0.2).nonzero()
    features = torch.randn(len(indices), channels, generator=generator)
    return SparseConvTensor(features.to(device).requires_grad_(), indices.to(device), SHAPE, 2, backend=backend)


class Chain(nn.Module):
    """Every kind of convolution, with what they share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SubMConv3d(4, 8, 3, padding=1)
        self.second = SubMConv3d(8, 8, 3, padding=1, bias=False)
        self.pointwise = SubMConv3d(8, 8, 1)
        self.down = SparseConv3d(8, 16, 3, stride=2, padding=(0, 1, 1), indice_key="down")
        self.wide = SubMConv3d(16, 16, 3, dilation=2)
        self.last = SparseConv3d(16, 8, (3, 1, 1), stride=(2, 1, 1))
        self.up = SparseInverseConv3d(16, 4, 3, indice_key="down")

    def forward(self, x: SparseConvTensor) -> tuple[SparseConvTensor, SparseConvTensor]:
        x = self.wide(self.down(self.pointwise(self.second(self.first(x)))))
        return self.last(x), self.up(x)


def test_weights_are_permuted_to_the_layout_of_spconv_2_and_back() -> None:
    layer = SubMConv3d(4, 6, (3, 1, 2))
    given = to_spconv_weight(layer.weight)
    assert given.shape == (6, 3, 1, 2, 4)
    assert given.is_contiguous()
    assert given[5, 2, 0, 1, 3] == layer.weight[2, 0, 1, 3, 5]
    assert torch.equal(layer.adapt_weight(given), layer.weight)


def test_a_model_that_asks_for_spconv_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
    with pytest.raises(InputError, match=r"backend='spconv' needs spconv 2") as caught:
        SparseEncoder(4, [41, 32, 32], backend="spconv")
    assert "\n" not in str(caught.value)
    assert "pip install" in str(caught.value)


def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(InputError, match="'torch' or 'spconv'"):
        SparseEncoder(4, [41, 32, 32], backend="spcnov")


def test_an_empty_cloud_is_left_to_torch() -> None:
    x = SparseConvTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32), SHAPE, 2, backend="spconv")
    last, up = Chain()(x)
    assert len(last.features) == len(up.features) == 0
    assert last.backend == "spconv"


@pytest.mark.parametrize("device", DEVICES)
def test_outputs_equal_those_of_torch(device: str) -> None:
    torch.manual_seed(0)
    net = Chain().to(device)
    with torch.no_grad():
        ours, theirs = (net(cells(4, device, backend)) for backend in ("torch", "spconv"))
    for one, two in zip(ours, theirs, strict=True):
        assert two.spatial_shape == one.spatial_shape
        assert_close(two.dense(), one.dense(), rtol=1e-3, atol=1e-5)
    assert torch.equal(theirs[1].indices.long(), ours[1].indices.long())
    assert theirs[1].cells.spconv_pairs
    assert not ours[1].cells.spconv_pairs


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_equal_those_of_torch(device: str) -> None:
    """On a CPU, where spconv has none, these are torch's."""
    torch.manual_seed(0)
    net = Chain().to(device)
    results = []
    for backend in ("torch", "spconv"):
        net.zero_grad()
        x = cells(4, device, backend)
        last, up = net(x)
        weight = torch.linspace(-1, 1, last.dense().numel(), device=device).view_as(last.dense())
        ((last.dense() * weight).sum() + (up.dense() ** 2).sum()).backward()
        results.append([x.features.grad, *(p.grad for p in net.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None
        assert theirs is not None
        assert_close(theirs, ours, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))


@pytest.mark.parametrize("device", DEVICES)
def test_submanifold_layers_search_once_and_keep_the_pairs_of_torch_apart(device: str) -> None:
    x = cells(4, device, "spconv")
    net = Chain().to(device)
    with torch.no_grad():
        net(x)
    assert len(x.cells.spconv_pairs) == 1  # not found again for the second layer
    assert list(x.cells.pairs) == [((1, 1, 1), (1, 1, 1))]


@pytest.mark.parametrize("device", DEVICES)
def test_a_deterministic_run_is_refused(device: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with torch.no_grad(), pytest.raises(InputError, match="backend='torch'"):
            SubMConv3d(4, 4, 3).to(device)(cells(4, device, "spconv"))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
def test_outputs_have_the_type_of_autocast(device: str, amp: torch.dtype) -> None:
    if device == "cpu" and amp == torch.float16:
        pytest.skip("spconv's kernels for a CPU compute in float32")
    layer, x = SubMConv3d(4, 8, 3).to(device), cells(4, device, "spconv")
    with torch.no_grad(), torch.autocast(device, amp):
        out = layer(x)
    assert out.features.dtype == amp
    want = layer(cells(4, device, "torch")).features
    assert_close(out.features.float(), want.detach(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_the_encoder_of_second_equals_its_torch_form(device: str) -> None:
    torch.manual_seed(0)
    one, two = (SparseEncoder(4, [41, 32, 40], backend=name).to(device).eval() for name in ("torch", "spconv"))
    two.load_state_dict(one.state_dict())
    indices = (torch.rand(2, 40, 32, 40, generator=torch.Generator().manual_seed(1)) < 0.02).nonzero().int().to(device)
    features = torch.randn(len(indices), 4, device=device)
    with torch.no_grad():
        assert_close(two(features, indices, 2), one(features, indices, 2), rtol=1e-3, atol=1e-4)
