"""The Runner's public face, frozen: what users' hooks rely on; and its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as torch_dist

from raydet3d.errors import InputError
from raydet3d.hooks import Hook
from raydet3d.runtime import Runner, assemble
from raydet3d.runtime.headline import headline
from tests.kit.spawn import run_ranks
from tests.kit.toy import ToyMetric, toy_cfg

FACE = {
    *(
        "model",
        "cfg",
        "work_dir",
        "log_dir",
        "timestamp",
        "experiment_name",
        "epoch",
        "iter",
        "max_epochs",
        "max_iters",
    ),
    *("train_loop", "val_loop", "test_loop", "train_dataloader", "val_dataloader", "test_dataloader", "val_interval"),
    *(
        "val_begin",
        "optim_wrapper",
        "param_schedulers",
        "hooks",
        "visualizer",
        "message_hub",
        "log_processor",
        "logger",
    ),
    *("rank", "world_size", "distributed", "seed", "train", "val", "test", "call_hook", "register_hook"),
    *("val_evaluator", "test_evaluator", "model_name", "launcher", "deterministic"),
    *("load_checkpoint", "save_checkpoint", "resume", "scale_lr", "from_cfg"),
}


def test_attributes_that_hooks_use(tmp_path: Path) -> None:
    runner = Runner.from_cfg(toy_cfg(tmp_path, log_level="ERROR"), timestamp="t")
    for name in FACE:
        assert hasattr(runner, name), name
    assert (runner.epoch, runner.iter, runner.max_epochs, runner.max_iters) == (0, 0, 3, 36)
    assert (runner.val_interval, runner.val_begin, runner.seed) == (1, 1, 3)
    assert (runner.rank, runner.world_size, runner.distributed) == (0, 1, False)
    assert runner.log_dir == tmp_path / "t"
    assert runner.experiment_name == "run_t"
    assert len(runner.train_dataloader) == 12
    assert (runner.model_name, runner.launcher, runner.deterministic) == ("ToyModel", "none", False)
    for evaluator in (runner.val_evaluator, runner.test_evaluator):
        assert [type(metric) for metric in evaluator.metrics] == [ToyMetric]


def test_hooks_are_made_from_their_configs(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path, log_level="ERROR"))
    given = {"type": "EmptyCacheHook", "after_epoch": True, "priority": "LOWEST"}
    runner.register_hook(given)
    assert (type(runner.hooks[-1]).__name__, runner.hooks[-1].priority) == ("EmptyCacheHook", "LOWEST")
    runner.register_hook(given, priority=0)
    assert (type(runner.hooks[0]).__name__, runner.hooks[0].priority) == ("EmptyCacheHook", 0)
    assert given["priority"] == "LOWEST"
    for wrong in ({"type": "EmptyCacheHook", "after": True}, {"type": dict}, "EmptyCacheHook"):
        with pytest.raises((InputError, TypeError)):
            runner.register_hook(wrong)  # type: ignore[arg-type]


def test_the_result(tmp_path: Path) -> None:
    hook = {"type": "CheckpointHook", "interval": -1, "save_best": "toy/AP"}
    local = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}

    class Picture(Hook):
        def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
            runner.visualizer.add_image("a", torch.zeros(4, 4, 3, dtype=torch.uint8).numpy(), step=runner.epoch)

    runner = assemble(
        toy_cfg(tmp_path, default_hooks__checkpoint=hook, visualizer=local, log_level="ERROR"), extra_hooks=[Picture()]
    )
    result = runner.train()
    assert set(result["metrics"]) == {"toy/mAE_loss", "toy/AP", "toy/count"}
    assert result["headline"] == {"AP": result["metrics"]["toy/AP"]}  # what save_best names
    assert result["best_score"] == result["metrics"]["toy/AP"]
    assert Path(result["best_checkpoint"]).is_file()
    assert Path(result["last_checkpoint"]).is_file()
    assert len(list(Path(result["picture_dir"]).glob("*.png"))) == 3
    assert (result["epoch"], result["iter"]) == (3, 36)
    assert 0 < result["seconds"] < 600


def test_a_hook_that_is_added_later_and_saves_by_itself(tmp_path: Path) -> None:
    class Own(Hook):
        def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
            runner.save_checkpoint(tmp_path / "own", "now.pth", meta={"note": "x"})

    runner = assemble(toy_cfg(tmp_path, log_level="ERROR"))
    runner.register_hook(Own(), "LOWEST")
    assert type(runner.hooks[-1]) is Own
    runner.train()
    state = torch.load(tmp_path / "own" / "now.pth", weights_only=True)
    assert state["meta"]["note"] == "x"
    # Saved within the last validation: a run that goes on from it holds that validation again.
    assert state["progress"] == {"epoch": 3, "iter": 36, "round": 3, "batch": 0, "validated": 24}
    again = assemble(toy_cfg(tmp_path / "again", log_level="ERROR"))
    again.resume(str(tmp_path / "own" / "now.pth"), map_location="cpu")
    assert (again.epoch, again.iter) == (3, 36)
    weights_only = assemble(toy_cfg(tmp_path / "weights", log_level="ERROR"))
    weights_only.load_checkpoint(str(tmp_path / "own" / "now.pth"), strict=True)
    assert weights_only.iter == 0


class Block(Hook):
    """Makes it impossible to write some checkpoints."""

    def __init__(self, epochs: list[int]) -> None:
        self.epochs = epochs

    def before_train(self, runner: Any) -> None:
        for epoch in self.epochs:
            (runner.work_dir / f".epoch_{epoch}.pth.tmp").mkdir()


def test_a_checkpoint_that_cannot_be_written_does_not_end_a_run_and_none_at_all_fails_it(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path / "a", log_level="CRITICAL"), extra_hooks=[Block([3])])
    result = runner.train()
    assert result["iter"] == 36
    assert result["last_checkpoint"] == str(tmp_path / "a" / "epoch_2.pth")  # not one that does not exist
    assert (tmp_path / "a" / "last_checkpoint").read_text() == "epoch_2.pth"
    runner = assemble(toy_cfg(tmp_path / "b", log_level="CRITICAL"), extra_hooks=[Block([1, 2, 3])])
    with pytest.raises(RuntimeError, match=r"checkpoint epoch_3.pth could not be written: Is a directory"):
        runner.train()
    assert runner.iter == 36
    # Another run's checkpoints in the same folder are no comfort.
    runner = assemble(toy_cfg(tmp_path / "a", log_level="CRITICAL"), extra_hooks=[Block([1, 2, 3])], timestamp="other")
    with pytest.raises(RuntimeError, match=r"checkpoint epoch_3.pth could not be written: Is a directory"):
        runner.train()


def test_what_is_scored_is_loaded_whole_and_what_is_trained_may_begin_with_a_part(tmp_path: Path) -> None:
    weights = assemble(toy_cfg(tmp_path, log_level="ERROR")).model.state_dict()
    part = tmp_path / "part.pth"
    weights["neck.x"] = weights.pop("bbox_head.bias")
    torch.save({"state_dict": weights}, part)
    for mode in ("val", "test"):
        runner = assemble(toy_cfg(tmp_path, log_level="ERROR", load_from=str(part)))
        with pytest.raises(InputError) as raised:
            getattr(runner, mode)()
        text = str(raised.value)
        assert text == f"{part} does not fit the model: 1 missing: bbox_head.bias; 1 not in the model: neck.x"
    assert assemble(toy_cfg(tmp_path, log_level="ERROR", load_from=str(part))).train()["iter"] == 36


def weights_of(runner: Runner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("begin", ["nothing", "load_from", "resume"])
def test_scoring_first_changes_nothing_of_the_training(tmp_path: Path, begin: str) -> None:
    first = assemble(toy_cfg(tmp_path / "first", log_level="ERROR", model__dropout=0.1))
    first.train()
    file = str(tmp_path / "first" / "epoch_1.pth")
    changes: dict[str, Any] = {"nothing": {}, "load_from": {"load_from": file}, "resume": {"resume": file}}[begin]
    ends, scores = [], []
    for name in ("alone", "after"):
        ema = {"type": "EMAHook", "momentum": 0.5}
        runner = assemble(toy_cfg(tmp_path / name, log_level="ERROR", custom_hooks=[ema], **changes))
        if name == "after":
            scores = [runner.val(), runner.test()]
        assert runner.train()["iter"] == 36
        ends.append(weights_of(runner))
        assert runner.val() == runner.test()  # of what is trained, not of what it began with
    assert are_equal(*ends)
    assert scores[0] == scores[1]
    if begin != "nothing":
        assert scores[0] == assemble(toy_cfg(tmp_path / "only", log_level="ERROR", load_from=file)).val()


class FirstWeights(Hook):
    """Notes the weights that training begins with."""

    def before_train(self, runner: Any) -> None:
        self.weights = weights_of(runner)


def test_weights_are_initialised_once_and_not_over_those_of_a_script(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path / "first", log_level="ERROR"), extra_hooks=[seen := FirstWeights()])
    runner.train()
    end = weights_of(runner)
    assert not are_equal(seen.weights, end)
    runner.train()
    assert are_equal(seen.weights, end)
    file = tmp_path / "first" / "epoch_2.pth"
    saved = torch.load(file, weights_only=True)["state_dict"]
    for how in ("load_checkpoint", "resume"):
        # What a script does by hand counts for more than what the config says to begin with.
        cfg = toy_cfg(tmp_path / how, log_level="ERROR", load_from=str(tmp_path / "first" / "epoch_1.pth"))
        runner = assemble(cfg, extra_hooks=[seen := FirstWeights()])
        getattr(runner, how)(str(file))
        scores = runner.val()
        runner.train()
        assert are_equal(seen.weights, saved)
        assert scores != runner.val()
    # Of a part of the weights the rest is initialised.
    part = tmp_path / "part.pth"
    torch.save({"state_dict": {"bbox_head.weight": saved["bbox_head.weight"]}}, part)
    runner = assemble(toy_cfg(tmp_path / "part", log_level="ERROR"), extra_hooks=[seen := FirstWeights()])
    runner.load_checkpoint(str(part))
    runner.train()
    assert torch.equal(seen.weights["bbox_head.weight"], saved["bbox_head.weight"])
    assert not seen.weights["first.bias"].any()  # as init_weights makes them


def test_an_average_is_there_for_what_a_script_loads(tmp_path: Path) -> None:
    ema = {"type": "EMAHook", "momentum": 0.5}
    first = assemble(toy_cfg(tmp_path / "first", log_level="ERROR", custom_hooks=[ema]))
    first.train()
    again = assemble(toy_cfg(tmp_path / "again", log_level="ERROR", custom_hooks=[ema]))
    again.load_checkpoint(str(tmp_path / "first" / "epoch_3.pth"))
    assert again.val() == first.val()


def test_a_mode_without_its_sections_is_refused(tmp_path: Path) -> None:
    without = {f"{mode}_{part}": None for mode in ("val", "test") for part in ("dataloader", "cfg", "evaluator")}
    runner = assemble(toy_cfg(tmp_path, log_level="ERROR", **without))
    with pytest.raises(InputError, match="the config has no test_dataloader, test_cfg and test_evaluator"):
        runner.test()
    assert (runner.val_dataloader, runner.test_dataloader) == (None, None)
    assert runner.train()["metrics"] == {}
    no_train = {"train_dataloader": None, "train_cfg": None, "optim_wrapper": None}
    runner = assemble(toy_cfg(tmp_path, log_level="ERROR", **no_train))
    with pytest.raises(InputError, match="nothing to train with: no train_dataloader, train_cfg, optim_wrapper"):
        runner.train()
    assert runner.val()["toy/count"] == 9


def test_a_test_leaves_its_log_and_its_scores_and_no_more(tmp_path: Path) -> None:
    runner = assemble(toy_cfg(tmp_path))
    runner.test()
    runner.close()
    name = runner.timestamp
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        name,
        f"{name}/{name}.log",
        f"{name}/{name}.json",
    }
    log = (runner.log_dir / f"{name}.log").read_text()
    assert "after_test_epoch" in log
    assert "after_train" not in log
    assert "after_val" not in log
    runner.train()
    assert (tmp_path / "config.py").is_file()


def test_headlines() -> None:
    metrics = {"Kitti metric/pred/KITTI/Car_3D_strict": 70.5, "Kitti metric/pred/KITTI/Car_BEV_strict": 80, "text": "x"}
    assert headline(metrics, ["3D_strict"]) == {"Car_3D_strict": 70.5}
    assert headline(metrics, []) == {"Car_3D_strict": 70.5, "Car_BEV_strict": 80.0}
    assert headline({str(i): i for i in range(40)}, []) == {}


class GiveUp(Hook):
    """Takes the process group away within an iteration, as Ray does from another thread when it gives workers up."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == 6:
            torch_dist.destroy_process_group()


def train_until_given_up(folder: str) -> str:
    every = {"type": "CheckpointHook", "interval": 1, "by_epoch": False}
    runner = assemble(toy_cfg(Path(folder), default_hooks__checkpoint=every, log_level="ERROR"))
    runner.register_hook(GiveUp(), "VERY_HIGH")
    try:
        runner.train()
    except RuntimeError as error:
        return str(error)
    return "went on alone"


def test_a_rank_without_its_process_group_stops(tmp_path: Path) -> None:
    for said in run_ranks(train_until_given_up, 2, str(tmp_path), timeout_s=60):
        assert "the process group of 2 ranks is gone" in said
    saved = sorted(tmp_path.glob("iter_*.pth"), key=lambda path: int(path.stem[5:]))
    assert saved[-1].name == "iter_6.pth"
    assert {torch.load(path, weights_only=True)["meta"]["world_size"] for path in saved} == {2}
