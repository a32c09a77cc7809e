"""Random damage to files: what disks, people and half-finished copies do."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WRONG: tuple[Any, ...] = (None, True, -1, 10**30, 0.5, "", "x", "\0", [], ["x"], {}, {"x": 1}, float("nan"))


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file in one of several ways.

    Args:
        path: The file.
        rng: Draws what is done.

    Returns:
        What was done.
    """
    kinds = [flip_bits, truncate, empty, replace_by_folder, overwrite, append]
    if path.suffix in (".json", ".jsonl"):
        kinds += [change_type, change_type, drop_key]
    kind = rng.choice(kinds)
    kind(path, rng)
    return f"{kind.__name__} {path.name}"


def flip_bits(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data) + 1)])


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def replace_by_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / "file").write_bytes(b"x")


def overwrite(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.choice((b"\xff\xfe\x00", b"null", b"[]", b"{}", b'"text"', b"\n\n", rng.randbytes(64))))


def append(path: Path, rng: random.Random) -> None:
    with path.open("ab") as file:
        file.write(rng.choice((b"\xff\n", b"{}\n", b'{"run": 1}\n', b"[1]\n", b"\0" * 16, rng.randbytes(16))))


def change_type(path: Path, rng: random.Random) -> None:
    _edit(path, rng, lambda value, key: value.__setitem__(key, rng.choice(WRONG)))


def drop_key(path: Path, rng: random.Random) -> None:
    _edit(path, rng, lambda value, key: value.pop(key))


def _edit(path: Path, rng: random.Random, edit: Any) -> None:
    """Edit a random key of a JSON document, or of a line of several."""
    text = path.read_text(encoding="utf-8")
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [json.loads(line) for line in text.splitlines()]
    document = rng.choice(documents) if documents else None
    if isinstance(document, list) and document:
        document = rng.choice(document)
    if isinstance(document, dict) and document:
        edit(document, rng.choice(sorted(document)))
    path.write_text("".join(json.dumps(one) + "\n" for one in documents), encoding="utf-8")
