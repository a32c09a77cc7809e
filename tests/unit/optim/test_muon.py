"""``MuonAdamW``: matrices against torch's Muon, vectors against torch's AdamW, orthogonality against the SVD."""

import pytest
import torch
from torch import nn

from raydet3d.errors import InputError
from raydet3d.optim.muon import MuonAdamW, orthogonal


def trained(make, *, steps=4):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizers = make(model)
    for seed in range(steps):
        data = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(data).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return list(model.parameters())


def test_linear_layers_are_torchs_muon_and_biases_its_adamw() -> None:
    def ours(model):
        return [MuonAdamW(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.05, betas=(0.9, 0.99))]

    def theirs(model):
        matrices = [p for p in model.parameters() if p.ndim == 2]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        return [
            torch.optim.Muon(matrices, lr=0.02, momentum=0.9, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(vectors, lr=0.02, betas=(0.9, 0.99), weight_decay=0.05),
        ]

    for mine, other in zip(trained(ours), trained(theirs), strict=True):
        # torch iterates in bfloat16 (8 bits), ours in the weight's own type.
        torch.testing.assert_close(mine, other, atol=2e-3 if mine.ndim == 2 else 1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_orthogonal_keeps_directions_and_levels_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    levelled = u.T @ orthogonal(matrix) @ v.T
    values = levelled.diagonal()
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert (levelled - values.diag()).abs().max() < 1e-4


def test_a_convolution_is_a_matrix_of_outputs_by_the_rest() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(4, 3, 2, 2))
    flat = nn.Parameter(kernel.detach().reshape(4, -1).clone())
    gradient = torch.randn(4, 3, 2, 2)
    for weight in (kernel, flat):
        weight.grad = gradient.reshape(weight.shape)
        MuonAdamW([weight], lr=0.1).step()
    torch.testing.assert_close(kernel.reshape(4, -1), flat)


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(InputError, match="lr must be a number of at least 0"):
        MuonAdamW([nn.Parameter(torch.ones(1))], lr=-1.0)
