"""The command `show`: curves against their closed forms, groups and hooks of small configs, exit codes."""

import csv
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

from raydet3d import show
from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.registry import DATASETS, HOOKS, MODELS, STRATEGIES

PUBLISHED = "configs/pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
Show = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    def call(*args: object) -> str:
        monkeypatch.setattr(sys, "argv", ["show", *map(str, args)])
        assert show.main() == 0
        return capsys.readouterr().out

    return call


def config(folder: Path, text: str) -> Path:
    path = folder / "a.py"
    path.write_text(text)
    return path


STEPS = """
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=10)
param_scheduler = dict(type='MultiStepLR', milestones=[4, 8], gamma=0.1, by_epoch=False)
"""


class TestSchedule:
    def test_whole_floats_are_numbers_and_a_lacking_base_is_named(self, run: Show, tmp_path: Path) -> None:
        text = STEPS.replace("type='IterBasedTrainLoop', max_iters=10", "by_epoch=True, max_epochs=2.0")
        assert run("schedule", config(tmp_path, text), "--epoch-length", 5).startswith("10 iterations;")
        path = config(tmp_path, text + "auto_scale_lr = dict(enable=True)\ntrain_dataloader = dict(batch_size=2)\n")
        with pytest.raises(InputError, match=r"auto_scale_lr\.base_batch_size must be an integer"):
            run("schedule", path, "--epoch-length", 5)

    def test_published_curves(self, run: Show, tmp_path: Path) -> None:
        """Two half cosines. The second starts from the value that the first has one step before its end."""
        file, picture = tmp_path / "deep" / "a.csv", tmp_path / "a.png"
        text = run("schedule", PUBLISHED, "--epoch-length", 5, "--csv", file, "--png", picture)
        rows = list(csv.DictReader(file.open()))
        assert len(rows) == 400
        assert [rows[0]["epoch"], rows[4]["epoch"], rows[5]["epoch"], rows[-1]["epoch"]] == ["1", "1", "2", "80"]

        def fall(start: float, end: float, t: int, total: int) -> float:
            return end + (start - end) * (1 + math.cos(math.pi * t / total)) / 2

        for name, values in {"lr": (1e-3, 1e-2, 1e-7), "momentum": (0.95, 0.85 / 0.95, 1.0)}.items():
            found = [float(row[name]) for row in rows]
            first = [fall(values[0], values[1], t, 160) for t in range(160)]
            second = [fall(first[-1], values[2], t, 240) for t in range(240)]
            assert found == pytest.approx([*first, *second], rel=1e-9)
        assert "400 iterations; an epoch has 5 (--epoch-length)" in text
        assert "    33        161   9.9991e-03   0.89474" in text
        assert Image.open(picture).size == (1080, 720)

    def test_variable_overrides_change_the_schedule(self, run: Show) -> None:
        text = run("schedule", PUBLISHED, "--epoch-length", 2, "--cfg-options", "lr=0.5", "epoch_num=10")
        assert "20 iterations" in text
        assert "lr: 0.0" in text
        assert "1   5.0000e-01" in text

    def test_by_iteration(self, run: Show, tmp_path: Path) -> None:
        text = run("schedule", config(tmp_path, STEPS), "--epoch-length", 3, "--csv", tmp_path / "a.csv")
        rates = [float(row["lr"]) for row in csv.DictReader((tmp_path / "a.csv").open())]
        assert rates == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 2)
        assert [line.split()[1] for line in text.splitlines()[3:13]] == [str(i) for i in range(1, 11)]

    def test_by_iteration_alone_it_needs_no_data(self, run: Show, tmp_path: Path) -> None:
        assert run("schedule", config(tmp_path, STEPS)).startswith(
            "10 iterations; an epoch has 10 (the run counts iter"
        )
        path = config(tmp_path, STEPS.replace(", by_epoch=False", ""))
        with pytest.raises(InputError, match="has no train_dataloader"):
            run("schedule", path)

    def test_auto_scale_lr(self, tmp_path: Path) -> None:
        cfg = Config.fromfile(config(tmp_path, f"{STEPS}train_dataloader = dict(batch_size=4)\n"))
        cfg.auto_scale_lr = {"enable": True, "base_batch_size": 16}
        assert show.trace_schedule(cfg, epoch_length=3, workers=8).lr[0] == pytest.approx(0.2)
        cfg.auto_scale_lr.enable = False
        assert show.trace_schedule(cfg, epoch_length=3, workers=8).lr[0] == pytest.approx(0.1)

    def test_metric_driven_ones_are_left_out_and_named(self, run: Show, tmp_path: Path) -> None:
        path = config(tmp_path, STEPS)
        option = "param_scheduler=[dict(type=ReduceOnPlateauLR, monitor=loss)]"
        text = run("schedule", path, "--epoch-length", 3, "--cfg-options", option)
        assert "ReduceOnPlateauLR depends on a metric" in text
        assert "lr: 0.1 (iteration 1) to 0.1 (iteration 1)" in text

    def test_rows(self) -> None:
        curves = show.Curves(100, [0.0] * 8000, [0.0] * 8000, [3200])
        rows = show.sample_rows(curves, 8)
        assert rows == [0, 1000, 2000, 3000, 3199, 3200, 4000, 5000, 6000, 7000, 7999]
        assert show.sample_rows(show.Curves(100, [0.0] * 5, [0.0] * 5, []), 8) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("workers", "drop_last", "expected"), [(1, False, 7), (1, True, 6), (2, False, 4), (3, False, 3), (2, True, 3)]
    )
    def test_length_of_an_epoch_from_the_data(
        self, tmp_path: Path, workers: int, drop_last: bool, expected: int
    ) -> None:
        """20 samples in batches of 3, shared by the workers."""

        class Twenty:
            def __init__(self, data_root: str, ann_file: str) -> None: ...

            def __len__(self) -> int:
                return 20

        dataset = {"type": "Twenty", "data_root": str(tmp_path), "ann_file": "infos.pkl"}
        cfg = {"train_dataloader": {"dataset": dataset, "batch_size": 3, "drop_last": drop_last}}
        (tmp_path / "infos.pkl").touch()
        with DATASETS.temporary(Twenty=Twenty):
            length, origin = show.epoch_length(cfg, given=None, workers=workers)
        assert length == expected
        assert origin == f"20 samples / {workers} workers / batches of 3"


