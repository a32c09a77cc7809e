"""The hook of a trial's run: what it hands to the back ends."""

from __future__ import annotations

from pathlib import Path

from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec
from raydet3d.runtime import assemble
from raydet3d.sweep.spec import Keep
from raydet3d.sweep.trial_spec import TrialHook, TrialSpec
from raydet3d.sweep.trial_store import TrialStore
from tests.kit.toy import toy_cfg
from tests.unit.sweep.test_sweep_console import trial
from tests.unit.visual.test_backends import events


def test_setting_and_best_score_of_a_trial_reach_tensorboard(tmp_path: Path) -> None:
    one = trial("000", lr=0.01)
    TrialStore(tmp_path).create(one)
    spec = TrialSpec(
        id=one.id,
        sweep=str(tmp_path),
        run=RunSpec(cfg={}, filename=None, run_id="x"),
        options=RayOptions.from_config(None),
        counter="epoch",
        length=3,
        metric="toy/AP",
        mode="max",
        keep=Keep(),
    )
    board = {"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]}
    cfg = toy_cfg(TrialStore(tmp_path).folder(one.id), visualizer=board)
    runner = assemble(cfg, extra_hooks=[TrialHook(spec, lambda report: True)])
    runner.train()
    scores = [report["score"] for report in TrialStore(tmp_path).load()[0][0].reports]
    found = events(runner.log_dir / "vis_data" / "hparams")
    (best,) = [value.simple_value for tag, _, value in found if tag == "hparam/toy/AP"]
    assert abs(best - max(scores)) < 1e-4
