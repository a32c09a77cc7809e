"""Loops: the stages they call, in order, and when they validate; against MMEngine's rules (runtime.md 1.5)."""

from __future__ import annotations

from bisect import bisect
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.hooks import STAGES, Hook
from raydet3d.registry import LOOPS
from raydet3d.runtime import EpochBasedTrainLoop, Runner, assemble
from raydet3d.runtime.loops import BaseLoop, IterBasedTrainLoop, TestLoop, ValLoop, sample_ids
from raydet3d.structures import InstanceData
from tests.kit.toy import SaveAt, ToyData, ToyMetric, ToyModel, ToySample, toy_cfg

NO_SAVES = {"type": "CheckpointHook", "save_last": False}


class Diary(Hook):
    """Notes every stage with the counts that hooks see."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.counts: list[tuple[str, int, int]] = []
        self.val_at: list[tuple[int, int]] = []
        self.batches: list[int] = []
        for stage in STAGES:
            setattr(self, stage, lambda runner, _stage=stage, **kwargs: self.note(runner, _stage, kwargs))

    def note(self, runner: Runner, stage: str, kwargs: dict[str, Any]) -> None:
        self.stages.append(stage)
        self.counts.append((stage, runner.epoch, runner.iter))
        if stage == "before_val":
            self.val_at.append((runner.epoch, runner.iter))
        if stage == "before_train_iter":
            self.batches.append(kwargs["batch_idx"])


def run(folder: Path, train_cfg: dict[str, Any], **changes: Any) -> Diary:
    diary = Diary()
    cfg = toy_cfg(folder, train_cfg=train_cfg, default_hooks__checkpoint=NO_SAVES, log_level="ERROR", **changes)
    assemble(cfg, extra_hooks=[diary]).train()
    return diary


def test_stages_by_epoch(tmp_path: Path) -> None:
    diary = run(tmp_path, {"by_epoch": True, "max_epochs": 2, "val_interval": 2}, train_dataloader__batch_size=12)
    iteration = ["before_train_iter", "after_train_iter"]
    epoch = ["before_train_epoch", *iteration, *iteration, "after_train_epoch"]
    val = (
        ["before_val", "before_val_epoch"]
        + ["before_val_iter", "after_val_iter"] * 5
        + ["after_val_epoch", "after_val"]
    )
    assert diary.stages == ["before_run", "before_train", *epoch, *epoch, *val, "after_train", "after_run"]
    assert diary.batches == [0, 1, 0, 1]
    # In an iteration its own is not counted yet; after the epoch's last the iteration is, the epoch is not.
    assert [c[1:] for c in diary.counts if c[0] == "after_train_iter"] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert [c[1:] for c in diary.counts if c[0] == "after_train_epoch"] == [(0, 2), (1, 4)]
    assert diary.val_at == [(2, 4)]


def test_stages_by_iteration(tmp_path: Path) -> None:
    diary = run(tmp_path, {"by_epoch": False, "max_iters": 27, "val_interval": 10})
    assert diary.stages.count("before_train_epoch") == diary.stages.count("after_train_epoch") == 1
    assert diary.batches == list(range(27))  # over 24 samples in batches of 2, the data are gone through again
    assert diary.val_at == [(0, 10), (0, 20), (0, 27)]


def expected_validations(last: int, begin: int, start: int, pairs: list[tuple[int, int]]) -> list[int]:
    """MMEngine's rule: after step n, the interval of the last milestone that is at most n + 1."""
    milestones, intervals = [0, *(m for m, _ in pairs)], [start, *(i for _, i in pairs)]
    out = []
    for step in range(1, last + 1):
        interval = intervals[bisect(milestones, step + 1) - 1]
        if step >= begin and (step % interval == 0 or step == last):
            out.append(step)
    return out


