"""The manifest of a checkpoint: what is known of it without reading it. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SUFFIX = ".json"


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's manifest.

    Args:
        name: Name of the file; of the folder, where several ranks have written their shards.
        sha256: Digests that the file may have: one, except while a file is replaced by one of the same name.
        size: Bytes.
        step: Finished iterations.
        serial: Counts the saves into this folder.
        group: Checkpoints of a group share a limit: `epoch`, `iter`, `best_...`.
        run: The run that wrote it; the same after a resume.
        start: The start of the run (its timestamp) that wrote it.
        seed: The run's seed.
        scores: Metrics known when it was written.
        time: When it was written.
        versions: Of raydet3d and torch.
        config: SHA-256 of the config's text.
        resumable: Whether training can go on from it; the best models have no optimizer state.
        milestone: Whether it stays beyond the limit of its group.
        files: Of a sharded checkpoint: digest and bytes of each file, by its path inside the folder.
        world_size: Of a sharded checkpoint: the number of ranks that wrote it.
    """

    name: str
    sha256: list[str]
    size: int
    step: int
    serial: int
    group: str = ""
    run: str = ""
    start: str = ""
    seed: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    time: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    config: str = ""
    resumable: bool = True
    milestone: bool = False
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    world_size: int = 1

    @classmethod
    def from_json(cls, text: bytes | str, name: str | None = None) -> Manifest:
        """Read a manifest; keys of later versions are left out.

        Args:
            text: JSON.
            name: The checkpoint that it must be about.

        Raises:
            ValueError: It is damaged; the message says how.
        """
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        known = {f.name for f in fields(cls)}
        given = {key: value for key, value in content.items() if key in known}
        for key in ("name", "sha256", "size", "step", "serial"):
            if key not in given:
                raise ValueError(f"it has no {key!r}")
        for key, value in given.items():
            if not _VALID[key](value):
                raise ValueError(f"its {key!r} is {value!r:.60}")
        if name is not None and given["name"] != name:
            raise ValueError(f"it names {given['name']!r:.60}")
        if "files" in given:
            given["files"] = {path: (digest, size) for path, (digest, size) in given["files"].items()}
        return cls(**given)

    def to_json(self) -> bytes:
        """Write the manifest."""
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def is_best(self) -> bool:
        """Whether it is one of the best models and no regular checkpoint."""
        return self.group.startswith("best_")


def text_digest(text: str) -> str:
    """SHA-256 of a config's text, as manifests have it."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_file(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_text(value[0]) and _is_count(value[1])


def _is_dict_of(is_valid: Any, value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(is_valid, value.values()))


_VALID = {
    "name": lambda value: _is_text(value) and bool(value) and "/" not in value,
    "sha256": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    **dict.fromkeys(("size", "step", "serial", "world_size"), _is_count),
    **dict.fromkeys(("group", "run", "start", "time", "config"), _is_text),
    "seed": lambda value: value is None or _is_number(value),
    "scores": lambda value: _is_dict_of(_is_number, value),
    "versions": lambda value: _is_dict_of(_is_text, value),
    **dict.fromkeys(("resumable", "milestone"), lambda value: isinstance(value, bool)),
    "files": lambda value: _is_dict_of(_is_file, value),
}
