"""Pillar features: decoration by hand, and the form that skips empty slots against the one that computes them all
(which is the published definition): outputs, running statistics, gradients."""

import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.registry import MODELS

RANGE = [0, -2, -3, 4, 2, 1]


def make(**kwargs):
    return MODELS.build(
        {
            "type": "PillarFeatureNet",
            "voxel_size": [0.5, 0.5, 4],
            "point_cloud_range": RANGE,
            "feat_channels": [16],
            **kwargs,
        }
    )


def pillars(seed=0, count=40, slots=5, dtype=torch.float64, twins=True):
    """Pillars with 1 to `slots` points; some hold the same point twice."""
    generator = torch.Generator().manual_seed(seed)
    num_points = torch.randint(1, slots + 1, (count,), generator=generator)
    num_points[0] = slots
    place = torch.randperm(64, generator=generator)[:count]
    coors = torch.stack((torch.zeros(count).long(), torch.zeros(count).long(), place // 8, place % 8), 1)
    low = torch.stack((coors[:, 3] * 0.5, coors[:, 2] * 0.5 - 2, torch.full((count,), -3.0)), 1)
    voxels = torch.rand(count, slots, 4, generator=generator) * torch.tensor([0.5, 0.5, 4, 1])
    voxels[..., :3] += low[:, None]
    if twins:
        voxels[:4, 1] = voxels[:4, 0]
        num_points[:4] = num_points[:4].clamp(min=2)
    filled = torch.arange(slots) < num_points[:, None]
    return (voxels * filled[..., None]).to(dtype), num_points.int(), coors.int()


def test_decoration_by_hand():
    """One pillar at cell (y 1, x 2) of 0.5 m: centre (1.25, -1.25, -1); two points, mean (1.1, -1.2, -1.5)."""
    voxels = torch.tensor([[[1.0, -1.4, -2.0, 0.3], [1.2, -1.0, -1.0, 0.7], [0, 0, 0, 0]]])
    coors = torch.tensor([[0, 0, 1, 2]])
    wanted = [
        [-0.25, -0.15, -1.0, 0.3, -0.1, -0.2, -0.5, -0.25, -0.15, -1.0],
        [-0.05, 0.25, 0.0, 0.7, 0.1, 0.2, 0.5, -0.05, 0.25, 0.0],
    ]
    seen = {}
    for legacy in (True, False):
        net = make(legacy=legacy, padded=True)
        net.pfn_layers[0].register_forward_pre_hook(lambda _, args, key=legacy: seen.update({key: args[0]}))
        net(voxels, torch.tensor([2]), coors)
    torch.testing.assert_close(seen[True][0, :2], torch.tensor(wanted), atol=1e-6, rtol=0)
    assert seen[True][0, 2].abs().max() == 0
    # Without the quirk the first three numbers stay the point's own.
    torch.testing.assert_close(seen[False][0, :2, :3], voxels[0, :2, :3])
    torch.testing.assert_close(seen[False][0, :2, 3:], torch.tensor(wanted)[:, 3:], atol=1e-6, rtol=0)


def test_distance_comes_last_and_sees_the_quirk():
    voxels, num_points, coors = (
        torch.tensor([[[1.0, -1.4, -2.0, 0.3]]]),
        torch.tensor([1]),
        torch.tensor([[0, 0, 1, 2]]),
    )
    seen = []
    net = make(with_distance=True, padded=True).eval()  # one point alone has no variance
    net.pfn_layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(voxels, num_points, coors)
    assert seen[0].shape == (1, 1, 11)
    assert seen[0][0, 0, 10].item() == pytest.approx((0.25**2 + 0.15**2 + 1) ** 0.5, abs=1e-6)


def pair(seed=0, **kwargs):
    torch.manual_seed(seed)
    slow = make(padded=True, **kwargs).double()
    norm = slow.pfn_layers[0].norm
    with torch.no_grad():
        norm.weight.copy_(torch.randn(16))  # negative scales too: there the smallest value wins
        norm.bias.copy_(torch.randn(16))
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    fast = make(padded=False, **kwargs).double()
    fast.load_state_dict(slow.state_dict())
    return slow, fast


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.01, None])
def test_skipping_empty_slots_changes_nothing(legacy, training, momentum):
    norm_cfg = {"type": "BN1d", "eps": 1e-3, "momentum": momentum}
    slow, fast = pair(legacy=legacy, norm_cfg=norm_cfg)
    for seed in range(2):
        batch = pillars(seed)
        grad = torch.randn(40, 16, dtype=torch.float64)
        for net in (slow, fast):
            net.train(training)
            net.zero_grad()
            net(*batch).backward(grad)
        torch.testing.assert_close(fast(*batch), slow(*batch), rtol=1e-12, atol=1e-12)
        for (name, mine), theirs in zip(fast.named_parameters(), slow.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-11, msg=name)
    for (name, mine), theirs in zip(fast.named_buffers(), slow.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12, msg=name)


def test_the_same_in_float32():
    slow, fast = (net.float() for net in pair())
    batch = pillars(dtype=torch.float32)
    torch.testing.assert_close(fast(*batch), slow(*batch), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(
        fast.pfn_layers[0].norm.running_var, slow.pfn_layers[0].norm.running_var, rtol=1e-5, atol=1e-6
    )


def test_gradient_by_finite_differences():
    _, fast = pair()
    fast.eval()  # statistics that do not move between the evaluations
    batch = pillars(count=6, twins=False)
    norm = fast.pfn_layers[0].norm
    parameters = [fast.pfn_layers[0].linear.weight, norm.weight, norm.bias]
    assert torch.autograd.gradcheck(lambda *_: fast(*batch), parameters, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("padded", [True, False])
def test_no_pillars_at_all(padded):
    """Nothing comes out, statistics stay, and every weight has a gradient (distributed training waits for it)."""
    net = make(padded=padded)
    before = {name: value.clone() for name, value in net.named_buffers()}
    out = net(torch.zeros(0, 5, 4), torch.zeros(0, dtype=torch.int32), torch.zeros(0, 4, dtype=torch.int32))
    assert out.shape == (0, 16)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_full_and_single_pillars():
    """One pillar, one point, one slot: no empty slot anywhere."""
    slow, fast = pair()
    batch = pillars(count=3, slots=1, twins=False)
    torch.testing.assert_close(fast(*batch), slow(*batch), rtol=1e-10, atol=1e-10)


def test_autocast_does_not_touch_points():
    slow, fast = (net.float() for net in pair())
    batch = pillars(dtype=torch.float32)
    wanted = fast(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert slow(*batch).dtype == torch.float32
        torch.testing.assert_close(fast(*batch), wanted, rtol=1e-3, atol=1e-3)


def test_several_layers_and_mean_pooling():
    net = make(feat_channels=[8, 16])
    assert net.pfn_layers[0].linear.weight.shape == (4, 10)
    assert net.pfn_layers[1].linear.weight.shape == (16, 8)
    assert net(*pillars(dtype=torch.float32)).shape == (40, 16)
    mean = make(mode="avg").eval()
    voxels, num_points, coors = pillars(dtype=torch.float32)
    top = make().eval()
    top.load_state_dict(mean.state_dict())
    assert (mean(voxels, num_points, coors) <= top(voxels, num_points, coors) + 1e-6).all()


def test_refuses():
    with pytest.raises(InputError, match="mode"):
        make(mode="sum")
    with pytest.raises(InputError, match="feat_channels"):
        make(feat_channels=[])
