"""The short way of a step: the same bits as torch's own, and torch's own wherever somebody watches."""

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from raydet3d.optim.bare import BareStep


def pair(kind, **kwargs):
    torch.manual_seed(0)
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    return models, [kind(model.parameters(), lr=0.1, **kwargs) for model in models]


def test_same_bits_for_every_optimizer():
    for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.NAdam):
        models, optimizers = pair(kind)
        bare = BareStep(optimizers[0])
        assert bare._inner is not None
        for _ in range(3):
            for model, step in zip(models, (bare, optimizers[1].step), strict=True):
                model.zero_grad()
                model(torch.ones(4, 3)).square().mean().backward()
                step()
        assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_who_watches_is_called():
    (model, _), (optimizer, _) = pair(torch.optim.SGD)
    bare, seen = BareStep(optimizer), []
    model(torch.ones(4, 3)).sum().backward()
    handle = optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    bare()
    handle.remove()
    handle = optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    bare()
    handle.remove()
    handle = register_optimizer_step_pre_hook(lambda *_: seen.append("all"))
    bare()
    handle.remove()
    bare()
    assert seen == ["pre", "post", "all"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        bare()
    assert any("Optimizer.step" in event.key for event in profile.key_averages())
    optimizer.step = lambda: seen.append("own")
    bare()
    assert seen[-1] == "own"


def test_a_step_of_a_users_own():
    class Mine(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self, closure=None):
            for group in self.param_groups:
                for param in group["params"]:
                    param.data.fill_(7.0)

    model = nn.Linear(1, 1)
    BareStep(Mine(model.parameters()))()
    assert model.weight.item() == 7
