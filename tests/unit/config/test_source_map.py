"""The line of every key: of what is written out, of what is inherited, and in the sentences that need it."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raydet3d.config import Config, Origin
from raydet3d.config.source_map import merged_lines, python_lines, yaml_lines
from raydet3d.errors import InputError

Write = Callable[..., Path]


PYTHON = """\
lr = 0.1
pipe = [
    dict(type='Load',
         dim=4),
    dict(type='Flip')]
model = dict(
    type='A',
    head={'n.x': dict(k=1),
          'pipe': pipe},
    **dict(extra=1))
model['neck'] = dict(
    k=3)
model.update(dict(
    late=1), later=2)
_base_.hooks.timer.n = 5
if lr:
    opt = dict(lr=lr)
"""


class TestLines:
    def test_python(self) -> None:
        found = python_lines(ast.parse(PYTHON))
        assert found == {
            "lr": 1,
            "pipe": 2,
            "pipe.0": 3,
            "pipe.0.type": 3,
            "pipe.0.dim": 4,
            "pipe.1": 5,
            "pipe.1.type": 5,
            "model": 6,
            "model.type": 7,
            "model.head": 8,
            "model.head.n.x": 8,
            "model.head.n.x.k": 8,
            "model.head.pipe": 9,
            "model.head.pipe.0": 3,
            "model.head.pipe.0.type": 3,
            "model.head.pipe.0.dim": 4,
            "model.head.pipe.1": 5,
            "model.head.pipe.1.type": 5,
            "model.extra": 10,
            "model.neck": 11,
            "model.neck.k": 12,
            "model.late": 14,
            "model.later": 14,
            "hooks": 15,
            "hooks.timer": 15,
            "hooks.timer.n": 15,
            "opt": 17,
            "opt.lr": 17,
        }

    def test_yaml(self) -> None:
        node = yaml.compose("a:\n  b:\n    - c: 1\n      d: 2\n    - 3\ne: f\n")
        assert dict(yaml_lines(node)) == {
            "a": 1,
            "a.b": 2,
            "a.b.0": 3,
            "a.b.0.c": 3,
            "a.b.0.d": 4,
            "a.b.1": 5,
            "e": 6,
        }

    def test_merged_lines_of_a_chain(self) -> None:
        base = python_lines(ast.parse("m = dict(\n  a=1,\n  b=dict(c=1))\nn = dict(x=1)\n"))
        child = python_lines(ast.parse("m = dict(a=2)\nn = dict(\n  _delete_=True,\n  y=1)\n"))
        assert merged_lines([("base", base), ("child", child)]) == {
            "m": "child:1",
            "m.a": "child:1",
            "m.b": "base:3",
            "m.b.c": "base:3",
            "n": "child:2",
            "n._delete_": "child:3",
            "n.y": "child:4",
        }


class TestOrigin:
    ORIGIN = Origin(
        lines={
            "m": "f:1",
            "m.head": "f:2",
            "m.head.width": "f:3",
            "m.head.type": "f:4",
            "h": "f:5",
            "h.0": "f:6",
            "h.0.type": "f:7",
        }
    )

    @pytest.mark.parametrize(
        ("key", "place"), [("m.head.width", "f:3"), ("m.head.none.deep", "f:2"), ("m", "f:1"), ("x", ""), ("x.y", "")]
    )
    def test_where(self, key: str, place: str) -> None:
        assert self.ORIGIN.where(key) == place

    @pytest.mark.parametrize(
        ("message", "place"),
        [
            ("m: model A has no argument 'width'; did you mean 'wide'?", "f:3"),
            ("m.head: unknown model type 'Hed'", "f:4"),
            ("h[0]: unknown hook type 'Hok'", "f:7"),
            ("h[0].n: must be 3", "f:6"),
            ("m.head.width must be 3, got 4", "f:3"),
            ("cannot read the file", ""),
            ("no such config: x", ""),
        ],
    )
    def test_located_prefixes_the_most_precise_line(self, message: str, place: str) -> None:
        with pytest.raises(InputError) as caught, self.ORIGIN.located():
            raise InputError(message)
        assert str(caught.value) == (f"{place}: {message}" if place else message)

    def test_located_passes_other_errors(self) -> None:
        with pytest.raises(ZeroDivisionError), self.ORIGIN.located():
            1 / 0  # noqa: B018


class TestErrorMessages:
    def test_reserved_name_names_its_line(self, write: Write) -> None:
        path = write("a.py", "x = 1\ntext = 'y'\n")
        with pytest.raises(InputError, match=r"a\.py:2: text is reserved"):
            Config.fromfile(path)

    def test_merge_conflict_names_its_line(self, write: Write) -> None:
        write("b.py", "m = dict(n=dict(heads=[1]))\n")
        path = write("a.py", "_base_ = 'b.py'\nm = dict(\n    n=dict(\n        heads=dict(k=1)))\n")
        with pytest.raises(InputError, match=r"a\.py:4: m\.n\.heads: a dict cannot be merged into the list"):
            Config.fromfile(path)

    def test_circular_bases_name_the_line(self, write: Write) -> None:
        write("b.yaml", "x: 1\n_base_: a.py\n")
        path = write("a.py", "\n_base_ = 'b.yaml'\n")
        with pytest.raises(InputError, match=r"b\.yaml:2: _base_ is circular: .*a\.py -> .*b\.yaml -> .*a\.py"):
            Config.fromfile(path)

    def test_base_that_is_not_utf8_is_refused(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "b.py").write_bytes(b"a = '\xff'\n")
        with pytest.raises(InputError, match=r"b\.py: cannot be read: 'utf-8' codec"):
            Config.fromfile(write("a.py", "_base_ = 'b.py'\n"))

    def test_symlinked_config_finds_bases_beside_the_link(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir()
        write("deep/b.py", "x = 1\n")
        (tmp_path / "deep" / "a.py").symlink_to(write("a.py", "_base_ = 'b.py'\nhere = '{{ fileDirname }}'\n"))
        assert Config.fromfile(tmp_path / "deep" / "a.py") == {"x": 1, "here": str(tmp_path / "deep")}


def show(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raydet3d.show", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


class TestCommandLine:
    BASE = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\ntrain_cfg = dict(max_epochs=2)\n"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "optim_wrapper = dict(\n    clip_grad=None,\n    _delete_=True)",
                "a.py:4: optim_wrapper has no optimizer: this _delete_=True removed the inherited one",
            ),
            (
                "optim_wrapper = dict(\n    optimizer=dict(\n        lrr=3))",
                "a.py:4: optim_wrapper.optimizer: optimizer SGD has no argument 'lrr'; did you mean 'lr'?",
            ),
            (
                "optim_wrapper = dict(\n    optimizer=dict(\n        type='SGDD'))",
                "a.py:4: optim_wrapper.optimizer: unknown",
            ),
        ],
    )
    def test_command_prints_file_and_line(self, write: Write, text: str, expected: str) -> None:
        write("b.py", self.BASE)
        done = show("schedule", write("a.py", f"_base_ = 'b.py'\n{text}\n"), "--epoch-length", 3)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert expected in done.stderr

    def test_failing_plug_in_shows_its_traceback_below_the_error(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        write("rd_plug_in.py", "def inner():\n    raise ValueError('boom')\n\ninner()\n")
        done = show("config", write("a.py", "custom_imports = dict(\n    imports=['rd_plug_in'])\n"))
        assert done.returncode == 2
        first, *trace = done.stderr.splitlines()
        assert "a.py:2: " in first
        assert "'rd_plug_in': ValueError: boom" in first
        assert trace[0] == "Traceback (most recent call last):"
        assert "rd_plug_in.py" in trace[1]
        assert trace[-1] == "ValueError: boom"
        assert "importlib" not in done.stderr

    def test_warnings_are_printed_as_single_lines(self, write: Write) -> None:
        text = "_deprecation_ = dict(expected='new.py')\n"
        text += "custom_imports = dict(imports=['rd_no_such'], allow_failed_imports=True)\n"
        path = write("a.py", text)
        done = show("config", path)
        assert done.returncode == 0
        deprecated, failed = done.stderr.splitlines()
        assert deprecated.startswith(f"raydet3d: warning: {path} is deprecated")
        assert "new.py" in deprecated
        assert failed.startswith(f"raydet3d: warning: {path}:2: ")
        assert "'rd_no_such'" in failed
