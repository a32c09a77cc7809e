"""Small configs, at least one for each rule of MMEngine's config language, and what MMEngine makes of them.

    python tests/parity/config_cases.py [--mmengine PYTHON] [--write]

Without ``--write`` it asks MMEngine anew and says where the stored table, ``config_cases.json.gz``, differs; with it,
it writes the table. ``test_config_cases.py`` holds our loader against the table. A case in which ours is meant to be
another has ``ours`` (the values, or a part of the sentence) and ``why``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TABLE = HERE / "config_cases.json.gz"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A few files, and how the last one is read.

    Attributes:
        files: Their texts by name.
        options: What stands after ``--cfg-options``.
        env: Environment variables.
        to: Dump to a file of this suffix and load that.
        ours: What ours is meant to make of it, where that is something else: the values, or a part of the sentence.
        why: The reason.
    """

    files: dict[str, str]
    options: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    to: str | None = None
    ours: dict[str, Any] | str | None = None
    why: str = ""


def child(text: str, base: str = "", **more: Any) -> Case:
    """A case of a base and a file over it."""
    return Case(files={"base.py": base or BASE, "a.py": f"_base_ = './base.py'\n{text}\n"}, **more)


def alone(text: str, name: str = "a.py", **more: Any) -> Case:
    """A case of one file."""
    return Case(files={name: f"{text}\n"}, **more)


def optioned(*options: str, **more: Any) -> Case:
    """A case of overrides."""
    return Case(files={"a.py": OPTIONED}, options=list(options), **more)


BASE = """lr = 0.1
steps = [8, 11]
model = dict(type='A', neck=dict(k=1, z=[1, 2]), heads=[dict(n=1), dict(n=2)], pair=(1, 2), none=None)
hooks = [dict(type='H')]
"""
BASE_VALUES: dict[str, Any] = {
    "lr": 0.1,
    "steps": [8, 11],
    "model": {
        "type": "A",
        "neck": {"k": 1, "z": [1, 2]},
        "heads": [{"n": 1}, {"n": 2}],
        "pair": (1, 2),
        "none": None,
    },
    "hooks": [{"type": "H"}],
}
OPTIONED = """model = dict(depth=18, heads=[dict(n=1), dict(n=2)], pair=(1, 2), sizes=[1, 2, 3])
model['keys'] = {'a.b': dict(m=1)}
epochs = 3
name = 'x'
"""
LEAK = "a `_delete_` that nothing was inherited for is dropped; MMEngine leaves it, and the constructor is given it"
QUOTED = "the braces may be quoted, as everywhere; MMEngine puts quotes within the quotes"
BARE = "the braces may stand without quotes; MMEngine parses the file before it fills them"
VARIABLE = "an override of a variable is followed by what is computed from it"
DEFAULT = "MMEngine uses the default as a regular expression, and leaves the braces where it has signs of one"