@pytest.mark.parametrize(
    ("begin", "interval", "dynamic"),
    [(1, 1, []), (3, 2, []), (1, 4, [(5, 1)]), (1, 1, [[3, 3], [6, 2]]), (1, 5, [(6, 7)])],
)
def test_when_to_validate(tmp_path: Path, begin: int, interval: int, dynamic: list[Any]) -> None:
    cfg = {"max_epochs": 7, "val_begin": begin, "val_interval": interval, "dynamic_intervals": dynamic}
    diary = run(tmp_path, {"type": "EpochBasedTrainLoop", **cfg}, train_dataloader__batch_size=24)
    expected = expected_validations(7, begin, interval, [tuple(pair) for pair in dynamic])
    assert [epoch for epoch, _ in diary.val_at] == expected
    cfg["max_iters"] = cfg.pop("max_epochs")
    diary = run(tmp_path / "iters", {"type": "IterBasedTrainLoop", **cfg})
    assert [iteration for _, iteration in diary.val_at] == expected


def test_a_resumed_run_has_the_interval_of_its_point_from_the_start(tmp_path: Path) -> None:
    class Look(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            seen.append(runner.val_interval)

    seen: list[int] = []
    loop = {"type": "EpochBasedTrainLoop", "max_epochs": 3, "val_interval": 3, "dynamic_intervals": [(2, 1)]}
    cfg = toy_cfg(tmp_path, train_cfg=loop, custom_hooks=[{"type": SaveAt, "iters": [17]}], log_level="ERROR")
    assemble(cfg).train()
    assemble(cfg, extra_hooks=[Look()], resume=str(tmp_path / "iter_17.pth")).train()
    assert seen == [1] * 19


def test_the_guides_dynamic_interval_skips_365000() -> None:
    # The page says that a validation happens there; MMEngine's rule, and so ours, says not.
    pairs = [(365001, 368750)]
    assert expected_validations(368750, 1, 5000, pairs)[-3:] == [355000, 360000, 368750]


def test_stop_training_ends_after_the_epoch(tmp_path: Path) -> None:
    class Stop(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            runner.train_loop.stop_training = runner.iter == 3

    cfg = toy_cfg(tmp_path, train_dataloader__batch_size=6, log_level="ERROR")
    runner = assemble(cfg, extra_hooks=[Stop()])
    assert runner.train()["epoch"] == 1


@pytest.mark.parametrize("limit", [0, 2.5, True, "abc", float("inf")])
def test_bad_limits(tmp_path: Path, limit: Any) -> None:
    with pytest.raises(InputError, match=r"train_cfg.*max_epochs must be"):
        assemble(toy_cfg(tmp_path, train_cfg={"max_epochs": limit}, log_level="ERROR")).train()
    with pytest.raises(InputError, match=r"train_cfg.*val_interval must be"):
        assemble(toy_cfg(tmp_path, train_cfg={"max_epochs": 2, "val_interval": limit}, log_level="ERROR")).train()


def test_whole_floats_are_numbers_and_empty_loaders_are_none(tmp_path: Path) -> None:
    assert assemble(toy_cfg(tmp_path, train_cfg={"max_epochs": 2.0}, log_level="ERROR")).train()["epoch"] == 2
    changes = {"train_dataloader__batch_size": 99, "train_dataloader__drop_last": True}
    with pytest.raises(InputError, match="gives no batch"):
        assemble(toy_cfg(tmp_path, **changes)).train()


class LossModel(ToyModel):
    """Appends the losses of a validation to its predictions."""

    def val_step(self, data: Any) -> list[Any]:
        outputs = super().val_step(data)
        value = torch.tensor([1.0, 3.0]) * len(outputs)
        return [*outputs, InstanceDataLike(loss={"loss_a": value, "loss_b": [value, value]})]


class InstanceDataLike(dict):  # type: ignore[type-arg]
    """A last output whose only key is 'loss'."""


def test_losses_of_a_validation_become_metrics(tmp_path: Path) -> None:
    metrics = assemble(toy_cfg(tmp_path, model={"type": LossModel}, log_level="ERROR")).val()
    # Batches of 2, 2, 2, 2, 1 samples: means of 4, 4, 4, 4, 2, so 3.6; loss_b is twice that.
    assert metrics["loss_a"] == pytest.approx(3.6)
    assert metrics["loss_b"] == pytest.approx(7.2)
    assert metrics["val_loss"] == pytest.approx(10.8)
    assert metrics["toy/count"] == 9


def test_an_error_in_the_step_names_its_samples(tmp_path: Path) -> None:
    class Broken(ToyModel):
        def forward(self, inputs: Any, data_samples: Any, mode: str = "tensor") -> Any:
            raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError) as caught:
        assemble(toy_cfg(tmp_path, model={"type": Broken}, log_level="ERROR")).train()
    (note,) = caught.value.__notes__
    assert note.startswith("in the training step, epoch 1, iteration 1, samples [")
    with pytest.raises(ZeroDivisionError) as caught:
        assemble(toy_cfg(tmp_path / "val", model={"type": Broken}, log_level="ERROR")).val()
    assert caught.value.__notes__ == ["in the val step, batch 1, samples [0, 1]"]


def test_a_loop_of_a_users_own(tmp_path: Path) -> None:
    class Short(EpochBasedTrainLoop):
        def run(self) -> None:
            self.runner.call_hook("before_train")
            self.run_epoch()
            self.runner.call_hook("after_train")

    with LOOPS.temporary(Short=Short):
        cfg = toy_cfg(tmp_path, train_cfg={"type": "Short", "max_epochs": 3}, log_level="ERROR")
        assert assemble(cfg).train()["epoch"] == 1


class OwnEpochs(EpochBasedTrainLoop):
    """Does an iteration by itself, in MMEngine's way."""

    def run_iter(self, idx: int, data_batch: Any) -> None:
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self.runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1


class OwnIters(IterBasedTrainLoop):
    """Does something before each iteration."""

    def run_iter(self, data_batch: Any) -> None:
        self.runner.seen = getattr(self.runner, "seen", 0) + 1
        super().run_iter(data_batch)


class OwnVal(ValLoop):
    """Scores by itself, in MMEngine's way, the first samples of each batch."""

    def run_iter(self, idx: int, data_batch: Any) -> None:
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.model.val_step(data_batch)[:1]
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


class OwnTest(TestLoop):
    """Leaves the first batch out."""

    __test__ = False

    def run_iter(self, idx: int, data_batch: Any) -> None:
        if idx:
            super().run_iter(idx, data_batch)


def test_an_iteration_of_a_users_own(tmp_path: Path) -> None:
    with LOOPS.temporary(OwnEpochs=OwnEpochs, OwnIters=OwnIters, OwnVal=OwnVal, OwnTest=OwnTest):
        hooks = [SaveAt([5])]
        own = {"train_cfg": {"type": "OwnEpochs", "max_epochs": 1}, "val_cfg": {"type": "OwnVal"}}
        runner = assemble(toy_cfg(tmp_path / "a", log_level="ERROR", **own), extra_hooks=hooks)
        result = runner.train()
        assert (result["iter"], result["metrics"]["toy/count"]) == (12, 5)
        saved = torch.load(tmp_path / "a" / "iter_5.pth", weights_only=True)
        assert saved["progress"]["iter"] == saved["progress"]["batch"] == 5  # as after the iteration
        plain = assemble(toy_cfg(tmp_path / "b", log_level="ERROR", train_cfg={"max_epochs": 1}))
        plain.train()
        for one, other in zip(runner.model.parameters(), plain.model.parameters(), strict=True):
            assert torch.equal(one, other)
        with pytest.raises(InputError, match="_iter was 12 and cannot become 14"):
            runner.train_loop._iter += 2
        own = {"train_cfg": {"type": "OwnIters", "max_iters": 7}, "test_cfg": {"type": "OwnTest"}}
        runner = assemble(toy_cfg(tmp_path / "c", log_level="ERROR", **own))
        runner.train()
        assert runner.seen == runner.iter == 7
        assert runner.test()["toy/count"] == 7  # of 9


class WarmUp(IterBasedTrainLoop):
    """Runs by itself, in MMEngine's way."""

    def run(self) -> None:
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")


class OwnRunEpoch(OwnEpochs):
    """Does epochs by itself, in MMEngine's way."""

    def run_epoch(self) -> None:
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        assert self._epoch <= self._max_epochs


def test_loops_with_bodies_of_mmengines(tmp_path: Path) -> None:
    with LOOPS.temporary(WarmUp=WarmUp, OwnRunEpoch=OwnRunEpoch):
        runner = assemble(toy_cfg(tmp_path / "a", log_level="ERROR", train_cfg={"type": "WarmUp", "max_iters": 15}))
        assert runner.train()["iter"] == 15
        runners = {}
        for kind in ("OwnRunEpoch", "EpochBasedTrainLoop"):
            train_cfg = {"type": kind, "max_epochs": 2}
            runner = runners[kind] = assemble(toy_cfg(tmp_path / kind, log_level="ERROR", train_cfg=train_cfg))
            result = runner.train()
            assert (result["epoch"], result["iter"]) == (2, 24)
        own, plain = (runner.model.parameters() for runner in runners.values())
        assert all(torch.equal(a, b) for a, b in zip(own, plain, strict=True))
        with pytest.raises(InputError, match="_epoch was 2 and cannot become 4"):
            runners["OwnRunEpoch"].train_loop._epoch += 2


class Bare(BaseLoop):
    """Trains ``steps`` iterations, and has nothing that it need not have."""

    def __init__(self, runner: Any, dataloader: Any, steps: int) -> None:
        super().__init__(runner, dataloader)
        self.steps = steps

    def run(self) -> None:
        runner = self.runner
        runner.call_hook("before_train")
        runner.model.train()
        for idx, data_batch in zip(range(runner.iter, self.steps), self.dataloader, strict=False):
            runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
            outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
            runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
            runner.progress.finish_iter()
        runner.call_hook("after_train")


def test_a_train_loop_of_a_users_own_from_the_base(tmp_path: Path) -> None:
    with LOOPS.temporary(Bare=Bare):
        checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": 3}
        changes = {"log_level": "ERROR", "default_hooks__checkpoint": checkpoint}
        runner = assemble(toy_cfg(tmp_path / "a", train_cfg={"type": "Bare", "steps": 6}, **changes))
        assert runner.train()["iter"] == 6
        path = tmp_path / "a" / "iter_6.pth"
        again = assemble(toy_cfg(tmp_path / "b", train_cfg={"type": "Bare", "steps": 9}, **changes), resume=str(path))
        assert again.train()["iter"] == 9
        state = torch.load(path, weights_only=True)
        theirs = {key: state[key] for key in ("meta", "state_dict", "optimizer")}
        torch.save(theirs, tmp_path / "theirs.pth")  # as MMEngine's
        again = assemble(toy_cfg(tmp_path / "c", train_cfg={"type": "Bare", "steps": 9}, **changes))
        again.resume(str(tmp_path / "theirs.pth"))
        assert again.train()["iter"] == 9


def test_ids_of_samples() -> None:
    assert sample_ids({"data_samples": [ToySample(4, torch.zeros(1)), InstanceData()]}) == [4]
    assert sample_ids([1, 2]) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dynamic_intervals": [(3,)]}, r"dynamic_intervals must be a list of lists of 2 integers .*got \[\(3,\)\]"),
        ({"dynamic_intervals": [3, 1]}, r"dynamic_intervals must be "),
        ({"dynamic_intervals": [[2, 0]]}, r"dynamic_intervals must be .*got \[\[2, 0\]\]"),
        ({"val_begin": -1}, "train_cfg: .*val_begin must be an integer of at least 0, got -1"),
        ({"max_iters": 5}, "no argument 'max_iters'"),
    ],
)
def test_bad_loops(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        assemble(toy_cfg(tmp_path, train_cfg={"max_epochs": 3, **changes})).train()


def test_intervals_from_yaml(tmp_path: Path) -> None:
    text = "train_cfg: {type: IterBasedTrainLoop, max_iters: 9, val_interval: 4, dynamic_intervals: [[5, 2], [7, 1]]}\n"
    (tmp_path / "loop.yaml").write_text(text)
    diary = run(tmp_path / "run", Config.fromfile(tmp_path / "loop.yaml")["train_cfg"])
    assert [at for _, at in diary.val_at] == expected_validations(9, 1, 4, [(5, 2), (7, 1)]) == [4, 6, 7, 8, 9]


def test_stop_training_ends_after_the_iteration(tmp_path: Path) -> None:
    class Stop(Hook):
        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            runner.train_loop.stop_training = batch_idx == 3

    diary = Diary()
    loop = {"by_epoch": False, "max_iters": 20}
    cfg = toy_cfg(tmp_path, train_cfg=loop, default_hooks__checkpoint=NO_SAVES, log_level="ERROR")
    assert assemble(cfg, extra_hooks=[Stop(), diary]).train()["iter"] == 4
    assert diary.stages[-3:] == ["after_train_epoch", "after_train", "after_run"]


@pytest.mark.parametrize("fp16", [False, True])
def test_a_validation_in_short_floats(tmp_path: Path, fp16: bool) -> None:
    class Typed(ToyModel):
        def val_step(self, data: Any) -> list[ToySample]:
            kinds.add(torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype)
            return super().val_step(data)

    kinds: set[torch.dtype] = set()
    changes = {"val_cfg": {"fp16": fp16}, "train_cfg": {"max_epochs": 1}, "log_level": "ERROR"}
    assemble(toy_cfg(tmp_path, model={"type": Typed}, **changes)).train()
    assert kinds == {torch.bfloat16 if fp16 else torch.float32}


def two_sets(folder: Path, **changes: Any) -> Any:
    cfg = toy_cfg(folder, log_level="ERROR", **changes)
    small = {**cfg["val_dataloader"], "dataset": {"type": ToyData, "size": 5, "noise": 0.0}}
    cfg["val_dataloader"] = [cfg["val_dataloader"], small]
    cfg["val_evaluator"] = [{"type": ToyMetric}, [{"type": ToyMetric}, {"type": ToyMetric, "prefix": "more"}]]
    return cfg


def test_several_validation_sets(tmp_path: Path) -> None:
    alone = assemble(toy_cfg(tmp_path / "alone", log_level="ERROR")).val()
    diary = Diary()
    runner = assemble(two_sets(tmp_path / "both"), extra_hooks=[diary])
    metrics = runner.val()
    assert {name: value for name, value in metrics.items() if not name.startswith("val2/")} == alone
    assert (metrics["val2/toy/count"], metrics["val2/more/count"]) == (5, 5)
    assert metrics["val2/toy/AP"] != metrics["toy/AP"]
    assert len(runner.val_dataloader) == 5 + 3
    assert diary.stages.count("before_val_iter") == 8
    assert [diary.stages.count(stage) for stage in ("before_val", "after_val_epoch", "after_val")] == [1, 1, 1]
    best = {"type": "CheckpointHook", "save_best": "val2/toy/AP"}
    result = assemble(two_sets(tmp_path / "train", default_hooks__checkpoint=best)).train()
    assert "best_val2_toy_AP_epoch_" in result["best_checkpoint"]


def test_as_many_evaluators_as_loaders(tmp_path: Path) -> None:
    cfg = two_sets(tmp_path)
    cfg["val_evaluator"] = [{"type": ToyMetric}]
    with pytest.raises(InputError, match="val_evaluator must be a list of 2, one for each loader, got a list of 1"):
        assemble(cfg).val()
    cfg = two_sets(tmp_path)
    cfg["val_dataloader"][1]["batchsize"] = 3
    with pytest.raises(InputError, match=r"val_dataloader\[1\] has no 'batchsize'"):
        assemble(cfg).val()
