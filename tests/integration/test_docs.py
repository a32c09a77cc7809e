"""README and documentation: complete in both languages, and every code block that can run does run.

The comment before a Python or shell block says what a test does with it:
`example: NAME, FILE` (a user's file, or with FILE `config` the config beside it: a toy is trained with both),
`config` (a fragment of a config: read and checked over a shipped config), `run` (run as it is), `no-run: REASON`.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raydet3d import registry
from raydet3d.config import Config
from raydet3d.runtime import assemble
from tests.kit.docs import DOCS, README, ROOT, Block, blocks, pages, stale_pages
from tests.kit.toy import toy_cfg

ENGLISH = [README, *pages("en")]
BLOCKS = [block for page in ENGLISH for block in blocks(page)]
RUNNABLE = ("python", "bash", "sh", "shell", "console")
TABLES = ("HOOKS", "OPTIMIZERS", "PARAM_SCHEDULERS", "LOOPS", "MODELS", "DATASETS", "TRANSFORMS", "METRICS")
BASE = "configs/pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"


def marked(mark: str) -> list[Block]:
    return [block for block in BLOCKS if block.mark == mark]


def where(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


def examples() -> dict[str, dict[str, str]]:
    """The blocks of each example, by file name."""
    found: dict[str, dict[str, str]] = {}
    for block in BLOCKS:
        if block.mark.startswith("example: "):
            name, file = block.mark.removeprefix("example: ").split(", ")
            found.setdefault(name, {})[file] = block.text
    return found


def train_example(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train the toy with an example's file and config."""
    files = dict(examples()[name])
    text = files.pop("config")
    for file, code in files.items():
        (folder / file).write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    (folder / "example.py").write_text(text, encoding="utf-8")
    for table in TABLES:
        monkeypatch.setattr(getattr(registry, table), "_table", dict(getattr(registry, table)._table))
    given = Config.fromfile(folder / "example.py").to_dict()
    given.pop("custom_imports")
    runner = assemble(toy_cfg(folder / "run", log_level="ERROR", **given))
    runner.train()
    for file in files:
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
    return runner


def test_hook_example_prints_every_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_example(tmp_path, "hook", monkeypatch)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["10", "20", "30"]


def test_optimizer_example_lowers_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = train_example(tmp_path, "optimizer", monkeypatch)
    assert type(runner.optim_wrapper.optimizer).__name__ == "SignSGD"
    losses = runner.message_hub.get_scalar("train/loss").data
    assert sum(losses[-6:]) < sum(losses[:6])


def test_schedule_example_changes_the_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = train_example(tmp_path, "schedule", monkeypatch)
    rates = runner.message_hub.get_scalar("train/lr").data
    assert rates[:6] == pytest.approx([0.01, 0.005, 0.0025, 0.00125, 0.01, 0.005])


def test_loop_example_replaces_the_train_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = train_example(tmp_path, "loop", monkeypatch)
    assert type(runner.train_loop).__name__ == "PatientTrainLoop"
    assert runner.message_hub.get_scalar("val/toy/AP").count == 4


def test_every_example_has_a_test() -> None:
    assert set(examples()) == {"hook", "optimizer", "schedule", "loop"}


def test_every_code_block_says_how_it_is_tested() -> None:
    silent = [where(block) for block in BLOCKS if block.language in RUNNABLE and not block.mark]
    assert not silent


@pytest.mark.parametrize("block", marked("config"), ids=where)
def test_config_fragments_are_accepted(block: Block, tmp_path: Path) -> None:
    text = block.text if "_base_" in block.text else f"_base_ = [{str(ROOT / BASE)!r}]\n{block.text}"
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "fragment.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "raydet3d.show", "config", str(tmp_path / "fragment.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", marked("run"), ids=where)
def test_code_blocks_run(block: Block, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    for name in ("configs", "cluster"):
        (tmp_path / name).symlink_to(ROOT / name)
    shell = ["bash", "-euo", "pipefail", "-c"] if block.language != "python" else [sys.executable, "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        [*shell, block.text], cwd=tmp_path, env={**env, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{where(block)}\n{done.stdout}\n{done.stderr}"


def test_both_languages_have_the_same_pages() -> None:
    assert [page.name for page in pages("zh")] == [page.name for page in pages("en")]


@pytest.mark.parametrize("page", pages("zh"), ids=lambda page: page.name)
def test_both_languages_show_the_same_code(page: Path) -> None:
    """Code is tested in the English page; a translation may not differ in it, comments included."""
    translated = [(block.language, block.text) for block in blocks(page)]
    assert translated == [(block.language, block.text) for block in blocks(DOCS / "en" / page.name)]


def test_translations_are_up_to_date() -> None:
    assert stale_pages() == [], "translate what changed, then `python -m tests.kit.docs --stamp PAGE`"


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


def test_documentation_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / ".mkdocs.yml")]
    done = subprocess.run([*command, "-d", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", pages("en"), ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*\.(?:py|yaml))`", page.read_text(encoding="utf-8")))
    roots = (ROOT, ROOT / "raydet3d", ROOT / "configs")
    missing = [
        name
        for name in sorted(named)
        if not name.startswith("tools/") and not any((root / name).exists() for root in roots)
    ]
    assert not missing