class TestGroups:
    def test_small_model(self, run: Show, tmp_path: Path) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 2)
                self.body.bias.requires_grad_(False)

        text = """
model = dict(type='Two')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=0.5)}))
"""
        with MODELS.temporary(Two=Two):
            out = run("groups", config(tmp_path, text))
        assert "Two: 4 parameters, 23 numbers" in out
        assert "weight_decay=0.01" in out
        assert "lr=0.05" in out
        assert "head.weight" in out.partition("lr=0.05")[2]

    def test_published(self, run: Show) -> None:
        out = run("groups", PUBLISHED)
        assert "4,834,888 numbers, 1 groups" in out
        assert "lr=0.001 betas=(0.95, 0.99)" in out


def test_hooks(run: Show, tmp_path: Path) -> None:
    from raydet3d.hooks.base import Hook

    class Mine(Hook):
        priority = "LOWEST"

        def after_val(self, runner: Any) -> None: ...

    with HOOKS.temporary(Mine=Mine):
        out = run("hooks", config(tmp_path, "custom_hooks = [dict(type='Mine')]\n"))
    line = next(line for line in out.splitlines() if "after_val " in line)
    assert "Mine(100)" in line.split()
    assert "ParamSchedulerHook" in out
    assert out.index("before_run") < out.index("after_val ")


def test_hooks_of_the_launcher_are_shown(run: Show, tmp_path: Path) -> None:
    path = config(tmp_path, STEPS)
    names = [set(re.findall(r"(\w+)\(\d+\)", run("hooks", path, "--workers", str(count)))) for count in (0, 2)]
    assert {"RestartLogHook", "StepTimer", "RankSyncHook"} <= names[0]
    assert names[1] - names[0] == {"DriverLinkHook", "RayReportHook", "HangWatchdogHook"}


