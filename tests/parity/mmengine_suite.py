"""Run MMEngine's own tests for config, registry, optim, hooks and runner against raydet3d, through the aliases.

    git clone https://github.com/open-mmlab/mmengine
    python tests/parity/mmengine_suite.py --mmengine-repo mmengine

None of MMEngine's code is kept: its test files and its `mmengine/testing` are taken out of the repository into a
temporary folder. Every process that the tests start installs the aliases. A name that raydet3d lacks is replaced by a
placeholder that raises when it is used, so that one missing name does not hide a whole file.

`mmengine_suite.tsv` holds, for each case that does not pass, its id, a kind and the reason:

* `deliberate`: a difference that the documentation's page on differences lists; the reason quotes that page.
* `internals`: the case reads private attributes of MMEngine's classes, patches its modules or hands in mocks of them.

A case that fails and is not in the table is a fault; the command then exits with 1. With `--ignore-messages`, errors
may have any message: the cases whose reason is `OTHER_MESSAGES` must then pass, and no others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_suffix(".tsv")
FOLDERS = ("test_config", "test_registry", "test_optim", "test_hooks", "test_runner")
DIFFERENCES = ROOT / "raydet3d" / "docs" / "en" / "differences.md"
KINDS = ("deliberate", "internals")
OTHER_MESSAGES = "Errors have MMEngine's types and other messages."
FILE_TIMEOUT_S = 1800

# Imported by every python process that finds the folder on its path.
SITE_CUSTOMIZE = """
import importlib.util
import sys
from importlib.machinery import ModuleSpec


class _Placeholder(type):
    # MMEngine's RunnerTestCase clears `_instance_dict` after each test; constants are iterated over and compared.
    _instance_dict = {}

    def __getattr__(cls, name):
        raise NotImplementedError(f"placeholder: raydet3d has no {cls.__module__}.{cls.__name__}")

    def __iter__(cls):
        return iter(())

    def __call__(cls, *args, **kwargs):
        raise NotImplementedError(f"placeholder: raydet3d has no {cls.__module__}.{cls.__name__}")


