"""A run with plug-ins that know MMEngine's names only, from a pure-python config, by the command.

It joins a Ray that was started without the plug-ins' folder on its path.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.plug_in_folder import write

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.ray

HOOK = """
from mmengine.dist import get_dist_info, master_only
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, print_log


class Say(Hook):

    def __init__(self, words):
        self.words = words

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        MessageHub.get_current_instance().update_scalar('train/mine', runner.iter)

    @master_only
    def after_train(self, runner):
        assert runner.message_hub.get_scalar('train/mine').current() == runner.iter - 1
        print_log(f'{self.words} on rank {get_dist_info()}', logger='current')
"""
DATA = """
from mmdet3d.registry import DATASETS
from tests.kit.toy import ToyData


@DATASETS.register_module()
class MyData(ToyData):

    def __getitem__(self, index):
        from mmengine.structures import BaseDataElement  # in a loader's process, which is spawned
        return super().__getitem__(index)
"""
CONFIG = """
from mmdet3d.engine.hooks.say import Say
from my_data import MyData
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from tests.kit.toy import ToyModel
from torch.optim import AdamW

model = dict(type=ToyModel)
train_dataloader = dict(batch_size=4, num_workers=1, sampler=dict(type='DefaultSampler', shuffle=True),
                        dataset=dict(type=MyData))
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=2)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=0.01))
custom_hooks = [dict(type=Say, words='all is well')]
visualizer = dict(type='Visualizer', vis_backends=[])
env_cfg = dict(mp_cfg=dict(mp_start_method='spawn'))
"""


def test_plug_ins_reach_ray_workers_and_their_loaders(ray_address: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, {"mmdet3d/engine/hooks/say.py": HOOK, "my_data.py": DATA, "run.py": CONFIG})
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", **ray_address}
    done = subprocess.run(
        [sys.executable, "-m", "raydet3d.train", "run.py", "--workers", "1"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    assert "all is well on rank (0, 1)" in done.stdout
    assert (tmp_path / "work_dirs" / "run" / "epoch_2.pth").is_file()
