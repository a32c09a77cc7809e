"""Schedules that the first table lacks, against MMEngine's numbers; the table of random cases; and MMEngine itself.

ReduceOnPlateau for all fields, the ``...ParamScheduler`` names, lists of peaks and floors, several optimizers.
"""

import gzip
import inspect
import json
import os
import subprocess

import pytest

from raydet3d.registry import PARAM_SCHEDULERS
from tests.kit.cases import names
from tests.parity.mmengine_optim import (
    RECORDED,
    TABLE,
    ask,
    build_ours,
    difference,
    draw,
    is_good,
    run,
)

CASES = json.loads(gzip.decompress(RECORDED.read_bytes()))["cases"]


def _title(case):
    schedule = case["param_scheduler"]
    lists = schedule.values() if isinstance(schedule, dict) else [schedule]
    return "/".join("+".join(cfg["type"] for cfg in some) for some in lists)


def test_what_is_recorded_is_what_was_lacking():
    kinds = {cfg["type"] for case in CASES if "several" not in case for cfg in case["param_scheduler"]}
    assert {n for n in names() if n.endswith("ParamScheduler") or n.startswith("ReduceOnPlateau")} <= kinds
    firsts = [case["param_scheduler"][0] for case in CASES if isinstance(case["param_scheduler"], list)]
    assert sum(isinstance(cfg.get("eta_max"), list) for cfg in firsts) >= 8
    assert sum(isinstance(cfg.get("min_value"), list) for cfg in firsts) >= 2
    several = [case for case in CASES if "several" in case]
    assert len(several) == 12
    assert {type(case["param_scheduler"]) for case in several} == {list, dict}


@pytest.mark.parametrize("case", CASES, ids=_title)
def test_recorded(case):
    (ours,) = run([case], build_ours)
    found = difference(ours, case["seen"])
    assert found
    assert is_good(found), found


def _table(heading):
    """Rows of a table of the report, as dicts by the head of their columns."""
    part = TABLE.read_text(encoding="utf-8").split(f"## {heading}")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_the_table_shows_every_scheduler_with_every_argument():
    text = TABLE.read_text(encoding="utf-8")
    assert " 0 differ" in text
    rows = {row["scheduler"]: row for row in _table("Schedulers")}
    assert set(rows) == set(names())
    assert len(rows) == 29
    # What every run gives (optimizer) and what draws nothing (see test_schedule.py) aside.
    aside = {"optimizer", "last_step", "verbose"}
    for name, row in rows.items():
        assert int(row["committed"]) > 0, name
        assert int(row["random"]) >= 30, name
        shown = {item.rsplit(" ", 1)[0] for item in row["arguments"].split(", ")}
        wanted = set(inspect.signature(PARAM_SCHEDULERS.get(name)).parameters) - aside
        assert wanted <= shown, (name, wanted - shown)
        assert "convert_to_iter_based" in shown or name.startswith("ReduceOnPlateau")


def test_the_table_shows_every_pair():
    for row in _table("One after the other"):
        first = row.pop("first, then")
        for then, count in row.items():
            assert int(count) > 0 or first == then == "OneCycle", (first, then)


def _other_python():
    """A Python that has MMEngine, where the environment names one."""
    python = os.environ.get("RAYDET3D_MMENGINE_PYTHON")
    if not python:
        pytest.skip("RAYDET3D_MMENGINE_PYTHON names no Python with MMEngine")
    if subprocess.run([python, "-c", "import mmengine.optim"], capture_output=True, check=False).returncode:
        pytest.skip(f"{python} has no MMEngine")
    return python


def test_the_installed_mmengine_agrees_on_cases_that_nobody_has_seen():
    python = _other_python()
    cases = json.loads(json.dumps(draw(58, 1)))
    theirs = ask(cases, python)["seen"]
    for case, mine, other in zip(cases, run(cases, build_ours), theirs, strict=True):
        assert is_good(difference(mine, other)), (case, difference(mine, other))
