"""State of a run: what is taken from log lines, and how it is shown."""

from __future__ import annotations

import importlib.util

import pytest

from raydet3d.run_status import RunStatus

HEAD = "11/30 13:00:00 - raydet3d - INFO - "
LINE = (
    f"{HEAD}Epoch(train)  [2][ 50/100]  base_lr: 1.0e-02 lr: 1.0e-03  eta: 1 day, 2:00:05  time: 0.5000  "
    "data_time: 0.1000  memory: 812  grad_norm: 3.0000  loss: 1.5000  loss_cls: nan"
)


def test_a_training_line_is_read() -> None:
    status = RunStatus(max_epochs=4)
    assert status.read_log_line(LINE)
    assert (status.epoch, status.iteration, status.max_iters) == (2, 150, 400)
    assert status.eta_s == 86400 + 2 * 3600 + 5
    assert (status.memory_mib, status.data_share) == (812, pytest.approx(0.2))
    assert status.losses["loss"] == 1.5
    assert set(status.losses) == {"loss", "loss_cls"}


def test_an_iteration_based_line_is_read() -> None:
    status = RunStatus()
    assert status.read_log_line("Iter(train) [ 30/120]  lr: 1e-3  eta: 0:00:09")
    assert (status.epoch, status.iteration, status.max_iters, status.eta_s, status.lr) == (None, 30, 120, 9, 1e-3)


def test_other_lines_tell_workers_speed_and_the_best_score() -> None:
    status = RunStatus()
    for line in (
        "raydet3d 0.1, Python 3.11, torch 2.13.0+cpu, 2 process(es) on CPU, 1 torch threads each, seed 3",
        "throughput: 41.5 samples/s; by worker, with ...: rank 0 20.0 (50 %)",
        "The best checkpoint with 61.2000 Kitti metric/x at 3 epoch is saved to best.pth.",
    ):
        assert status.read_log_line(f"{HEAD}{line}")
    assert (status.workers, status.samples_per_s, status.best) == (2, 41.5, {"Kitti metric/x": 61.2})
    assert not status.read_log_line(f"{HEAD}Saving checkpoint at 3 epochs")


def test_rows_have_no_control_characters() -> None:
    status = RunStatus(name="work_dirs/toy", max_epochs=4, workers=2, best={"toy/AP": 3.5}, restarts=1, bad_steps=2)
    status.read_log_line(LINE)
    rows = status.rows()
    assert all(row.isprintable() for row in rows)
    assert rows[0] == "work_dirs/toy running"
    assert rows[1] == "[#########...............] 37 %  iteration 150/400  epoch 2/4  eta 26:00:05"
    assert rows[-1] == "best AP 3.5  1 restart  2 bad steps"
    assert RunStatus().rows() == ["running"]


def test_a_finished_run_has_no_time_left() -> None:
    assert "eta" not in " ".join(RunStatus(state="finished", iteration=5, eta_s=3.0).rows())


@pytest.mark.parametrize("width", [40, 100])
def test_the_panel_fits_the_terminal(width: int) -> None:
    status = RunStatus(name="work_dirs/toy", max_epochs=4, best={f"metric_{i}": 1.0 for i in range(9)})
    status.read_log_line(LINE)
    lines = status.panel(width).split("\n")
    if importlib.util.find_spec("rich") is None:
        assert all(len(line) < width and line.isprintable() for line in lines)
    else:
        from rich.text import Text

        assert all(Text.from_ansi(line).cell_len < width for line in lines)
