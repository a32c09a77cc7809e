"""Bad input of the train command: one line, exit 2, and nothing is left behind by what is found before training."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.cli import run_command
from raydet3d.runtime import assemble
from raydet3d.train import main
from tests.kit.runs import write_config
from tests.kit.small_detector import write_project
from tests.kit.tiny_kitti import write_kitti
from tests.kit.toy import ToyModel, toy_cfg

CONFIG = """
loader = dict(
    batch_size=2,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="tests.kit.toy.ToyData"),
)
model = dict(type="tests.kit.toy.ToyModel")
train_dataloader = loader
val_dataloader = loader
train_cfg = dict(by_epoch=True, max_epochs=2)
val_cfg = dict()
val_evaluator = dict(type="tests.kit.toy.ToyMetric")
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01))
visualizer = dict(type="Visualizer", vis_backends=[])
"""


def run_train(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *, lines: str = "", flags: Any = ()
) -> tuple[int, str]:
    """Return the exit code of the train command and the last line of stderr."""
    config = folder / "toy.py"
    config.write_text(f"{CONFIG}\n{lines}\n", encoding="utf-8")
    argv = ["train", str(config), "--workers", "0", "--work-dir", str(folder / "run"), *map(str, flags)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    return int(ended.value.code or 0), said[0]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("train_cfg = dict(type='EpochBasedLoop', max_epochs=2)", "train_cfg: unknown loop type 'EpochBasedLoop'"),
        ("train_cfg = dict(type='IterBasedTrainLoop', by_epoch=True, max_iters=2)", "train_cfg: has both type and"),
        ("train_cfg = dict(by_epoch=False, max_epochs=2)", "train_cfg: "),
        ("val_evaluator = None", "the config has val_dataloader and val_cfg but no val_evaluator: all three or none"),
        ("train_cfg = dict(max_epochs=2, dynamic_intervals=[(1,)])", "dynamic_intervals must be a list of"),
        ("param_scheduler = dict(type='StepLR', step_size=1, begin=3, end=2)", "param_scheduler[0]: "),
        ("optim_wrapper = dict(optimizer=dict(type='SGD', lr=-1))", "optim_wrapper.optimizer: SGD: Invalid"),
        ("train_dataloader = dict(loader, batch_size=0)", "batch_size must be an integer of at least 1"),
        ("load_from = 'nowhere.pth'", "load_from: there is no file nowhere.pth"),
        ("compile = dict(backend='none-such')", "compile: Invalid backend"),
        ("env_cfg = dict(dist_cfg=dict(timeout='long'))", "env_cfg.dist_cfg.timeout must be a number above 0"),
    ],
)  # fmt: skip
def test_bad_config_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, lines: str, words: str
) -> None:
    code, said = run_train(tmp_path, monkeypatch, capsys, lines=lines)
    assert code == 2
    assert said.startswith("raydet3d: error: ")
    assert words in said
    if "backend" not in lines:  # models are compiled when their weights are in place
        assert list((tmp_path / "run").glob("*")) == []


def test_save_best_of_an_unknown_metric_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lines = (
        "default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='toy/APP', rule='greater'))"
    )
    code, said = run_train(tmp_path, monkeypatch, capsys, lines=lines)
    assert code == 2
    assert "save_best='toy/APP', but validation gave toy/AP and 2 others" in said
    assert (tmp_path / "run" / "epoch_1.pth").is_file()  # a run that is resumed holds this validation again


def test_resume_from_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assemble(toy_cfg(tmp_path / "other", train_cfg={"max_epochs": 1}, log_level="CRITICAL")).train()
    capsys.readouterr()
    state = torch.load(tmp_path / "other" / "epoch_1.pth", weights_only=True)
    state["state_dict"]["bbox_head.weight"] = torch.zeros(3, 16)
    state["state_dict"]["neck.x"] = torch.zeros(1)
    del state["state_dict"]["first.bias"]
    torch.save(state, tmp_path / "other.pth")
    code, said = run_train(tmp_path, monkeypatch, capsys, flags=["--resume", tmp_path / "other.pth"])
    assert code == 2
    assert "1 missing: first.bias; 1 not in the model: neck.x" in said
    assert "1 of another shape: bbox_head.weight (3, 16) for (1, 16)" in said


class Poisoned(ToyModel):
    """Its loss is NaN from the first step on."""

    def __init__(self) -> None:
        super().__init__(poison=range(10_000))


def test_nan_from_the_first_step_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    lines = "model = dict(type='tests.integration.test_bad_input.Poisoned')\ntrain_cfg = dict(max_epochs=200)"
    code, said = run_train(tmp_path, monkeypatch, capsys, lines=lines)
    assert code == 2
    assert "steps in a row were bad" in said


COMMANDS_THAT_WRITE = [
    ("raydet3d.evaluate", ["CONFIG", "WEIGHTS", "--work-dir", "FILE/work"]),
    ("raydet3d.evaluate", ["CONFIG", "WEIGHTS", "--show-dir", "FILE/pictures"]),
    ("raydet3d.evaluate", ["CONFIG", "WEIGHTS", "--page", "FILE/page"]),
    ("raydet3d.evaluate", ["CONFIG", "WEIGHTS", "--out", "FILE/out"]),
    ("raydet3d.evaluate", ["CONFIG", "WEIGHTS", "--save-predictions", "FILE/found.npz"]),
    ("raydet3d.evaluate", ["CONFIG", "WEIGHTS", "--save-predictions", "FOLDER"]),
    ("raydet3d.infer", ["CONFIG", "WEIGHTS", "FILE", "--out", "FILE/out"]),
    ("raydet3d.infer", ["CONFIG", "WEIGHTS", "FILE", "--show-dir", "FILE/pictures"]),
    ("raydet3d.infer", ["CONFIG", "WEIGHTS", "FILE", "--page", "FILE/page"]),
    ("raydet3d.export", ["CONFIG", "WEIGHTS", "--format", "torch-export", "--out", "FILE/out"]),
    ("raydet3d.publish", ["WEIGHTS", "FILE/published"]),
    ("raydet3d.benchmark", ["CONFIG", "--out", "FILE/speed.json"]),
    ("raydet3d.benchmark", ["CONFIG", "--out", "FOLDER"]),
    ("raydet3d.report", ["FOLDER", "--out", "FILE/page.html"]),
    ("raydet3d.report", ["FOLDER", "--out", "FOLDER"]),
    ("raydet3d.data.check", ["FOLDER/kitti", "--out", "FILE/check"]),
    ("raydet3d.data.check", ["FOLDER/kitti", "--out", "FOLDER/check", "--json", "FILE/check.json"]),
    ("raydet3d.data.check", ["FOLDER/kitti", "--out", "FOLDER/check", "--json", "FOLDER"]),
    ("raydet3d.data.convert", ["kitti_tracking", "FOLDER", "FILE/data"]),
    ("raydet3d.data.prepare", ["kitti", "FILE/kitti"]),
    ("raydet3d.data.prepare", ["custom", "FILE/own"]),
    ("raydet3d.data.prepare", ["nuscenes", "FILE/nuscenes"]),
    ("raydet3d.tune", ["TOY", "SWEEP", "--work-dir", "FILE/sweep"]),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `COMMANDS_THAT_WRITE` names: FILE stands where a folder is needed, FOLDER where a file is."""
    folder = tmp_path_factory.mktemp("places")
    config, weights = write_project(folder, val=1)
    (folder / "folder").mkdir()
    write_kitti(folder / "folder" / "kitti", train=1, val=1)
    (folder / "cloud.bin").write_bytes(bytes(16))
    (folder / "sweep.yaml").write_text(
        "metric: AP\nmode: max\ntrials: 2\nspace: {optim_wrapper.optimizer.lr: [0.1, 0.2]}\n"
    )
    return {
        "CONFIG": config,
        "TOY": write_config(folder / "toy"),
        "SWEEP": folder / "sweep.yaml",
        "WEIGHTS": weights,
        "FILE": folder / "cloud.bin",
        "FOLDER": folder / "folder",
    }


@pytest.mark.parametrize(("module", "arguments"), COMMANDS_THAT_WRITE, ids=lambda x: x if isinstance(x, str) else x[-2])
def test_a_place_that_cannot_be_written_is_one_line_before_any_work(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any, module: str, arguments: list[str]
) -> None:
    words = []
    for word in arguments:
        name, slash, rest = word.partition("/")
        words.append(f"{places[name]}{slash}{rest}" if name in places else word)
    before = sorted(places["FOLDER"].rglob("*"))
    monkeypatch.setattr(sys, "argv", [module, *words])
    command = importlib.import_module(module + (".__main__" if module.startswith("raydet3d.data.") else ""))
    with pytest.raises(SystemExit) as ended:
        run_command(command.main)
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2, said
    assert len(said) == 1, said
    assert str(places["FILE"]) in said[0] or str(places["FOLDER"]) in said[0]
    assert sorted(places["FOLDER"].rglob("*")) == before
    assert places["FILE"].is_file()