CASES: dict[str, Case] = {
    # -- formats
    "py": alone("a = 1\nb = dict(c=[1, (2, 3)], d=None, e=True, f=1e-3)"),
    "yaml": alone("a: 1\nb: {c: [1, 2], d: null, e: true, f: 0.001}", "a.yaml"),
    "yml": alone("a: text\nb:\n  - 1\n  - x: 2", "a.yml"),
    "json": alone('{"a": 1, "b": {"c": [1, 2.5, null, true]}}', "a.json"),
    "another suffix": alone("a = 1", "a.toml"),
    "short float in yaml": alone(
        "lr: 1e-4",
        "a.yaml",
        ours={"lr": 1e-4},
        why="1e-4 is a number in YAML too; YAML 1.1 takes it for text when it has no dot",
    ),
    "empty py": alone(""),
    "broken python": alone("a = dict("),
    "an exception": alone("a = 1 / 0"),
    # -- what of a file counts
    "dunder names": alone("__a = 1\n__b__ = 2\n_c = 3"),
    "functions and modules": alone(
        "import math\nfrom math import pi\ndef f(x):\n    return x + 1\na = f(1)\nb = math.floor(2.5)",
        ours={"a": 2, "b": 2},
        why="in a virtual environment MMEngine takes the standard library for a plug-in",
    ),
    "comprehensions": alone("names = ['a', 'b']\nmeta = [dict(n=name, i=i) for i, name in enumerate(names)]"),
    "loops leave their variable": alone("total = 0\nfor i in range(3):\n    total += i"),
    "conditions": alone("amp = True\nif amp:\n    scale = 512.0\nelse:\n    scale = 1.0"),
    "keys that are no names": alone("a = {'x y': 1, 'b.c': dict(d=2), 3: 4}"),
    "annotated": alone("a: int = 1"),
    "shared variable": alone("a = dict(x=[1])\nb = dict(a=a)\nc = [a, a]"),
    # -- _base_
    "base as text": child("a = 1"),
    "base as list": Case(files={"b.py": "x = 1\n", "c.py": "y = 2\n", "a.py": "_base_ = ['b.py', './c.py']\nz = 3\n"}),
    "base as tuple": Case(
        files={"b.py": "x = 1\n", "c.py": "y = 2\n", "a.py": "_base_ = ('b.py', './c.py')\n"},
        ours={"x": 1, "y": 2},
        why="a tuple of bases is as good as a list",
    ),
    "three deep": Case(
        files={
            "x/y/c.py": "m = dict(a=1, b=1, c=1)\n",
            "x/b.py": "_base_ = './y/c.py'\nm = dict(b=2, d=2)\n",
            "a.py": "_base_ = 'x/b.py'\nm = dict(c=3, d=3)\n",
        }
    ),
    "across formats": Case(
        files={
            "c.json": '{"m": {"a": 1, "b": 1}}',
            "b.yaml": "_base_: ./c.json\nm:\n  b: 2\n  c: 2\n",
            "a.py": "_base_ = 'b.yaml'\nm = dict(c=3)\n",
        }
    ),
    "py below yaml": Case(files={"b.py": "m = dict(a=(1, 2))\n", "a.yaml": "_base_: [./b.py]\nm: {b: 2}\n"}),
    "two bases with the same key": Case(
        files={"b.py": "x = 1\n", "c.py": "x = 2\n", "a.py": "_base_ = ['b.py', 'c.py']\n"}
    ),
    "two bases with the same dict": Case(
        files={"b.py": "x = dict(a=1)\n", "c.py": "x = dict(b=2)\n", "a.py": "_base_ = ['b.py', 'c.py']\n"}
    ),
    "base that is not there": alone("_base_ = 'gone.py'"),
    "base by a name": alone("b = 'x.py'\n_base_ = b"),
    "base of another kind": alone("_base_ = 5"),
    "ring": Case(files={"b.py": "_base_ = 'a.py'\n", "a.py": "_base_ = 'b.py'\n"}),
    "base after code": Case(files={"base.py": BASE, "a.py": "a = 1\n_base_ = 'base.py'\n"}),
    "empty list of bases": alone("_base_ = []\na = 1"),
    "diamond": Case(
        files={
            "c.py": "x = 1\n",
            "b1.py": "_base_ = 'c.py'\ny = 1\n",
            "b2.py": "_base_ = 'c.py'\nz = 1\n",
            "a.py": "_base_ = ['b1.py', 'b2.py']\n",
        }
    ),
    "another package": alone("_base_ = 'nowhere::x.py'"),
    # -- merging
    "nested dicts merge": child("model = dict(neck=dict(k=2, new=dict(deep=1)))"),
    "lists replace": child("steps = [1]\nmodel = dict(heads=[dict(z=1)])"),
    "tuples replace": child("model = dict(pair=(9,))"),
    "number over dict": child("model = dict(neck=5)"),
    "None over dict": child("model = dict(neck=None)\nhooks = None"),
    "list over dict": child("model = dict(neck=[1])"),
    "dict over None": child(
        "model = dict(none=dict(a=1))",
        ours={**BASE_VALUES, "model": {**BASE_VALUES["model"], "none": {"a": 1}}},
        why="None stands for nothing: a dict may take its place",
    ),
    "dict over number": child("lr = dict(a=1)"),
    "dict over list": child("model = dict(heads=dict(n=1))"),
    "dict over text": child("model = dict(type=dict(n=1))"),
    "numbered dict over list": child("model = dict(heads={'0': dict(n=5)})"),
    "same value": child("lr = 0.1"),
    "empty dict": child("model = dict()"),
    # -- _delete_
    "delete": child("model = dict(_delete_=True, type='B')"),
    "delete inside": child("model = dict(neck=dict(_delete_=True, j=2))"),
    "delete and nothing": child("model = dict(neck=dict(_delete_=True))"),
    "delete says no": child("model = dict(neck=dict(_delete_=False, j=2))"),
    "delete over list": child("model = dict(heads=dict(_delete_=True, n=1))"),
    "delete over number": child("lr = dict(_delete_=True, a=1)"),
    "delete over None": child("model = dict(none=dict(_delete_=True, a=1))"),
    "delete twice": child(
        "model = dict(_delete_=True, neck=dict(_delete_=True, j=1))",
        ours={"lr": 0.1, "steps": [8, 11], "model": {"neck": {"j": 1}}, "hooks": [{"type": "H"}]},
        why=LEAK,
    ),
    "delete of what is not there": child(
        "new = dict(_delete_=True, a=1)",
        ours={
            **BASE_VALUES,
            "new": {"a": 1},
        },
        why=LEAK,
    ),
    "delete in a list": alone("a = [dict(_delete_=True, b=1)]", ours={"a": [{"b": 1}]}, why=LEAK),
    "delete in a file without bases": alone("a = dict(_delete_=True, b=1)", ours={"a": {"b": 1}}, why=LEAK),
    "delete at the top": Case(
        files={"base.py": "x = 1\n", "a.py": "_base_ = 'base.py'\n_delete_ = True\ny = 2\n"},
        ours={"y": 2},
        why="at the top of a file it drops all that is inherited, as it does in a dict; MMEngine keeps it as a key",
    ),
    "delete in the middle of a chain": Case(
        files={
            "c.py": "m = dict(a=1, b=dict(x=1))\n",
            "b.py": "_base_ = 'c.py'\nm = dict(_delete_=True, b=dict(y=2))\n",
            "a.py": "_base_ = 'b.py'\nm = dict(b=dict(z=3))\n",
        }
    ),
    "delete in yaml": Case(files={"base.py": BASE, "a.yaml": "_base_: base.py\nmodel: {_delete_: true, type: B}\n"}),
    # -- _base_ as an object
    "base read": child("double = _base_.lr * 2\nk = _base_.model.neck.k\nfirst = _base_.model.heads[0]"),
    "base read by key": child("k = _base_['model']['neck']['k']\nhas = 'lr' in _base_\nn = len(_base_.steps)"),
    "base read with get": child("a = _base_.get('nope', 3)\nb = _base_.model.get('type')"),
    "base written": child("_base_.model.neck.k = 7\n_base_.model.heads[1].n = 8\n_base_.new = 9"),
    "base updated": child("_base_.model.update(dict(type='C', neck=dict(j=3)))"),
    "base deleted": child("del _base_.hooks\ndel _base_.model.neck"),
    "base popped": child("_base_.pop('hooks')\ngone = _base_.model.pop('nope')"),
    "base list changed": child("_base_.steps.append(14)\n_base_.model.heads += [dict(n=3)]"),
    "base value shared": child("mine = _base_.model.neck\nmine.k = 5"),
    "base value used and changed": child(
        "hooks = _base_.hooks + [dict(type='G')]\nsteps = [s * 2 for s in _base_.steps]"
    ),
    "base has no such name": child("x = _base_.modle"),
    "base looped": child("names = [key for key in _base_.model]"),
    # -- {{ }} of the file
    "file names in py": alone(
        "a = '{{ fileBasename }}'\nb = '{{fileBasenameNoExtension}}'\nc = '{{  fileExtname  }}'\n"
        "d = 'x/{{ fileDirname }}/y'"
    ),
    "file names in yaml": alone("a: '{{ fileBasename }}'\nb: x/{{ fileBasenameNoExtension }}", "a.yaml"),
    "file names in json": alone('{"a": "{{ fileBasename }}", "b": "{{ fileDirname }}/x"}', "a.json"),
    "file names of the base": Case(
        files={"base.py": "a = '{{ fileBasename }}'\n", "a.py": "_base_ = 'base.py'\nb = '{{ fileBasename }}'\n"}
    ),
    "file names in a base's path": Case(
        files={"a_base.py": "a = 1\n", "a.py": "_base_ = '{{ fileBasenameNoExtension }}_base.py'\n"}
    ),
    "other braces": alone("a = '{{ fileNope }}'\nb = '{{x}}'\nc = '{}'.format(1)"),
    # -- {{_base_.x}}
    "base braces quoted": child(
        "a = '{{_base_.lr}}'\nb = '{{ _base_.model.neck }}'",
        ours={**BASE_VALUES, "a": 0.1, "b": {"k": 1, "z": [1, 2]}},
        why=QUOTED,
    ),
    "base braces bare": child("a = {{_base_.lr}}\nb = {{ _base_.steps }}\nc = dict(d={{_base_.model.type}})"),
    "base braces in lists": child(
        "a = [{{_base_.lr}}, '{{_base_.lr}}', dict(x={{_base_.hooks}})]\nb = ({{_base_.lr}}, 2)",
        ours={**BASE_VALUES, "a": [0.1, 0.1, {"x": [{"type": "H"}]}], "b": (0.1, 2)},
        why=QUOTED,
    ),
    "base braces in yaml": Case(
        files={"base.py": BASE, "a.yaml": "_base_: base.py\na: '{{_base_.lr}}'\nb: {c: ['{{_base_.steps}}']}\n"},
        ours={**BASE_VALUES, "a": 0.1, "b": {"c": [[8, 11]]}},
        why=QUOTED,
    ),
    "base braces bare in yaml": Case(files={"base.py": BASE, "a.yaml": "_base_: base.py\na: {{_base_.lr}}\n"}),
    "base braces in json": Case(
        files={"base.py": BASE, "a.json": '{"_base_": "base.py", "a": "{{_base_.lr}}", "b": [{{_base_.model.neck}}]}'},
        ours={
            **BASE_VALUES,
            "a": 0.1,
            "b": [{"k": 1, "z": [1, 2]}],
        },
        why="in JSON the braces may be quoted; MMEngine puts quotes within the quotes, and fails",
    ),
    "base braces that name nothing": child(
        "a = '{{_base_.nope}}'", ours="the bases have no 'nope'", why="MMEngine leaves its placeholder"
    ),
    "base braces computed with": child(
        "a = {{_base_.lr}} * 2",
        base="lr = 0.5\n",
        ours={"lr": 0.5, "a": 1.0},
        why="the value is there when the file runs; in MMEngine a placeholder text is doubled",
    ),
    "base braces inside of a text": child(
        "a = 'lr_{{_base_.lr}}'",
        base="lr = 0.5\n",
        ours={"lr": 0.5, "a": "lr_0.5"},
        why="MMEngine leaves its placeholder in the text",
    ),
    # -- {{$NAME:default}}
    "env default": alone("a = '{{$RD_UNSET:/data}}'\nb = '{{$RD_UNSET:/data}}/x'"),
    "env set": alone("a = '{{$RD_SET:/data}}'\nb = '{{$RD_SET:/data}}/x'", env={"RD_SET": "/mnt"}),
    "env bare default": alone(
        "a = {{'$RD_UNSET:80'}}\nb = {{$RD_UNSET:0.5}}\nc = {{'$RD_UNSET:[1,2]'}}",
        ours={"a": 80, "b": 0.5, "c": [1, 2]},
        why=BARE,
    ),
    "env bare set": alone(
        "a = {{'$RD_NUM:80'}}\nb = {{$RD_FLAG:False}}",
        env={"RD_NUM": "5", "RD_FLAG": "True"},
        ours={"a": 5, "b": True},
        why=BARE,
    ),
    "env number as text": alone("a = '{{$RD_NUM:80}}'", env={"RD_NUM": "5"}),
    "env spaced": alone("a = '{{ $RD_UNSET : x }}'"),
    "env twice with other defaults": alone("a = '{{$RD_UNSET:x}}'\nb = '{{$RD_UNSET:y}}'"),
    "env twice set": alone("a = '{{$RD_SET:x}}{{$RD_SET:y}}'", env={"RD_SET": "z"}),
    "env without default": alone("a = '{{$RD_UNSET:}}'"),
    "env without default set": alone("a = '{{$RD_SET:}}'", env={"RD_SET": "z"}),
    "env in yaml": alone("a: '{{$RD_UNSET:x}}'\nb: {{$RD_UNSET:80}}\nc: pre/{{$RD_UNSET:x}}", "a.yaml"),
    "env in json": alone('{"a": "{{$RD_UNSET:x}}", "b": {{$RD_UNSET:80}}, "c": {{\'$RD_UNSET:true\'}}}', "a.json"),
    "env in a base": Case(
        files={"base.py": "a = '{{$RD_SET:x}}'\n", "a.py": "_base_ = 'base.py'\nb = _base_.a + '/y'\n"},
        env={"RD_SET": "z"},
    ),
    "env default with signs": alone(
        "a = '{{$RD_UNSET:c++}}'\nb = '{{$RD_UNSET:f(1)*2}}'", ours={"a": "c++", "b": "f(1)*2"}, why=DEFAULT
    ),
    "env set over a default with signs": alone(
        "a = '{{$RD_SET:c++}}'", env={"RD_SET": "rust"}, ours={"a": "rust"}, why=DEFAULT
    ),
    "env default with a dot": alone(
        "a = '{{$RD_UNSET:a.b}}'\nb = '{{$RD_UNSET:axb}}'", ours={"a": "a.b", "b": "axb"}, why=DEFAULT
    ),
    "env default with spaces": alone(
        "a = '{{$RD_UNSET:two words}}'",
        ours={"a": "two words"},
        why="a default may have spaces; MMEngine leaves the braces",
    ),
    "env in a comment": alone("# a = '{{$RD_UNSET:}}'\nb = 1", ours={"b": 1}, why="a comment asks for nothing"),
    # -- special keys
    "deprecated": alone("_deprecation_ = dict(expected='new.py', reference='there')\na = 1"),
    "deprecated base": Case(
        files={"base.py": "_deprecation_ = dict(expected='new.py')\na = 1\n", "a.py": "_base_ = 'base.py'\nb = 1\n"}
    ),
    "reserved filename": alone("filename = 'x'"),
    "reserved text": alone("text = 'x'"),
    "reserved pretty_text": alone("pretty_text = 'x'"),
    "reserved env_variables": alone("env_variables = dict()"),
    "custom_imports": child("custom_imports = dict(imports=['x.y'], allow_failed_imports=False)"),
    "default_scope and _scope_": alone("default_scope = 'mmdet3d'\nmodel = dict(type='mmdet.FPN', _scope_='mmdet')"),
    "class as type": alone("from fractions import Fraction\na = dict(type=Fraction, numerator=1)"),
    # -- dumps
    **{
        f"dump to {suffix}{name}": alone(text, to=suffix, **more)
        for suffix in (".py", ".yaml", ".json")
        for name, text, more in (
            ("", "a = dict(b=[1, 2.5, 'x'], c=None, d=True, e={'x y': 1})\nf = 'it\\'s'", {}),
            (" of nested lists", "a = [[1, [2]], dict(b=[dict(c=1)])]\nb = -1e-7", {}),
        )
    },
    "dump to .py of tuples": alone("a = (1, 2)\nb = dict(c=((1,), [2]))", to=".py"),
    "dump to .yaml of tuples": alone("a = (1, 2)", to=".yaml"),
    "dump to .json of tuples": alone("a = (1, 2)", to=".json"),
    "dump of a child": Case(files={"base.py": BASE, "a.py": "_base_ = 'base.py'\nlr = 1\n"}, to=".py"),
    "dump of numbered keys": alone("a = {1: 'x', 'y': 2}", to=".py"),
    # -- --cfg-options: values
    **{
        f"option {text}": optioned(f"name={text}")
        for text in (
            *(
                "1",
                "-0.5",
                "1e-4",
                "true",
                "False",
                "TRUE",
                "None",
                "none",
                "text",
                "a,b",
                "[1,2.5,x]",
                "[]",
                "()",
                "(1,)",
            ),
            *(
                "1,",
                "(0.9,0.99)",
                "[(1,2),[3]]",
                "[[1,2],(a,b)]",
                "work_dirs/a=b",
                "http://host:80/x",
                "epoch_{}.pth",
                "'x'",
            ),
        )
    },
    "option 1,2 with spaces": optioned("name=[1, 2]"),
    'option "1"': optioned(
        'name="1"', ours=dict(name="1"), why="what stands in quotes is text: so a number can be given as text"
    ),
    "option with a space": optioned("name=two words", ours=dict(name="two words"), why="MMEngine takes out all spaces"),
    "option dict": optioned(
        "name=dict(a=1,b=[2])", ours=dict(name={"a": 1, "b": [2]}), why="MMEngine has no dicts there"
    ),
    "option braces": optioned("name={a: 1}", ours=dict(name={"a": 1}), why="MMEngine has no dicts there"),
    "option unbalanced": optioned("name=[1", ours="']' is missing", why="a bracket that is not closed is a mistake"),
    "option without sign": optioned("name"),
    "options of one key": optioned("name=1", "name=2"),
    # -- --cfg-options: places
    "option at depth": optioned("model.depth=34"),
    "option new inside": optioned("model.new.deep=1"),
    "option index": optioned("model.heads.1.n=5"),
    "option index of a dict": optioned("model.heads.0.new=5"),
    "option whole list": optioned("model.heads=[1]"),
    "option index beyond": optioned("model.heads.2.n=5"),
    "option through a number": optioned("epochs.x=1"),
    "option of a known key": optioned("train_cfg.max_epochs=1"),
    "option negative index": optioned(
        "model.heads.-1.n=5",
        ours={"model": {"heads": [{"n": 1}, {"n": 5}]}},
        why="a negative index counts from the end",
    ),
    "option index of a scalar": optioned(
        "model.sizes.1=5", ours={"model": {"sizes": [1, 5, 3]}}, why="MMEngine fails on an element that is no dict"
    ),
    "option index of a tuple": optioned(
        "model.pair.0=5", ours={"model": {"pair": (5, 2)}}, why="tuples can be indexed; MMEngine refuses"
    ),
    "option key with a dot": optioned(
        'model.keys["a.b"].m=5',
        ours={"model": {"keys": {"a.b": {"m": 5}}}},
        why="keys with dots can be addressed in quotes",
    ),
    "option of nothing": optioned(
        "epoch=5",
        ours="the config has no 'epoch', so this changes nothing",
        why="an override that changes nothing is refused",
    ),
    "option misspelt inside": optioned(
        "model.sizess=5", ours="model has no 'sizess'; did you mean 'sizes'?", why="a misspelt key is refused"
    ),
    "option of a variable": Case(
        files={"a.py": "lr = 0.1\nopt = dict(lr=lr)\nlow = lr / 10\n"},
        options=["lr=1.0"],
        ours={"lr": 1.0, "opt": {"lr": 1.0}, "low": 0.1},
        why=VARIABLE,
    ),
    "option of a base's variable": Case(
        files={"base.py": "lr = 0.1\nopt = dict(lr=lr)\n", "a.py": "_base_ = 'base.py'\n"},
        options=["lr=1.0"],
        ours={"lr": 1.0, "opt": {"lr": 1.0}},
        why=VARIABLE,
    ),
}


