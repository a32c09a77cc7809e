"""Dumped configs: they load equal, without secrets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raydet3d.config import Config
from raydet3d.config.dump import to_text
from tests.kit.input_errors import message

Write = Callable[..., Path]
THREE_CLASSES = "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
CARS = "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abc-", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("suffix", [".py", ".yaml", ".yml", ".json"])
@pytest.mark.parametrize("name", [THREE_CLASSES, CARS])
def test_loads_equal(tmp_path: Path, name: str, suffix: str) -> None:
    cfg = Config.fromfile(name)
    text = cfg.dump(tmp_path / "deep" / f"dump{suffix}")
    again = Config.fromfile(tmp_path / "deep" / f"dump{suffix}")
    assert again == cfg
    if suffix != ".json":  # which knows no tuples
        assert again.to_dict() == cfg.to_dict()
    assert text == (tmp_path / "deep" / f"dump{suffix}").read_text()
    if suffix == ".py":
        assert text == cfg.pretty_text
        assert max(map(len, text.splitlines())) <= 110


@example({"a": "\x85", "b_1": "0E0", "x": "1e5"})
@given(st.dictionaries(st.sampled_from(["a", "b_1", "x"]), PLAIN, max_size=3))
def test_any_plain_data_reads_back(values: dict[str, Any]) -> None:
    for suffix in (".py", ".yaml", ".json"):
        again = Config.fromstring(to_text(values, suffix), suffix)
        assert again == Config(values)


def test_secrets_are_redacted_and_nothing_else(tmp_path: Path) -> None:
    values = {
        "vis": [{"type": "Wandb", "init": {"api_key": "hush", "token": "hush", "Password": "hush"}}],
        "secret": "hush",
        "default_cam_key": "CAM2",
        "tokens": "text",
        "token": 5,
    }
    cfg = Config(values)
    for suffix in (".py", ".yaml", ".json"):
        text = cfg.dump(tmp_path / f"x{suffix}")
        assert "hush" not in text
        assert "CAM2" in text
    assert cfg.to_dict() == values  # what crosses to workers is whole
    assert Config.fromfile(tmp_path / "x.py").token == 5


def test_values_under_env_vars_become_placeholders_of_their_names() -> None:
    values = {"ray": {"env_vars": {"RD_A": "hush", "RD_B": {"deep": ["hush"]}}}, "env_vars": ["RD_A"]}
    assert Config(values).redacted() == {
        "ray": {"env_vars": {"RD_A": "{{$RD_A:}}", "RD_B": {"deep": ["{{$RD_B:}}"]}}},
        "env_vars": ["RD_A"],
    }


def test_values_that_no_file_can_hold_are_refused(tmp_path: Path) -> None:
    cfg = Config({"a": [{"b": {1, 2}}]})
    assert message(lambda: cfg.dump(tmp_path / "x.py")).startswith("a.0.b is a set ({1, 2})")
    assert "dumped to" in message(lambda: Config({}).dump(tmp_path / "x.txt"))
    assert "cannot be a variable" in message(lambda: Config({"a-b": 1}).dump(tmp_path / "x.py"))


def test_json_dump_refuses_keys_that_are_no_strings(tmp_path: Path) -> None:
    cfg = Config({"data": [{"label_map": {0: 1, 5: 2}}]})
    said = message(lambda: cfg.dump(tmp_path / "x.json"))
    assert said.startswith("data.0.label_map has the key 0")
    assert ".yaml" in said
    assert not (tmp_path / "x.json").exists()
    for suffix in (".yaml", ".py"):
        cfg.dump(tmp_path / f"x{suffix}")
        assert Config.fromfile(tmp_path / f"x{suffix}") == cfg
