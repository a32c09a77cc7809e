"""Every example of MMDetection3D's page on customising the runtime, as a user would try it: written down, and trained.

The examples stand here as on the page (a test holds them against it, where it is at hand). What the page leaves out is
filled in, and is all in ``FILLED`` and in the plug-ins below: method bodies, imports, values, an optimizer where the
example is about something else, and the rest of a config (``BASE``: a small network on made-up numbers, or the demo).
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.config import Config
from raydet3d.hooks import Hook
from raydet3d.runtime import Runner
from tests.kit.plug_in_folder import on_python_path, write
from tests.kit.shared import SHARED

ROOT = Path(__file__).resolve().parents[2]
PAGE = SHARED / "spec" / "runtime_guide.zh.txt"

EXAMPLES = {
    "adamw": """
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=0.0001,
        weight_decay=0.05,
        eps=1e-8,
        betas=(0.9, 0.999)),
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1, decay_mult=1.0),
        },
        norm_decay_mult=0.0),
    clip_grad=dict(max_norm=0.01, norm_type=2))
""",
    "adam": """
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=0.0003, weight_decay=0.0001))
""",
    "sgd": """
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001))
""",
    "import_optimizer": """
custom_imports = dict(imports=['mmdet3d.engine.optimizers.my_optimizer'], allow_failed_imports=False)
""",
    "my_optimizer": """
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='MyOptimizer', a=a_value, b=b_value, c=c_value))
""",
    "delete": """
optim_wrapper = dict( _delete_=True, clip_grad=dict(max_norm=35, norm_type=2))
""",
    "momentum": """
param_scheduler = [
    dict( type='CosineAnnealingLR', T_max=8, eta_min=lr * 10, begin=0, end=8, by_epoch=True,
         convert_to_iter_based=True),
    dict( type='CosineAnnealingLR', T_max=12, eta_min=lr * 1e-4, begin=8, end=20, by_epoch=True,
         convert_to_iter_based=True),
    dict( type='CosineAnnealingMomentum', T_max=8, eta_min=0.85 / 0.95, begin=0, end=8, by_epoch=True,
         convert_to_iter_based=True),
    dict( type='CosineAnnealingMomentum', T_max=12, eta_min=1, begin=8, end=20, by_epoch=True,
         convert_to_iter_based=True) ]
""",
    "poly": """
param_scheduler = [ dict( type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=8, by_epoch=True)]
""",
    "cosine": """
param_scheduler = [ dict( type='CosineAnnealingLR', T_max=8, eta_min=lr * 1e-5, begin=0, end=8, by_epoch=True)]
""",
    "epoch_loop": """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_begin=1, val_interval=1)
""",
    "iter_loop": """
