"""Braces in config files: what fills them, and that what the environment gave is asked for again in every dump."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from raydet3d.config import Config
from raydet3d.errors import InputError

Write = Callable[..., Path]
SECRET = "9f8e7d6c5b4a"


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        Config.fromfile(path)
    return str(caught.value)


class TestFilling:
    def test_each_kind_keeps_its_type(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RD_N", "7")
        write("b.py", "lr = 0.5\nneck = dict(k=[1, 2])\n")
        items = "{{$RD_N:1}}, '{{$RD_N:1}}', {{$RD_X:None}}, '{{_base_.neck.k.1}}', {{_base_.neck}}"
        cfg = Config.fromfile(write("a.py", f"_base_ = 'b.py'\na = [{items}]\n"))
        assert cfg.a == [7, "7", None, 2, {"k": [1, 2]}]

    def test_in_f_strings_keys_and_paths_of_bases(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RD_WHICH", "b")
        write("b.py", "lr = 0.5\n")
        text = "_base_ = '{{$RD_WHICH:c}}.py'\na = f'{1 + 1} {{_base_.lr}}'\nb = {'{{$RD_WHICH:c}}': 1}\n"
        assert Config.fromfile(write("a.py", text)).to_dict() == {"lr": 0.5, "a": "2 0.5", "b": {"b": 1}}

    def test_base_value_is_copied(self, write: Write) -> None:
        write("b.py", "neck = dict(k=1)\n")
        cfg = Config.fromfile(write("a.py", "_base_ = 'b.py'\nmine = {{_base_.neck}}\nmine.k = 2\n"))
        assert cfg.to_dict() == {"neck": {"k": 1}, "mine": {"k": 2}}

    @pytest.mark.parametrize("default", ["c++", "f(x)*2", "a|b", "a?b", "$5", "it's", "two words", "{x}", r"a\\b"])
    def test_default_may_contain_special_characters(self, write: Write, default: str) -> None:
        cfg = Config.fromfile(write("a.py", f'a = "{{{{$RD_UNSET:{default}}}}}"\n'))
        assert cfg.a == default.replace("\\\\", "\\")

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            (
                "a.yaml",
                "a:   {{$RD_N:1}}\nb: [{{$RD_N:1}},{{$RD_X:true}}]\nc: {d: {{$RD_N:1}}}\ne:\n  - {{$RD_X:[1, 2]}}\n"
                "f: one, {{$RD_N:1}}\ng: http:{{$RD_N:1}}\n"
                "h: '{{$RD_N:1}}'\ni: \"{{$RD_N:1}}\"\nj: {{$RD_X:word}}  # no",
            ),
            (
                "a.json",
                '{"a":{{$RD_N:1}}, "b": [{{$RD_N:1}},{{$RD_X:true}}], "c": {"d": {{$RD_N:1}}}, "e": [{{$RD_X:[1, 2]}}],'
                '"f": "one, {{$RD_N:1}}", "g": "http:{{$RD_N:1}}", "h": "{{$RD_N:1}}", "i": "{{$RD_N:1}}", '
                '"j": {{$RD_X:"word"}}}',
            ),
        ],
    )
    def test_placeholders_in_yaml_and_json(
        self, write: Write, monkeypatch: pytest.MonkeyPatch, name: str, text: str
    ) -> None:
        monkeypatch.setenv("RD_N", "7")
        assert Config.fromfile(write(name, text)).to_dict() == {
            "a": 7,
            "b": [7, True],
            "c": {"d": 7},
            "e": [[1, 2]],
            "f": "one, 7",
            "g": "http:7",
            "h": "7",
            "i": "7",
            "j": "word",
        }

    def test_strings_similar_to_placeholders_are_kept(self, write: Write) -> None:
        cfg = Config.fromfile(write("a.py", "a = '_blank_0_'\nb = '<blank 0>{{$RD_UNSET:x}}'\nc = '{{ $RD_UNSET }}'\n"))
        assert cfg.to_dict() == {"a": "_blank_0_", "b": "<blank 0>x", "c": "{{ $RD_UNSET }}"}

    def test_placeholders_in_docstrings_and_comments_are_ignored(self, write: Write) -> None:
        text = '"""Needs {{$RD_UNSET:}} and {{_base_.x}}."""\n# {{$RD_UNSET:}}\na = 1\n'
        assert Config.fromfile(write("a.py", text)) == {"a": 1}
        assert Config.fromfile(write("a.yaml", "# {{$RD_UNSET:}}\na: 1\n")) == {"a": 1}

    def test_empty_environment_variable_uses_the_default(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RD_EMPTY", "")
        assert Config.fromfile(write("a.py", "a = '{{$RD_EMPTY:x}}'\n")).a == "x"

    def test_override_wins_over_the_environment(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RD_LR", "0.3")
        path = write("a.py", "lr = {{$RD_LR:0.1}}\nlow = lr / 10\n")
        assert Config.fromfile(path, {"lr": 2.0}).to_dict() == {"lr": 2.0, "low": 0.2}
        assert Config.fromfile(path).low == pytest.approx(0.03)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "x = 1\na = '{{$RD_UNSET:}}'",
                "a.py:2: the environment variable RD_UNSET is not set, and {{$RD_UNSET:}} has",
            ),
            (
                "a = {{$RD_UNSET:cosine}}",
                "a.py:1: {{'$RD_UNSET:cosine'}} is replaced by cosine, which is no literal; put the",
            ),
            ("\n\na = {{_base_.lr}}", "a.py:3: {{_base_.lr}}: the bases have no 'lr'"),
            ("a = dict(\nb = {{$RD_UNSET:1}}", "a.py:1: '(' was never closed: a = dict("),
        ],
    )
    def test_error_names_the_line(self, write: Write, text: str, expected: str) -> None:
        assert expected in message(write("a.py", text))

    def test_syntax_error_shows_the_line_as_written(self, write: Write) -> None:
        assert message(write("a.py", "a = {{$RD_UNSET:1}} 2\n")).endswith(": a = {{$RD_UNSET:1}} 2")


CONFIG = """
vis = dict(api_key='{{$RD_KEY:}}', n={{$RD_N:4}}, f={{'$RD_F:0.1'}}, root='{{$RD_ROOT:/data}}/kitti', other=7)
ann = vis['root'] + '/infos.pkl'
auth = f"Bearer {vis['api_key']}"
plain = 'kitti'
"""


class TestDumps:
    @pytest.fixture
    def cfg(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> Config:
        for name, value in {"RD_KEY": SECRET, "RD_N": "7", "RD_F": "0.5", "RD_ROOT": "/mnt/disk"}.items():
            monkeypatch.setenv(name, value)
        return Config.fromfile(write("a.py", CONFIG))

    def test_resolved_values_have_plain_types(self, cfg: Config) -> None:
        assert cfg.to_dict() == {
            "vis": {"api_key": SECRET, "n": 7, "f": 0.5, "root": "/mnt/disk/kitti", "other": 7},
            "ann": "/mnt/disk/kitti/infos.pkl",
            "auth": f"Bearer {SECRET}",
            "plain": "kitti",
        }
        kinds = {type(value) for value in [*cfg.vis.values(), cfg.ann, cfg.auth]}
        assert kinds == {str, int, float}
        assert cfg.env_variables == {"RD_KEY": SECRET, "RD_N": "7", "RD_F": "0.5", "RD_ROOT": "/mnt/disk"}

    @pytest.mark.parametrize("suffix", [".py", ".yaml", ".json"])
    def test_dumps_hold_placeholders_and_load_equal(
        self, cfg: Config, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = cfg.dump(tmp_path / f"out{suffix}")
        assert SECRET not in text
        assert "/mnt/disk" not in text
        assert "{{$RD_KEY:}}" in text
        assert "{{'$RD_N:4'}}" in text
        again = Config.fromfile(tmp_path / f"out{suffix}")
        assert again == cfg
        assert again.dump(tmp_path / f"more{suffix}") == text
        monkeypatch.setenv("RD_N", "8")
        assert Config.fromfile(tmp_path / f"out{suffix}").vis.n == 8

    def test_redacted_config_holds_placeholders(self, cfg: Config) -> None:
        assert cfg.redacted()["vis"] == {
            "api_key": "{{$RD_KEY:}}",
            "n": "{{'$RD_N:4'}}",
            "f": "{{'$RD_F:0.1'}}",
            "root": "{{$RD_ROOT:/data}}/kitti",
            "other": 7,
        }

    def test_copies_and_pickles_keep_placeholders(self, cfg: Config) -> None:
        for other in (
            cfg.copy(),
            pickle.loads(pickle.dumps(cfg)),
            Config(cfg.to_dict(), filename=cfg.filename, origin=pickle.loads(pickle.dumps(cfg.origin))),
        ):
            assert other.pretty_text == cfg.pretty_text
            assert SECRET not in other.pretty_text

    def test_values_read_from_os_environ_are_dumped_as_placeholders(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"RD_A": SECRET, "RD_B_TOKEN": "b2b3", "RD_C": "/mnt/disk", "RD_D": "abcd"}.items():
            monkeypatch.setenv(name, value)
        text = "import os\nfrom os import environ, getenv\n"
        text += "a = os.environ['RD_A']\nb = 'x' + getenv('RD_B_TOKEN')\nc = environ.get('RD_C') + '/y'\n"
        cfg = Config.fromfile(write("a.py", f"{text}d = os.environ.get('RD_D', 'abcd')\ne = 'abcdef'\n"))
        assert cfg.a == SECRET
        assert cfg.pretty_text.splitlines() == [
            "a = '{{$RD_A:}}'",
            "b = 'x{{$RD_B_TOKEN:}}'",
            "c = '{{$RD_C:}}/y'",
            "d = 'abcd'",
            "e = 'abcdef'",
        ]
        assert Config.fromstring(cfg.pretty_text) == cfg

    def test_changed_values_are_dumped_without_placeholder(self, cfg: Config) -> None:
        cfg.vis.n = 9
        cfg.vis.root = "/elsewhere"
        assert "n=9" in cfg.pretty_text
        assert "/elsewhere" in cfg.pretty_text

    def test_default_is_redacted_only_under_a_secret_key(self, write: Write) -> None:
        text = Config.fromfile(write("a.py", "a = '{{$RD_UNSET:x1}}'\ntoken = '{{$RD_UNSET:x2}}'\n")).pretty_text
        assert text == "a = 'x1'\ntoken = '<redacted>'\n"

    def test_the_default_of_a_secret_is_not_written(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RD_KEY", SECRET)
        cfg = Config.fromfile(write("a.py", "token = 'Bearer {{$RD_KEY:hush}}'\n"))
        assert cfg.pretty_text == "token = 'Bearer {{$RD_KEY:}}'\n"
