"""Every optimizer of the installed torch is there under its name, and builds."""

import inspect
import subprocess
import sys

import pytest
import torch

from raydet3d.optim import TORCH_OPTIMIZERS, build_optim_wrapper
from raydet3d.registry import OPTIMIZERS

OURS = [
    name
    for name, thing in vars(torch.optim).items()
    if inspect.isclass(thing) and issubclass(thing, torch.optim.Optimizer) and thing is not torch.optim.Optimizer
]


def test_all_are_there():
    assert {"SGD", "Adam", "AdamW", "Muon", "Adafactor", "SparseAdam", "LBFGS"} <= set(OURS) <= set(OPTIMIZERS)
    assert OPTIMIZERS.get("TorchAdafactor") is torch.optim.Adafactor
    assert "Optimizer" not in TORCH_OPTIMIZERS


@pytest.mark.parametrize("name", [name for name in OURS if name not in ("LBFGS", "SparseAdam")])
def test_a_step_is_torchs(name):
    ours, theirs = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
    theirs.load_state_dict(ours.state_dict())
    wrapper = build_optim_wrapper(ours, {"optimizer": {"type": name, "lr": 0.1}})
    reference = getattr(torch.optim, name)(theirs.parameters(), lr=0.1)
    for i in range(3):
        x = torch.randn(2, 4, generator=torch.Generator().manual_seed(i))
        wrapper.update_params(ours(x).square().sum())
        reference.zero_grad()
        theirs(x).square().sum().backward()
        reference.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_no_deprecation_warnings_at_import():
    code = "import torch, warnings; warnings.simplefilter('error'); import raydet3d.optim"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
