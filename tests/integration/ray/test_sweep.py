"""Sweeps on a real Ray: early stops, failures, copies, limits, and what is left behind. Trials are toys."""

from __future__ import annotations

import csv
import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet3d.config import Config
from raydet3d.launch.run_spec import RunSpec
from raydet3d.launch.worker import run_worker
from raydet3d.sweep.results import Results
from tests.kit.sweeps import read_spy, write_config

pytestmark = pytest.mark.ray

BASE: dict[str, Any] = {"metric": "AP", "mode": "max", "keep": {"trials": 2}}


def run(folder: Path, config: Path, **source: Any) -> Results:
    from raydet3d.tune import sweep

    return sweep(config, {**BASE, **source}, work_dir=folder / "sweep")


def free_cpus() -> float:
    """CPUs that nobody has reserved, once what was released has arrived."""
    from raydet3d.launch.retry_loop import ray

    for _ in range(100):
        free = ray.available_resources().get("CPU", 0.0)
        if free == ray.cluster_resources()["CPU"]:
            break
        time.sleep(0.1)
    return float(free)


@pytest.fixture(scope="module")
def mixed(two_cpus: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """One sweep with trials that finish, are stopped early or fail; one at a time, so none overtakes another."""
    folder = tmp_path_factory.mktemp("mixed")
    config = write_config(folder)
    results = run(
        folder,
        config,
        trials=9,
        concurrency=1,
        resources={"max_failures": 1},
        scheduler={"type": "asha", "grace_period": 1, "reduction_factor": 2},
        space={"lr": {"loguniform": [1e-6, 1e-2]}, "mood": ["well", "raises", "nan", "hungry", "killed"]},
        baseline=[
            {},
            {"lr": 0.03, "mood": "raises"},
            {"lr": 0.031, "mood": "nan"},
            {"lr": 0.032, "mood": "hungry"},
            {"lr": 0.033, "mood": "killed"},
            {"lr": 0.02, "mood": "well"},
            {"lr": 1e-5, "mood": "well"},
            {"lr": 2e-5, "mood": "well"},
            {"lr": 3e-5, "mood": "well"},
        ],
    )
    return results, config


def test_failed_trials_give_their_reason_and_asha_stops_the_bad_ones(mixed: tuple[Results, Path]) -> None:
    results, _ = mixed
    states = {trial.id: trial for trial in results.trials}
    # After epoch 1 each of the failing trials is the best so far; 005 to 008 are below the median of the others there.
    assert {name: (trial.state, trial.at) for name, trial in states.items()} == {
        "000": ("done", 4),
        **{f"00{number}": ("failed", 1) for number in range(1, 5)},
        **{f"00{number}": ("stopped", 1) for number in range(5, 9)},
    }
    assert {trial.id for trial in results.trials[-4:]} == {"001", "002", "003", "004"}  # ranked last
    assert states["001"].reason == "ValueError: a mistake in somebody's code"
    assert states["002"].reason in ("AP is nan at epoch 2", "loss is nan at epoch 2")
    assert states["003"].reason.startswith("out of memory: Unable to allocate")
    assert states["004"].reason.startswith("out of memory? its process was killed (SIGKILL)")
    assert results.best is not None
    assert results.best.id == "000"


def test_trials_stopped_early_leave_no_cpu_reserved(mixed: tuple[Results, Path]) -> None:
    results, _ = mixed
    stopped = [trial for trial in results.trials if trial.state == "stopped"]
    assert stopped
    assert all(trial.at < trial.length and trial.reason == "asha" for trial in stopped)
    assert free_cpus() == 2
    assert not (results.folder / ".ray").exists()


def test_values_computed_from_a_swept_variable_follow_it(mixed: tuple[Results, Path]) -> None:
    results, _ = mixed
    seen = set()
    for trial in results.trials:
        cfg = Config.fromfile(results.folder / "trials" / trial.id / "toy.py", import_custom_modules=False)
        lr = trial.setting.get("lr", 0.01)
        assert cfg.optim_wrapper.optimizer.lr == lr
        assert cfg.param_scheduler[1].eta_min == pytest.approx(lr * 0.1)
        first = read_spy(results.folder / "trials" / trial.id)[1]
        assert first["lr"] == pytest.approx(_rate_after(lr, epoch=1), rel=1e-3)
        seen.add(trial.digest)
    assert len(seen) == len(results.trials)


def _rate_after(lr: float, *, epoch: int, of: int = 4, steps: int = 12) -> float:
    """The toy's two schedules by torch's own classes, stepped once an iteration."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedulers = torch.optim.lr_scheduler
    both = [
        schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=9),
        schedulers.CosineAnnealingLR(optimizer, T_max=steps * of, eta_min=lr * 0.1),
    ]
    for _ in range(steps * epoch):
        optimizer.step()
        for scheduler in both:
            scheduler.step()
    return float(optimizer.param_groups[0]["lr"])


def test_each_trial_writes_record_log_and_tensorboard_files(mixed: tuple[Results, Path]) -> None:
    results, _ = mixed
    for trial in results.trials:
        folder = results.folder / "trials" / trial.id
        record = json.loads((folder / "trial.json").read_text())
        assert (record["setting"], record["digest"]) == (trial.setting, trial.digest)
        assert (folder / "gen0" / "gen0.log").stat().st_size > 0
        assert list(folder.glob("gen0/vis_data/**/events.out.tfevents.*")), "no TensorBoard file"


def test_only_the_two_best_trials_keep_checkpoints(mixed: tuple[Results, Path]) -> None:
    results, _ = mixed
    with_files = {path.parent.name for path in results.folder.glob("trials/*/*.pth")}
    assert with_files == {trial.id for trial in results.trials[:2]}


def test_results_are_written_as_table_and_page_without_links(mixed: tuple[Results, Path]) -> None:
    results, _ = mixed
    with (results.folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [trial.id for trial in results.trials]
    assert float(rows[0]["toy/AP"]) == results.best.best("max")  # type: ignore[union-attr]
    assert rows[-1]["toy/AP"] == ""
    page = (results.folder / "report.html").read_text()
    for title in ("toy/AP", "Settings and scores", "Learning rate", "Momentum", "Loss"):
        assert f'aria-label="{title}"' in page
    assert "http://" not in page
    assert "https://" not in page
    assert "out of memory" in page


def test_training_the_best_config_repeats_the_best_trial(mixed: tuple[Results, Path], tmp_path: Path) -> None:
    results, _ = mixed
    assert results.best is not None
    cfg = Config.fromfile(results.best_config)
    cfg["work_dir"] = str(tmp_path)
    plan = RunSpec(
        cfg=cfg.to_dict(), filename=str(results.best_config), run_id="again", threads=cfg.ray.threads_per_worker
    )
    run_worker(plan)
    lines = [json.loads(line) for line in (tmp_path / "scalars.json").read_text().splitlines()]
    again = {line["step"]: line["toy/AP"] for line in lines if line["mode"] == "val"}
    assert {report["at"]: report["score"] for report in results.best.reports}.items() <= again.items()


def test_a_finished_sweep_is_not_run_again_and_a_changed_one_is_refused(mixed: tuple[Results, Path]) -> None:
    from raydet3d.errors import InputError
    from raydet3d.tune import sweep

    results, config = mixed
    spec = json.loads((results.folder / "sweep.json").read_text())["spec"]
    before = {path: path.stat().st_mtime_ns for path in results.folder.glob("trials/*/reports.jsonl")}
    again = sweep(config, spec, work_dir=results.folder)
    assert [trial.id for trial in again.trials] == [trial.id for trial in results.trials]
    assert before == {path: path.stat().st_mtime_ns for path in results.folder.glob("trials/*/reports.jsonl")}
    with pytest.raises(InputError, match="holds a sweep with another scheduler"):
        sweep(config, {**spec, "scheduler": "fifo"}, work_dir=results.folder)
    config.write_text(config.read_text().replace("max_norm=10", "max_norm=11"))
    with pytest.raises(InputError, match="over another config"):
        sweep(config, spec, work_dir=results.folder)


def check_copies(results: Results, *, of: int, steps: int = 12) -> int:
    """Count the copies, each of which has its donor's weights at its begin and then another learning rate."""
    copies = 0
    for trial in results.trials:
        mine = read_spy(results.folder / "trials" / trial.id)
        for number, exploit in enumerate(trial.exploits, 1):
            donor = read_spy(results.folder / "trials" / exploit["donor"])
            begins = [e for e in mine if e["start"] == f"gen{number}" and e["what"] == "begin"]
            assert begins, f"{trial.id} never began its generation {number}"
            given = {e["weight"] for e in donor if e["what"] == "epoch" and e["epoch"] == begins[0]["epoch"]}
            assert begins[0]["weight"] in given
            assert begins[0]["weight"] not in {e["weight"] for e in mine if e["start"] == f"gen{number - 1}"}
            copies += 1
            later = trial.exploits[number] if number < len(trial.exploits) else None
            now = later["before"] if later else trial.setting
            assert now["lr"] != exploit["donors"]["lr"]
            for entry in mine:  # the schedule is the new setting's, from the copied point on
                if entry["start"] == f"gen{number}" and entry["what"] == "epoch" and 1 < entry["epoch"] < of:
                    assert entry["lr"] == pytest.approx(
                        _rate_after(now["lr"], epoch=entry["epoch"], of=of, steps=steps), rel=1e-3
                    )
    return copies


def test_pbt_copies_weights_of_good_trials_and_perturbs_their_settings(two_cpus: None, tmp_path: Path) -> None:
    results = run(
        tmp_path,
        write_config(tmp_path),
        trials=4,
        scheduler={"type": "pbt", "interval": 1, "mutate": {"lr": {"loguniform": [1e-3, 5e-2]}}, "resample": 0.0},
        space={"lr": {"choice": [1e-6, 2e-6, 1e-2, 2e-2]}},
        cfg_options={"epochs": 5},
        keep={"last": 1, "best": 0},
    )
    assert [trial.state for trial in results.trials] == ["done"] * 4
    assert check_copies(results, of=5) >= 2
    assert min(trial.best("max") or 0 for trial in results.trials) > 55  # alone, the bad ones stay below 54
    assert not list((results.folder / "pins").iterdir())


def test_the_folder_never_exceeds_its_byte_limit(two_cpus: None, tmp_path: Path) -> None:
    # 36 checkpoints of 40 kB, logs and a report of 0.4 MB each: without the limit this sweep would leave 2.3 MB.
    limit, most, done = 1_600_000, [0], threading.Event()

    def look() -> dict[int, int]:
        sizes = {}
        for path in (tmp_path / "sweep").rglob("*"):
            with suppress(OSError):
                stat = path.lstat()
                sizes[stat.st_ino] = max(stat.st_size, stat.st_blocks * 512)
        return sizes

    def watch() -> None:
        # A look takes its time, in which files come and go: only what two of them saw was there at one moment.
        before = look()
        while not done.wait(0.002):
            now = look()
            most[0] = max(most[0], sum(min(now[inode], size) for inode, size in before.items() if inode in now))
            before = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        results = run(
            tmp_path,
            write_config(tmp_path),
            trials=6,
            space={"lr": {"loguniform": [1e-4, 1e-2]}},
            cfg_options={"epochs": 6},
            keep={"last": 5, "best": 5, "bytes": limit},
        )
    finally:
        done.set()
        watcher.join()
    assert most[0] <= limit + 50_000
    best = results.best
    assert best is not None
    best_at = next(report["epoch"] for report in best.reports if report["score"] == best.best("max"))
    assert (results.folder / "trials" / best.id / f"epoch_{best_at}.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler", [{"type": "hyperband", "reduction_factor": 2}, {"type": "median", "grace_period": 2, "min_samples": 2}]
)
def test_hyperband_and_median_run_all_trials_to_an_end(
    two_cpus: None, tmp_path: Path, scheduler: dict[str, Any]
) -> None:
    results = run(
        tmp_path,
        write_config(tmp_path),
        trials=6,
        scheduler=scheduler,
        space={"lr": {"loguniform": [1e-6, 1e-2]}},
        cfg_options={"epochs": 6},
    )
    states = {trial.state for trial in results.trials}
    # HyperBand's first brackets, which are all that six short trials fill, are those that stop nobody.
    assert states == {"done", "stopped"} if scheduler["type"] == "median" else states <= {"done", "stopped"}
    assert len(results.trials) == 6


@pytest.mark.slow
def test_seeds_are_ranked_by_their_mean_and_a_budget_ends_the_sweep(two_cpus: None, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    source = {"search": "grid", "space": {"lr": [1e-5, 1e-2]}, "seeds": [4, 7], "cfg_options": {"epochs": 3}}
    first = run(tmp_path, config, **source, budget={"epochs": 7})
    assert 7 <= sum(trial.at for trial in first.trials) <= 9
    results = run(tmp_path, config, **source)  # with more to spend, it goes on
    assert [(trial.number, trial.state) for trial in results.trials] == [(1, "done")] * 2 + [(0, "done")] * 2
    assert {trial.seed for trial in results.trials} == {4, 7}
    assert len({trial.best("max") for trial in results.trials}) == 4
    rows = results.rows()
    assert rows[0]["mean"] == rows[1]["mean"] == pytest.approx((rows[0]["toy/AP"] + rows[1]["toy/AP"]) / 2)
