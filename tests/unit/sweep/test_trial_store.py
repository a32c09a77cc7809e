"""A sweep's records: read back whole, and as far as it goes where they are damaged; ranks; locks."""

import subprocess
import sys
from pathlib import Path

import pytest

from raydet3d.errors import InputError
from raydet3d.files import append_json_line, locked
from raydet3d.sweep.trial_store import DONE, FAILED, REPORTS, RUNNING, STOPPED, Trial, TrialStore


def trial(name: str, *scores: float, state: str = DONE, number: int | None = None) -> Trial:
    reports = [{"at": i + 1, "score": score, "time": float(i)} for i, score in enumerate(scores)]
    number = int(name.split("-")[0]) if number is None else number
    return Trial(
        id=name, number=number, setting={"lr": 0.1}, seed=1, digest=name, state=state, length=4, reports=reports
    )


def write(ledger: TrialStore, one: Trial) -> Path:
    ledger.create(one)
    for report in one.reports:
        append_json_line(ledger.folder(one.id) / REPORTS, report)
    return ledger.folder(one.id)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    ledger = TrialStore(tmp_path)
    some = [trial("000", 1.0, 2.0, state=STOPPED), trial("001", state=RUNNING)]
    for one in some:
        write(ledger, one)
    assert ledger.load() == (some, [])


def test_reports_of_a_resumed_run_replace_later_ones(tmp_path: Path) -> None:
    folder = write(TrialStore(tmp_path), trial("000", 1.0, 2.0, 3.0))
    append_json_line(folder / REPORTS, {"at": 2, "score": 5.0, "time": 9.0})
    with (folder / "reports.jsonl").open("a") as file:
        file.write('{"at": 3, "sco')  # killed while writing
    assert [(r["at"], r["score"]) for r in TrialStore(tmp_path).reports("000")] == [(1, 1.0), (2, 5.0)]


def test_damaged_records_are_named_and_the_rest_is_saved(tmp_path: Path) -> None:
    ledger = TrialStore(tmp_path)
    whole, cut = write(ledger, trial("000", 1.0)), write(ledger, trial("001", 1.0, 2.0, state=RUNNING))
    ended, lost = write(ledger, trial("002", 1, 2, 3, 4, state=RUNNING)), write(ledger, trial("003", 1.0))
    assert whole
    for folder in (cut, ended, lost):
        (folder / "trial.json").write_text('{"id": "00')
    (lost / "setting.json").write_text("")
    trials, wrong = ledger.load()
    assert [t.state for t in trials] == [DONE, "waiting", DONE, FAILED]
    assert trials[1].setting == {"lr": 0.1}
    assert [len(t.reports) for t in trials] == [1, 2, 4, 1]
    assert len(wrong) == 3
    assert wrong[0] == "the record of trial 001 cannot be read: it resumes from its checkpoints"
    assert wrong[2] == "the record of trial 003 cannot be read: its setting is lost, so it counts as failed"


def test_a_lock_is_held_against_other_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = (
        "import sys; from pathlib import Path; from raydet3d.files import locked\n"
        f"with locked(Path({str(path)!r}), timeout_s=1, busy=''):\n print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="taken"), locked(path, timeout_s=0.1, busy="taken"):
            pass
        other.kill()
    with locked(path, timeout_s=5, busy="taken"):
        pass
