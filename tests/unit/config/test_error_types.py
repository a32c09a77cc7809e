"""Errors of config files can be caught by the types that MMEngine raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet3d.config import Config
from raydet3d.errors import InputError


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder / "config.py"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"base": "a = 1", "config": "_base_ = 'base.py'\na = dict(b=1)"}, TypeError),
        ({"base": "a = 1", "base2": "a = 2", "config": "_base_ = ['base.py', 'base2.py']"}, KeyError),
        ({"config": "a = '{{$RAYDET3D_NO_SUCH_VARIABLE:}}'"}, KeyError),
        ({"config": "filename = 'x'"}, KeyError),
        ({"config": "custom_imports = dict(imports=['no_such_module_xyz'])"}, ImportError),
        ({"config": "_base_ = 'absent.py'"}, FileNotFoundError),
    ],
)
def test_a_wrong_file(tmp_path: Path, files: dict[str, str], kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        Config.fromfile(write(tmp_path, **files))
    assert isinstance(caught.value, InputError)


def test_a_wrong_suffix_and_a_wrong_mix(tmp_path: Path) -> None:
    (tmp_path / "config.xml").write_text("a")
    with pytest.raises(OSError, match="xml"):
        Config.fromfile(tmp_path / "config.xml")
    lazy = "from mmengine.config import read_base\nwith read_base():\n    from .base import a\n"
    with pytest.raises(RuntimeError, match="_base_"):
        Config.fromfile(write(tmp_path, older="b = 1", base="_base_ = 'older.py'\na = 1", config=lazy))


def test_wrong_keys_of_options() -> None:
    cfg = Config({"a": 1, "b": [{"c": 1}]})
    with pytest.raises(TypeError):
        cfg.merge_from_dict({"a.b": 1})
    with pytest.raises(KeyError):
        cfg.merge_from_dict({"b.1.c": 1})
    with pytest.raises(TypeError):
        cfg.merge_from_dict({"b.0.c": 2}, allow_list_keys=False)


def test_the_text_of_a_config_is_in_the_language_of_its_file(tmp_path: Path) -> None:
    for name, text in (("a.json", '{"x": 1}'), ("a.yaml", "x: 1\n"), ("a.py", "x = 1\n")):
        (tmp_path / name).write_text(text)
        cfg = Config.fromfile(tmp_path / name)
        cfg.dump(tmp_path / f"dumped_{name}")
        assert cfg.dump() == (tmp_path / f"dumped_{name}").read_text()
    assert Config({"x": 1}).dump() == "x = 1\n"


def test_a_config_of_a_dict_has_the_text_of_the_file_it_names(tmp_path: Path) -> None:
    path = write(tmp_path, config="a = 1\n")
    assert Config({"a": 1}, filename=path).text == "a = 1\n"
    assert Config({"a": 1}, filename=tmp_path / "absent.py").text == ""