interval = 5000
max_iters = 368750
dynamic_intervals = [(max_iters // interval * interval + 1, max_iters)]
train_cfg = dict(
    type='IterBasedTrainLoop',
    max_iters=max_iters,
    val_interval=interval,
    dynamic_intervals=dynamic_intervals)
""",
    "import_hook": """
custom_imports = dict(imports=['mmdet3d.engine.hooks.my_hook'], allow_failed_imports=False)
""",
    "my_hook": """
custom_hooks = [
    dict(type='MyHook', a=a_value, b=b_value)
]
""",
    "my_hook_priority": """
custom_hooks = [
    dict(type='MyHook', a=a_value, b=b_value, priority='NORMAL')
]
""",
    "object_sample": """
custom_hooks = [dict(type='DisableObjectSampleHook', disable_after_epoch=15)]
""",
    "checkpoint": """
default_hooks = dict(
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_optimizer=True))
""",
    "logger": """
default_hooks = dict(logger=dict(type='LoggerHook', interval=50))
""",
    "visualization": """
default_hooks = dict(
    visualization=dict(type='Det3DVisualizationHook', draw=True))
""",
    "backends": """
vis_backends = [dict(type='LocalVisBackend'),
                dict(type='TensorboardVisBackend')]
visualizer = dict(
    type='Det3DLocalVisualizer', vis_backends=vis_backends, name='visualizer')
""",
}

# What is put before an example: values that the page leaves open, and parts of a config that it does not speak of.
FILLED = {
    "my_optimizer": "a_value, b_value, c_value = None, 0.05, 0.5\n",  # `a` is where the parameters arrive
    "momentum": "lr = 0.001\n",
    "cosine": "lr = 0.001\n",
    "my_hook": "a_value, b_value = 'first', 2\n",
    "my_hook_priority": "a_value, b_value = 'first', 2\n",
}
OPTIMIZER = "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.001))\n"

MY_OPTIMIZER = """
import torch
from torch.optim import Optimizer

from mmdet3d.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class MyOptimizer(Optimizer):

    def __init__(self, a, b, c):
        super().__init__(a, dict(lr=b, c=c))  # filled in

    @torch.no_grad()
    def step(self, closure=None):  # filled in
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    p.add_(p.grad, alpha=-group['lr'] * group['c'])
"""

MY_CONSTRUCTOR = """
from typing import Optional  # filled in

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.optim import OptimWrapper  # filled in
from torch import nn  # filled in

from mmdet3d.registry import OPTIM_WRAPPER_CONSTRUCTORS
from .my_optimizer import MyOptimizer


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MyOptimizerWrapperConstructor(DefaultOptimWrapperConstructor):

    def __init__(self,
                 optim_wrapper_cfg: dict,
                 paramwise_cfg: Optional[dict] = None):
        self.b = optim_wrapper_cfg['optimizer']['b']  # filled in
        self.factor = paramwise_cfg['head_factor']

    def __call__(self, model: nn.Module) -> OptimWrapper:
        groups = [dict(params=model.backbone.parameters()),  # filled in
                  dict(params=model.bbox_head.parameters(), lr=self.b * self.factor)]
        optim_wrapper = OptimWrapper(optimizer=MyOptimizer(groups, self.b, 0.5))
        return optim_wrapper
"""

MY_HOOK = """
from typing import Optional  # filled in

from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH  # filled in

from mmdet3d.registry import HOOKS

CALLS = []


@HOOKS.register_module()
class MyHook(Hook):

    def __init__(self, a, b):
        self.a, self.b = a, b
        CALLS.append(('__init__', a, b))

    def before_run(self, runner) -> None:
        CALLS.append('before_run')

    def after_run(self, runner) -> None:
        CALLS.append('after_run')

    def before_train(self, runner) -> None:
        CALLS.append('before_train')

    def after_train(self, runner) -> None:
        CALLS.append('after_train')

    def before_train_epoch(self, runner) -> None:
        CALLS.append('before_train_epoch')

    def after_train_epoch(self, runner) -> None:
        CALLS.append('after_train_epoch')

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: DATA_BATCH = None) -> None:
        CALLS.append(('before_train_iter', batch_idx, sorted(data_batch)))

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: DATA_BATCH = None,
                         outputs: Optional[dict] = None) -> None:
        CALLS.append(('after_train_iter', batch_idx, 'loss' in outputs))
"""

NET = """
import torch
from mmengine.model import BaseModel
from torch import nn


class Net(BaseModel):

    def __init__(self):
        super().__init__(init_cfg=dict(type='Normal', layer='Linear', std=0.3))
        self.backbone = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU())
        self.bbox_head = nn.Linear(16, 1)

    def forward(self, inputs, data_samples, mode='tensor'):
        out = self.bbox_head(self.backbone(torch.stack(inputs))).squeeze(1)
        if mode == 'loss':
            return dict(loss_fit=(out - torch.stack([s.target for s in data_samples])).square().mean())
        for sample, value in zip(data_samples, out):
            sample.prediction = value
        return data_samples
"""

BASE = """
model = dict(type='toy_net.Net')
train_dataloader = dict(batch_size=4, sampler=dict(type='DefaultSampler', shuffle=True),
                        dataset=dict(type='tests.kit.toy.ToyData', size=8))