def _placeholder(module, name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Placeholder(name, (), {"__module__": module})


def _install():
    from raydet3d.compat import finder

    class Finder(finder.AliasFinder):
        def find_spec(self, fullname, path=None, target=None):
            try:
                return super().find_spec(fullname, path, target)
            except finder.MissingAlias:
                if not fullname.startswith("mmengine."):
                    raise
                spec = ModuleSpec(fullname, self, is_package=True)
                spec.submodule_search_locations = []
                return spec

        def exec_module(self, module):
            if module.__name__ in finder.MODULES:
                super().exec_module(module)
            known = module.__dict__.get("__getattr__")

            def look_up(name):
                if known is not None:
                    try:
                        return known(name)
                    except AttributeError:
                        pass
                return _placeholder(module.__name__, name)

            module.__dict__["__getattr__"] = look_up

    finder.FINDER = Finder()
    resolve = finder.resolve

    def with_instances(target):
        value = resolve(target)
        if target.rpartition(":")[2] in ("MMLogger", "MessageHub", "VISUALIZERS/Visualizer"):
            value._instance_dict = {}
        return value

    finder.resolve = with_instances
    finder.install()


if importlib.util.find_spec("raydet3d") is not None:
    _install()
"""

# Small stand-ins for packages that the tests import and that need not be installed.
STUBS = {
    "parameterized.py": """
import sys


class parameterized:
    @staticmethod
    def expand(rows):
        def decorate(function):
            space = sys._getframe(1).f_locals
            for i, row in enumerate(rows):
                row = row if isinstance(row, (list, tuple)) else (row,)

                def case(self, row=row):
                    return function(self, *row)

                case.__name__ = f"{function.__name__}_{i}"
                space[case.__name__] = case

        return decorate
""",
    "expecttest.py": "from unittest import TestCase\n",
    "rich/__init__.py": "",
    "rich/progress.py": "class Progress:\n    pass\n",
}

CONFTEST = """
import json
import os

import pytest

if os.environ.get("MMENGINE_SUITE_IGNORE_MESSAGES"):
    import unittest

    raises = pytest.raises
    pytest.raises = lambda kind, *args, match=None, **kwargs: raises(kind, *args, **kwargs)
    unittest.TestCase.assertRaisesRegex = lambda self, kind, regex, *a, **k: self.assertRaises(kind, *a, **k)


def pytest_collection_modifyitems(items):
    import torch

    for item in items:
        if "test_sync_buffers_hook" in item.nodeid and torch.cuda.device_count() < 2:
            item.add_marker(pytest.mark.skip(reason="needs two GPUs"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash is not None else str(report.longrepr or "")
        with open(os.environ["MMENGINE_SUITE_RESULTS"], "a") as file:
            file.write(json.dumps([item.nodeid, report.outcome, reason[:2000]]) + "\\n")
    return report
"""


@dataclass(frozen=True)
class Case:
    """One test's outcome.

    Attributes:
        id: Path in MMEngine's repository and name, as pytest prints it.
        outcome: `passed`, `skipped` or `failed`.
        reason: Why it did not pass.
    """

    id: str
    outcome: str
    reason: str


def export(repository: Path, folder: Path) -> None:
    """Write MMEngine's tests and test helpers into a folder, and what the processes that run them need."""
    names = [*(f"tests/{name}" for name in FOLDERS), "tests/data", "mmengine/testing"]
    archive = subprocess.run(
        ["git", "-C", str(repository), "archive", "HEAD", *names], check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    for name, text in STUBS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -q --timeout 300\n")


def run_file(file: Path, folder: Path, keyword: str | None, *, ignore_messages: bool) -> list[Case]:
    """Run the tests of one file in a process of its own."""
    results = folder / f"{file.stem}.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "MMENGINE_SUITE_RESULTS": str(results),
        "OMP_NUM_THREADS": "1",
        "MMENGINE_SUITE_IGNORE_MESSAGES": "1" if ignore_messages else "",
    }
    name = str(file.relative_to(folder))
    command = [sys.executable, "-m", "pytest", name, *(["-k", keyword] if keyword else [])]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=FILE_TIMEOUT_S
        )
        output, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired:
        output, code = f"not finished after {FILE_TIMEOUT_S} s", 1
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    worst: dict[str, Case] = {}
    for row in rows:
        case = Case(*row)
        if case.id not in worst or case.outcome == "failed":
            worst[case.id] = case
    if code not in (0, 1, 5) or (not rows and code != 5):
        worst[name] = Case(name, "failed", output[-2000:])
    return list(worst.values())


def read_table() -> dict[str, tuple[str, str]]:
    """Return the kind and the reason of each case that is known not to pass."""
    table = {}
    for line in TABLE.read_text().splitlines() if TABLE.exists() else []:
        case, kind, reason = line.split("\t")
        if kind not in KINDS:
            raise SystemExit(f"{TABLE}: the kind of {case} must be {' or '.join(KINDS)}, got {kind!r}")
        table[case] = (kind, reason)
    return table


def undocumented(table: dict[str, tuple[str, str]]) -> list[str]:
    """Return the reasons of deliberate differences that the documentation's page does not have."""
    page = " ".join(DIFFERENCES.read_text().split())
    return sorted({reason for kind, reason in table.values() if kind == "deliberate" and reason not in page})


def report(cases: list[Case], table: dict[str, tuple[str, str]], *, whole: bool) -> int:
    """Print the faults and the counts.

    Returns:
        The exit code: 1 where there are faults, or rows of the table that pass.
    """
    counts: Counter[str] = Counter()
    for case in sorted(cases, key=lambda case: case.id):
        if case.outcome in ("passed", "skipped"):
            counts[case.outcome] += 1
        elif case.id in table:
            counts[table[case.id][0]] += 1
        else:
            counts["faults"] += 1
            print(f"FAULT {case.id}\n      {case.reason.strip().splitlines()[0] if case.reason.strip() else ''}")
    passed = {case.id for case in cases if case.outcome == "passed"}
    stale = sorted(set(table) & passed)
    if whole:
        stale += sorted(set(table) - {case.id for case in cases})
    for name in stale:
        print(f"STALE {name}: passes or does not exist, and is in {TABLE.name}")
    print(
        f"{len(cases)} cases: "
        + ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", *KINDS, "faults", "skipped"))
    )
    return int(bool(counts["faults"] or stale))


def main() -> int:
    """Run the suite."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mmengine-repo", type=Path, required=True, help="MMEngine's git repository, bare or not")
    parser.add_argument("--files", nargs="*", default=[], help="parts of file names to run, such as test_hooks/")
    parser.add_argument("-k", dest="keyword", help="pytest's -k")
    parser.add_argument("--ignore-messages", action="store_true", help="accept errors of the right type")
    parser.add_argument("--jobs", type=int, default=2, help="files at a time")
    parser.add_argument("--json", type=Path, help="write all outcomes there")
    args = parser.parse_args()
    table = read_table()
    if args.ignore_messages:
        table = {case: row for case, row in table.items() if row[1] != OTHER_MESSAGES}
    run = partial(run_file, keyword=args.keyword, ignore_messages=args.ignore_messages)
    with tempfile.TemporaryDirectory(prefix="mmengine_suite_") as name:
        folder = Path(name)
        export(args.mmengine_repo, folder)
        files = [f for part in FOLDERS for f in sorted((folder / "tests" / part).rglob("test_*.py"))]
        if args.files:
            files = [f for f in files if any(part in str(f.relative_to(folder)) for part in args.files)]
        with ThreadPoolExecutor(args.jobs) as pool:
            cases = [case for some in pool.map(lambda f: run(f, folder), files) for case in some]
    if args.json:
        args.json.write_text(json.dumps([vars(case) for case in cases], indent=1))
    return report(cases, table, whole=not (args.files or args.keyword))


if __name__ == "__main__":
    raise SystemExit(main())
