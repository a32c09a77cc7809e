"""Our config loader against MMEngine's, on small configs for each rule of the language; the differences are on purpose.

What MMEngine (0.10.7) makes of them is stored; ``config_cases.py`` asks it anew.
"""

from pathlib import Path
from typing import Any

import pytest

from raydet3d.config import Config, parse_options
from raydet3d.errors import InputError
from tests.kit.mmengine import skip_without_mmengine
from tests.parity.config_cases import CASES, Case, ask, read_table, without_folder, write_case
from tests.parity.configs import mmengine_python
from tests.parity.mmengine_side import encoded

THEIRS = read_table()
AS_THEIRS = [name for name, case in CASES.items() if case.ours is None]
BETTER = [name for name, case in CASES.items() if case.ours is not None]


def ours(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in case.env.items():
        monkeypatch.setenv(name, value)
    path = write_case(case, folder)
    try:
        cfg = Config.fromfile(path, parse_options(case.options), import_custom_modules=False)
        if case.to:
            cfg.dump(folder / f"dumped{case.to}")
            cfg = Config.fromfile(folder / f"dumped{case.to}", import_custom_modules=False)
        return {"value": without_folder(encoded(cfg.to_dict()), folder)}
    except InputError as error:
        return {"error": str(error)}


def test_the_table_is_of_these_cases() -> None:
    assert list(THEIRS) == list(CASES)
    assert len(AS_THEIRS) > 100


def test_the_table_is_what_mmengine_says() -> None:
    """Where there is one: ``RAYDET3D_MMENGINE_PYTHON`` names a python that has it."""
    skip_without_mmengine()
    assert ask(mmengine_python()) == THEIRS


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", AS_THEIRS)
def test_as_theirs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ours(CASES[name], tmp_path, monkeypatch)
    assert ("error" in mine) == ("error" in THEIRS[name]), (mine, THEIRS[name])
    assert mine.get("value") == THEIRS[name].get("value")


@pytest.mark.parametrize("name", BETTER)
def test_better_than_theirs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    assert case.why
    mine = ours(case, tmp_path, monkeypatch)
    if isinstance(case.ours, str):
        assert case.ours in mine["error"]
    else:
        expected = encoded(case.ours)
        assert "value" in mine, mine
        inside(expected, mine["value"], exact=not case.options)
    assert mine.get("value") != THEIRS[name].get("value")


def inside(expected: Any, found: Any, *, exact: bool) -> None:
    """``found`` is as expected; as far as that goes where it is not exact: overrides are told by what they change."""
    if isinstance(expected, dict) and isinstance(found, dict) and not exact:
        for key, value in expected.items():
            inside(value, found[key], exact=exact)
    else:
        assert found == expected
