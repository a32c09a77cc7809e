"""Config files as editors and attackers write them: byte order marks, duplicate keys, alias bombs, NUL, commands."""

import json
import time
from pathlib import Path

import pytest

from raydet3d.config import Config, MissingConfig
from raydet3d.errors import InputError
from raydet3d.runtime.build import build_hooks, build_model

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 7))


@pytest.mark.parametrize(
    ("name", "text"), [("a.py", "lr = 1\n"), ("a.json", '{"lr": 1}'), ("a.yaml", "lr: 1\n"), ("b.yml", "lr: 1\n")]
)
def test_a_byte_order_mark_is_dropped(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert Config.fromfile(tmp_path / name) == {"lr": 1}
    (tmp_path / "child.py").write_text(f"_base_ = '{name}'\nx = 1\n", encoding="utf-8-sig")
    assert Config.fromfile(tmp_path / "child.py") == {"lr": 1, "x": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "a: 1\nlr: 1\nlr: 2\n"),
        ("a.yaml", "a:\n  lr: 1\n  lr: 2\n"),
        ("a.yaml", "- 1\n- {lr: 1,\n   'lr': 2}\n"),
        ("a.json", '{"a":\n {"lr": 1,\n "lr": 2}}'),
        ("a.json", '{"a\\t": "\t",\n "lr": 1,\n "lr": 2}'),
        ("a.json", '{\n"lr": 1,\n"lr": 2}'),
    ],
)
def test_duplicate_keys_name_both_lines(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text.replace("\t", " ") if "yaml" in name else text)
    with pytest.raises(InputError, match=r"a\.\w+:3: the key 'lr' is also on line 2"):
        Config.fromfile(tmp_path / name)


def test_the_same_key_in_two_places_and_merge_keys_are_no_duplicates(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {lr: 1}\nb: {lr: 2}\nc:\n  <<: *a\n  lr: 3\n'1': 1\nd: {1: a, '1': b}\n")
    assert Config.fromfile(tmp_path / "a.yaml")["c"] == {"lr": 3}


@pytest.mark.parametrize("text", [BOMB, "a: &a [x, *a]\n", "a: &a {b: *a}\n", "a: " + "[" * 20000])
def test_alias_bombs_and_deep_nesting_are_refused_quickly(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"a\.yaml"):
        Config.fromfile(tmp_path / "a.yaml")
    assert time.monotonic() - begin < 5


def test_aliases_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\nc: *a\n")
    assert Config.fromfile(tmp_path / "a.yaml") == {"a": [1, 2], "b": [[1, 2], [1, 2]], "c": [1, 2]}


def test_json_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ' + "[" * 100000)
    with pytest.raises(InputError, match=r"a\.json: .*nested too deeply"):
        Config.fromfile(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.py", "x = 1\nwork_dir = 'a\\0b'\n", 2),
        ("a.json", '{"x": 1,\n "train_dataloader": {"dataset": {"data_root": "a\\u0000b"}}}', 2),
        ("a.yaml", 'x: 1\nload_from: "a\\0b"\n', 2),
        ("a.yaml", 'x: 1\n_base_: "a\\0b.py"\n', 2),
        ("a.py", "x = 1\n_base_ = ['a\\0b.py']\n", 2),
    ],
)
def test_a_nul_in_a_path_is_named_with_its_line(tmp_path: Path, name: str, text: str, line: int) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}:{line}: .*NUL") as caught:
        Config.fromfile(tmp_path / name)
    assert "\0" not in str(caught.value)


def test_a_nul_in_the_config_path() -> None:
    with pytest.raises(MissingConfig) as caught:
        Config.fromfile("a\0b.py")
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".py", ".json", ".yaml"])
def test_env_vars_are_dumped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.delenv("RD_TOKEN", raising=False)
    monkeypatch.setenv("RD_OTHER", "from outside 98765")
    inner = {"env_vars": {"RD_TOKEN": "hunter-2-secret"}}
    ray = {
        "env_vars": {"RD_TOKEN": "hunter-1-secret", "RD_THIRD": "{{$RD_OTHER:hunter-3-secret}}"},
        "runtime_env": inner,
    }
    (tmp_path / "in.json").write_text(json.dumps({"ray": ray}))
    cfg = Config.fromfile(tmp_path / "in.json")
    assert cfg.ray.env_vars.RD_TOKEN == "hunter-1-secret"
    cfg.dump(tmp_path / f"out{suffix}")
    for text in (cfg.pretty_text, str(cfg.redacted()), (tmp_path / f"out{suffix}").read_text()):
        assert "hunter" not in text
        assert "98765" not in text
        assert "RD_TOKEN" in text
    with pytest.raises(InputError, match=r"out.*: the environment variable RD_TOKEN is not set"):
        Config.fromfile(tmp_path / f"out{suffix}")
    monkeypatch.setenv("RD_TOKEN", "set again")
    again = Config.fromfile(tmp_path / f"out{suffix}")
    assert again.ray.env_vars == {"RD_TOKEN": "set again", "RD_THIRD": "from outside 98765"}
    assert again.ray.runtime_env.env_vars == {"RD_TOKEN": "set again"}


def test_a_dumped_config_names_all_variables_that_are_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RD_A", "RD_B"):
        monkeypatch.delenv(name, raising=False)
    cfg = Config({"ray": {"env_vars": {"RD_A": "1", "RD_B": "2"}}, "lr": 1})
    cfg.dump(tmp_path / "out.py")
    with pytest.raises(InputError, match=r"RD_A is not set.*RD_B"):
        Config.fromfile(tmp_path / "out.py")
    kept = Config.fromfile(tmp_path / "out.py", require_env=False)
    assert kept.lr == 1
    assert kept.ray.env_vars.RD_A == "{{$RD_A:}}"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("kind", ["os.system", "subprocess.getoutput", "subprocess.Popen", "shutil.rmtree"])
def test_a_type_that_names_a_command_is_not_called(tmp_path: Path, suffix: str, kind: str) -> None:
    touch = f"touch {tmp_path}/called"
    for key in ("command", "cmd", "args", "path"):
        (tmp_path / f"{key}.{suffix}").write_text(
            json.dumps({"custom_hooks": [{key: touch, "type": kind}], "model": {key: touch, "type": kind}})
        )
        cfg = Config.fromfile(tmp_path / f"{key}.{suffix}")
        with pytest.raises(InputError, match=rf"custom_hooks\[0\]: .*{kind}"):
            build_hooks(cfg)
        with pytest.raises(InputError, match=f"model: .*{kind}"):
            build_model(cfg)
    assert not (tmp_path / "called").exists()
