"""The run that is at work: stand-ins follow it, also when they were asked for before, and two runs stay apart."""

from __future__ import annotations

import logging
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydet3d.active_run import ActiveRunProxy, activate
from raydet3d.hooks import Hook
from raydet3d.log import MMLogger, print_log
from raydet3d.runtime import Runner
from raydet3d.runtime.history import MessageHub
from raydet3d.visual import Visualizer
from tests.kit.toy import ToyModel, toy_cfg


def test_proxy_follows_the_active_run() -> None:
    first, second = (SimpleNamespace(part=SimpleNamespace(value=value)) for value in (1, 2))
    part = ActiveRunProxy("part", lambda: SimpleNamespace(value=0))
    assert part.value == 0
    with activate(first):
        assert part.value == 1
        with activate(second):
            assert part.value == 2
            part.value = 5
        assert part.value == 1
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(part.value))
        thread.start()
        thread.join()
        assert seen == [0]  # another thread has no run
    assert (second.part.value, part.value) == (5, 0)


def test_proxy_is_an_instance_of_the_class_behind_it() -> None:
    assert isinstance(MMLogger.get_current_instance(), logging.Logger)
    assert isinstance(MessageHub.get_instance("any"), MessageHub)
    assert isinstance(Visualizer.get_current_instance(), Visualizer)


def test_proxy_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(MessageHub.get_current_instance())).log_scalars == {}


class Asking(ToyModel):
    """Asks for everything as it is made, as MMEngine's users do, and uses it later."""

    def __init__(self) -> None:
        super().__init__(dropout=0)
        self.hub = MessageHub.get_current_instance()
        self.log = MMLogger.get_instance("mmengine")
        self.visualizer = Visualizer.get_current_instance()

    def forward(self, *args: Any, mode: str = "tensor", **kwargs: Any) -> Any:
        if mode == "loss":
            self.hub.update_scalar("train/calls", self.calls + 1)
            self.log.info("call %d", self.calls + 1)
            assert self.visualizer.add_scalar is not None
        return super().forward(*args, mode=mode, **kwargs)


def test_two_runs_of_one_process_are_separate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for name, epochs in (("one", 1), ("two", 2)):
        cfg = toy_cfg(tmp_path / name, model={"type": Asking}, train_cfg__max_epochs=epochs)
        runs.append(Runner.from_cfg(cfg))
    for runner in runs:
        runner.train()
    counts = [runner.message_hub.get_scalar("train/calls").count for runner in runs]
    assert counts == [12, 24]
    logs = [next((tmp_path / name).glob("2*/2*.log")).read_text() for name in ("one", "two")]
    assert [text.count("- call ") for text in logs] == counts


class Prints(Hook):
    def before_train(self, runner: Any) -> None:
        print_log("to the run", logger="current")
        print_log("by any name", logger="mmengine", level=logging.WARNING)
        print_log("nowhere", logger="silent")
        print_log("just printed")


def test_print_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = Runner.from_cfg(toy_cfg(tmp_path, train_cfg__max_epochs=1), extra_hooks=[Prints()])
    runner.train()
    runner.close()
    (log,) = tmp_path.glob("2*/2*.log")
    text = log.read_text()
    assert "INFO - to the run" in text
    assert "WARNING - by any name" in text
    assert "nowhere" not in text + capsys.readouterr().out
    assert "just printed" not in text
