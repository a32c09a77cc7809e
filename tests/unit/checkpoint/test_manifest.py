"""Reading manifests: what is wrong in one is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raydet3d.checkpoint.manifest import Manifest


def test_unknown_keys_of_later_versions_are_ignored() -> None:
    content = {"name": "a", "sha256": ["0"], "size": 1, "step": 2, "serial": 3, "colour": "red"}
    assert Manifest.from_json(json.dumps(content)).step == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": "1"}, "its 'size' is '1'"),
        ({"sha256": "0"}, "its 'sha256' is '0'"),
        ({"step": -1}, "its 'step' is -1"),
        ({"scores": [1]}, "its 'scores'"),
        ({"files": {"a": ["0"]}}, "its 'files'"),
        ({"resumable": 1}, "its 'resumable' is 1"),
        ({"name": "../a"}, "its 'name'"),
        ({"name": "b"}, "it names 'b'"),
        ({"step": None}, "its 'step' is None"),
    ],
)
def test_error_names_the_key_and_the_value(change: dict[str, Any], words: str) -> None:
    content = {"name": "a", "sha256": ["0"], "size": 1, "step": 2, "serial": 3, **change}
    with pytest.raises(ValueError, match=words):
        Manifest.from_json(json.dumps(content), "a")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"name": "a"}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no object|has no"):
        Manifest.from_json(text)