val_dataloader = dict(batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(type='tests.kit.toy.ToyData', size=4, noise=0.0))
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
val_cfg = dict()
val_evaluator = dict(type='tests.kit.toy.ToyMetric')
visualizer = dict(type='Visualizer', vis_backends=[])
randomness = dict(seed=0)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder on the python path with the base config, and the network in it."""
    write(tmp_path, {"base.py": BASE, "toy_net.py": NET})
    with on_python_path(tmp_path):
        yield tmp_path


def config(home: Path, *names: str, more: str = "", options: dict[str, Any] | None = None) -> Config:
    """Examples as a config file of their own, over the base."""
    text = "_base_ = './base.py'\n" + more
    for name in names:
        text += FILLED.get(name, "") + EXAMPLES[name]
    (home / "example.py").write_text(text, encoding="utf-8")
    cfg = Config.fromfile(home / "example.py", options)
    cfg["work_dir"] = str(home / "work")
    return cfg


class Look(Hook):
    """Keeps the weights that training begins with, and after which iterations a validation came."""

    def before_train(self, runner: Any) -> None:
        self.validated: list[int] = []
        self.before = {name: value.detach().clone() for name, value in runner.model.named_parameters()}

    def after_val(self, runner: Any) -> None:
        self.validated.append(runner.iter)


def train(cfg: Config) -> Runner:
    """Train what a config says; every weight must have moved."""
    runner = Runner.from_cfg(cfg)
    look = Look()
    runner.register_hook(look)
    runner.train()
    before = look.before
    assert runner.iter == runner.max_iters
    assert all(not torch.equal(before[name], value) for name, value in runner.model.named_parameters())
    assert all(torch.isfinite(value).all() for value in runner.model.parameters())
    runner.close()
    return runner


def scalars(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "work" / "scalars.json").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------ optimizers


def test_adamw_with_a_slower_backbone_and_clipping(home: Path) -> None:
    runner = train(config(home, "adamw"))
    groups = {}
    for group in runner.optim_wrapper.optimizer.param_groups:
        for param in group["params"]:
            name = next(name for name, other in runner.model.named_parameters() if other is param)
            groups[name] = group
    assert groups["backbone.0.weight"]["lr"] == pytest.approx(1e-5)
    assert groups["bbox_head.weight"]["lr"] == pytest.approx(1e-4)
    assert groups["bbox_head.weight"]["betas"] == (0.9, 0.999)
    # As in MMEngine, a custom key's parameters take nothing of the other rules: the backbone's norm keeps its decay.
    assert groups["backbone.1.weight"]["weight_decay"] == pytest.approx(0.05)
    assert all("grad_norm" in line for line in scalars(home) if "loss" in line)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_an_optimizer_of_torch_is_a_name(home: Path, name: str) -> None:
    runner = train(config(home, name))
    assert type(runner.optim_wrapper.optimizer).__name__.lower() == name


def test_an_optimizer_of_ones_own_by_custom_imports(home: Path) -> None:
    write(home, {"mmdet3d/engine/optimizers/my_optimizer.py": MY_OPTIMIZER})
    runner = train(config(home, "import_optimizer", "my_optimizer"))
    optimizer = runner.optim_wrapper.optimizer
    assert type(optimizer).__module__ == "mmdet3d.engine.optimizers.my_optimizer"
    assert optimizer.defaults == {"lr": 0.05, "c": 0.5}


def test_an_optimizer_of_ones_own_by_the_packages_init(home: Path) -> None:
    write(
        home,
        {
            "mmdet3d/engine/optimizers/my_optimizer.py": MY_OPTIMIZER,
            "mmdet3d/engine/optimizers/__init__.py": "from .my_optimizer import MyOptimizer\n",
        },
    )
    runner = train(config(home, "my_optimizer"))
    assert type(runner.optim_wrapper.optimizer).__name__ == "MyOptimizer"


def test_a_constructor_of_ones_own(home: Path) -> None:
    write(
        home,
        {
            "mmdet3d/engine/optimizers/my_optimizer.py": MY_OPTIMIZER,
            "mmdet3d/engine/optimizers/my_constructor.py": MY_CONSTRUCTOR,
        },
    )
    more = (
        "custom_imports = dict(imports='mmdet3d.engine.optimizers.my_constructor')\n"
        "optim_wrapper = dict(constructor='MyOptimizerWrapperConstructor', optimizer=dict(b=0.02),"
        " paramwise_cfg=dict(head_factor=0.1))\n"
    )
    runner = train(config(home, more=more))
    assert runner.optim_wrapper.get_lr()["lr"] == pytest.approx([0.02, 0.002])


def test_clipping_that_deletes_the_optimizer_is_refused_in_one_line(tmp_path: Path) -> None:
    write(tmp_path, {"toy_net.py": NET, "base.py": BASE + EXAMPLES["sgd"]})
    (tmp_path / "example.py").write_text("_base_ = './base.py'\n" + EXAMPLES["delete"], encoding="utf-8")
    result = door(tmp_path, "train", "example.py", "--workers", "0")
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raydet3d: error: ")]
    assert re.search(r"optim_wrapper.*optimizer.*_delete_", line), line


# ------------------------------------------------------------------------------------------------------- schedules


def test_momentum_goes_with_the_learning_rate(home: Path) -> None:
    cfg = config(home, "momentum", more=OPTIMIZER + "train_cfg = dict(max_epochs=20, val_interval=20)\n")
    cfg["default_hooks"] = {"logger": {"type": "LoggerHook", "interval": 1}}
    runner = train(cfg)
    rates = [line["lr"] for line in scalars(home) if "lr" in line]
    # The page's comments say "from 0": both start where the config sets them, 0.001 and AdamW's 0.9.
    assert rates[0] == pytest.approx(0.001)
    assert max(rates) == pytest.approx(0.01, rel=0.02)
    assert rates[-1] < 1e-4
    assert 0.99 < runner.optim_wrapper.optimizer.param_groups[0]["betas"][0] < 1


# A polynomial reaches its end with its last step; a cosine of 8 epochs has made 7 of its 8 steps when the last begins.
@pytest.mark.parametrize(
    ("name", "last"), [("poly", 1e-4), ("cosine", 1e-8 + (1e-3 - 1e-8) * (1 + math.cos(math.pi * 7 / 8)) / 2)]
)
def test_other_schedules(home: Path, name: str, last: float) -> None:
    runner = train(config(home, name, more=OPTIMIZER + "train_cfg = dict(max_epochs=8, val_interval=8)\n"))
    assert runner.optim_wrapper.get_lr()["lr"][0] == pytest.approx(last, rel=1e-3)


# ----------------------------------------------------------------------------------------------------------- loops


def test_a_loop_by_epochs(home: Path) -> None:
    more = OPTIMIZER + "train_cfg = dict(by_epoch=None)\n"
    (home / "base.py").write_text(BASE.replace("train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)\n", ""))
    runner = train(config(home, "epoch_loop", more=more.splitlines()[0] + "\n"))
    assert (runner.epoch, runner.val_begin, runner.val_interval) == (12, 1, 1)
    assert len([line for line in scalars(home) if "toy/AP" in line]) == 12


def test_a_loop_by_iterations_with_intervals_that_change(home: Path) -> None:
    """The page's variables are knobs: 37 steps with validations every 5 stand for its 368750 and 5000.

    Its comment promises a validation at the last multiple (365000, here 35); its numbers skip that one, as in MMEngine.
    """
    (home / "base.py").write_text(BASE.replace("train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)\n", ""))
    cfg = config(home, "iter_loop", more=OPTIMIZER)
    assert cfg.train_cfg.dynamic_intervals == [(365001, 368750)]
    runner = train(config(home, "iter_loop", more=OPTIMIZER, options={"interval": 5, "max_iters": 37}))
    assert runner.iter == 37
    (look,) = [hook for hook in runner.hooks if isinstance(hook, Look)]
    assert look.validated == [5, 10, 15, 20, 25, 30, 37]


# ----------------------------------------------------------------------------------------------------------- hooks


@pytest.mark.parametrize("how", ["custom_imports", "init"])
@pytest.mark.parametrize("example", ["my_hook", "my_hook_priority"])
def test_a_hook_of_ones_own(home: Path, how: str, example: str) -> None:
    write(home, {"mmdet3d/engine/hooks/my_hook.py": MY_HOOK})
    names = [example]
    if how == "init":
        write(home, {"mmdet3d/engine/hooks/__init__.py": "from .my_hook import MyHook\n"})
    else:
        names.insert(0, "import_hook")
    runner = train(config(home, *names, more=OPTIMIZER))
    calls = sys.modules["mmdet3d.engine.hooks.my_hook"].CALLS
    epoch = ["before_train_epoch"]
    for i in range(2):
        epoch += [("before_train_iter", i, ["data_samples", "inputs"]), ("after_train_iter", i, True)]
    epoch += ["after_train_epoch"]
    assert calls == [("__init__", "first", 2), "before_run", "before_train", *epoch, *epoch, "after_train", "after_run"]
    assert [hook.priority for hook in runner.hooks if type(hook).__name__ == "MyHook"] == ["NORMAL"]


def test_pasted_objects_end_after_an_epoch(home: Path) -> None:
    more = OPTIMIZER + "train_cfg = dict(max_epochs=17, val_interval=17)\n"
    runner = train(config(home, "object_sample", more=more))
    assert runner.train_dataloader.dataset.off == {"ObjectSample": 15}


def test_three_checkpoints_are_kept(home: Path) -> None:
    train(config(home, "checkpoint", more=OPTIMIZER + "train_cfg = dict(max_epochs=5)\n"))
    files = sorted((home / "work").glob("epoch_*.pth"))
    assert [file.name for file in files] == ["epoch_3.pth", "epoch_4.pth", "epoch_5.pth"]
    assert "optimizer" in torch.load(files[0], weights_only=True)


def test_lines_every_fifty_iterations(home: Path) -> None:
    more = OPTIMIZER + "train_dataloader = dict(batch_size=1, dataset=dict(size=110))\ntrain_cfg = dict(max_epochs=1)\n"
    train(config(home, "logger", more=more))
    assert [line["step"] for line in scalars(home) if "loss" in line] == [50, 100]


def test_pictures_go_to_every_backend(tmp_path: Path) -> None:
    text = f"_base_ = {str(ROOT / 'configs/demo/pointpillars_town.py')!r}\n"
    text += EXAMPLES["visualization"] + EXAMPLES["backends"]
    (tmp_path / "example.py").write_text(text, encoding="utf-8")
    small = ["town_seed=3", "num_train=6", "num_val=2", "epoch_num=1", "default_hooks.visualization.interval=1"]
    result = door(tmp_path, "train", "example.py", "--workers", "0", "--cfg-options", *small)
    assert result.returncode == 0, result.stderr + result.stdout
    (vis,) = (tmp_path / "work_dirs" / "example").glob("2*/vis_data")
    assert list(vis.glob("vis_image/*.png"))
    assert list(vis.rglob("events.out.tfevents*"))
    assert (vis / "scalars.json").is_file()


# -------------------------------------------------------------------------------------------------------- the page


def squeezed(text: str) -> str:
    """Code without blanks, line breaks and what is said to be filled in."""
    return re.sub(r"\s", "", text)


@pytest.mark.skipif(not PAGE.is_file(), reason="the page (../shared/spec/runtime_guide.zh.txt) is not here")
def test_the_examples_are_the_pages() -> None:
    page = PAGE.read_text(encoding="utf-8")
    # The page's text puts some comments on the line of the code that follows.
    for comment in (
        r"# (?:优化器|参数级学习率及权重衰减系数设置|梯度裁剪)\n",
        r"# (?:学习率|动量)调度器(?= )",
        r"# 在前 8 个 epoch,.*?(?=dict\()",
    ):
        page = re.sub(comment, "", page)
    flat = re.sub(r"\s", "", page)
    missing = [name for name, text in EXAMPLES.items() if squeezed(text) not in flat]
    assert not missing
    for plug_in in (MY_OPTIMIZER, MY_CONSTRUCTOR, MY_HOOK):
        for definition in re.findall(r"(?:class \w+|def (?!step)\w+)\([^)]*\)[^:\n]*:", plug_in):
            assert squeezed(definition) in flat, definition


def door(cwd: Path, name: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{cwd}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"raydet3d.{name}", *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