class TestConfig:
    def test_prints_what_loads_equal(self, run: Show, tmp_path: Path) -> None:
        path = tmp_path / "printed.py"
        path.write_text(run("config", PUBLISHED, "--cfg-options", "lr=0.5"))
        assert Config.fromfile(path) == Config.fromfile(PUBLISHED, {"lr": 0.5})

    def test_diff(self, run: Show, tmp_path: Path) -> None:
        path = config(tmp_path, STEPS)
        assert run("config", path, "--diff", path) == "no difference\n"
        assert "-train_cfg = dict" in run("config", path, "--cfg-options", "train_cfg.max_iters=3", "--diff", path)


class TestRegistry:
    def test_all_tables(self, run: Show) -> None:
        rows = {line.split()[0]: line for line in run("registry").splitlines()}
        assert len(rows) == 23
        assert "Muon" in rows["OPTIMIZERS"]
        assert rows["STRATEGIES"].split() == ["STRATEGIES", "0"]

    @pytest.mark.parametrize("name", ["HOOKS", "hooks", "hook"])
    def test_one(self, run: Show, name: str) -> None:
        row = next(line for line in run("registry", name).splitlines() if line.startswith("CheckpointHook"))
        assert row.split(maxsplit=2)[1:] == [
            "raydet3d.hooks.checkpoint",
            "Saves the run at intervals and at its end, and the best model of all validations.",
        ]

    def test_with_a_plug_in(self, run: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "rd_strategy.py").write_text(
            "from raydet3d.registry import STRATEGIES\n@STRATEGIES.register_module()\nclass Mine:\n    'Mine it is.'\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        path = config(tmp_path, "custom_imports = dict(imports=['rd_strategy'])\n")
        with STRATEGIES.temporary():
            assert run("registry", "strategies", "--config", path) == "Mine  rd_strategy  Mine it is.\n"
        assert "is empty" in run("registry", "STRATEGIES")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["registry", "HOKS"], "no table 'HOKS'; did you mean 'HOOKS'?"),
        (["config", "nope.py"], "no such config: nope.py"),
        (["config", PUBLISHED, "--cfg-options", "lrr=1"], "the config has no 'lrr', so this changes nothing"),
        (["config", PUBLISHED, "--cfg-options", "lr"], "config option 'lr' is not KEY=VALUE"),
        (["schedule", PUBLISHED], "so the length of an epoch is unknown"),
        (["schedule", PUBLISHED, "--epoch-length", "0"], "--epoch-length must be 1 or more, got 0"),
        (["schedule", PUBLISHED, "--epoch-length", "5", "--png", "a.nopicture"], "cannot write a.nopicture"),
        (["schedule", "a.py", "--epoch-length", "5"], "the config has no optim_wrapper"),
        (["groups", "a.py"], "the config has no model"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from raydet3d.cli import run_command

    config(tmp_path, "x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["show", *args])
    with pytest.raises(SystemExit) as ended:
        run_command(show.main)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("raydet3d: error: ")
    assert message in error


class TestProcess:
    """The process as a shell sees it."""

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", *args], capture_output=True, text=True, timeout=120)

    def test_exit_codes_and_streams(self) -> None:
        done = self.call("raydet3d.show", "config", "nope.py")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("raydet3d: error: no such config: nope.py")
        assert self.call("raydet3d.show", "config", PUBLISHED).returncode == 0
        assert self.call("raydet3d.show").returncode == 2

    def test_version_and_list_of_commands(self) -> None:
        from raydet3d import __version__

        assert self.call("raydet3d", "--version").stdout.startswith(f"raydet3d {__version__} (python 3.")
        assert "python -m raydet3d.show" in self.call("raydet3d").stdout

    @pytest.mark.parametrize(
        ("error", "code"), [("KeyboardInterrupt()", 130), ("ValueError('x')", 1), ("SystemExit(75)", 75)]
    )
    def test_exit_codes_of_exceptions(self, error: str, code: int) -> None:
        script = f"from raydet3d.cli import run_command\ndef main():\n    raise {error}\nrun_command(main)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == code
        assert ("Traceback" in done.stderr) == (code == 1)
