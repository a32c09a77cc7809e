"""`pillar_max` against its plain definition: values, and gradients of weight, scale and shift."""

import torch

from raydet3d.ops.pillar_max import pillar_max, pillar_max_reference


def test_equals_the_reference_with_negative_scales_and_ties():
    torch.manual_seed(0)
    lengths = torch.randint(1, 6, (30,))
    pillar = torch.repeat_interleave(lengths)
    points = torch.randn(len(pillar), 4, dtype=torch.float64)
    points[1] = points[0]
    arguments = [torch.randn(8, 4), torch.randn(8), torch.randn(8)]
    results = []
    for function in (pillar_max, pillar_max_reference):
        own = [a.double().requires_grad_() for a in arguments]
        out = function(points, pillar, lengths < 5, *own)
        grad = torch.arange(out.numel(), dtype=torch.float64).view_as(out)
        results.append((out, *torch.autograd.grad(out, own, grad)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