def write_case(case: Case, folder: Path) -> Path:
    """The case's files on disk; the last one's path."""
    path = folder
    for name, text in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def without_folder(value: Any, folder: Path) -> Any:
    """An encoded value, with the folder's path as ``<folder>``, and what MMEngine leaves of braces without its dice."""
    text = json.dumps(value).replace(str(folder), "<folder>")
    return json.loads(re.sub(r"(_[a-z][\w.]*?)_[0-9a-f]{6}(?![0-9a-z])", r"\1_<random>", text))


def ask(python: str) -> dict[str, Any]:
    """What MMEngine makes of all cases."""
    sys.path[:0] = [str(HERE.parents[1])]
    from tests.parity.configs import ask_mmengine

    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root, str(number)) for number, name in enumerate(CASES)}
        requests = []
        for name, case in CASES.items():
            request: dict[str, Any] = {"file": str(write_case(case, folders[name]))}
            request |= {"options": case.options, "env": case.env} | ({"to": case.to} if case.to else {})
            requests.append(request)
        answers = ask_mmengine(requests, python=python)
        return {name: without_folder(answer, folders[name]) for name, answer in zip(CASES, answers, strict=True)}


def read_table() -> dict[str, Any]:
    """The stored answers."""
    table: dict[str, Any] = json.loads(gzip.decompress(TABLE.read_bytes()))
    return table


def main() -> int:
    """Ask MMEngine, and compare with the table or write it."""
    sys.path[:0] = [str(HERE.parents[1])]
    from tests.parity.configs import mmengine_python

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmengine", default=mmengine_python(), metavar="PYTHON")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = ask(args.mmengine)
    if args.write:
        TABLE.write_bytes(gzip.compress(json.dumps(found, indent=1).encode(), mtime=0))
        print(f"wrote {len(found)} cases to {TABLE}")
        return 0
    stored = read_table()
    others = [name for name in {**stored, **found} if stored.get(name) != found.get(name)]
    print("\n".join(f"{name}: stored {stored.get(name)}, now {found.get(name)}" for name in others) or "as stored")
    return bool(others)


if __name__ == "__main__":
    sys.exit(main())
