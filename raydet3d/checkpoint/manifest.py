"""The manifest of a checkpoint: what is known of it without reading it. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated

from annotated_types import Predicate

from raydet3d.config.type_check import NonNegativeInt

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

SUFFIX = ".json"


def _is_file_name(name: str) -> bool:
    return bool(name) and "/" not in name


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
        resumable: Whether a run can resume from it; the best models have no optimizer state.
        milestone: Whether it stays beyond the limit of its group.
        files: Of a sharded checkpoint: digest and bytes of each file, by its path inside the folder.
        world_size: Of a sharded checkpoint: the number of ranks that wrote it.
    """

    name: Annotated[str, Predicate(_is_file_name)]
    sha256: list[str]
    size: NonNegativeInt
    step: NonNegativeInt
    serial: NonNegativeInt
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
    files: dict[str, tuple[str, NonNegativeInt]] = field(default_factory=dict)
    world_size: NonNegativeInt = 1

    @classmethod
    def from_json(cls, text: bytes | str, name: str | None = None) -> Manifest:
        """Read a manifest; keys of later versions are left out.

        Args:
            text: JSON.
            name: The checkpoint that it must be about.

        Raises:
            ValueError: It is damaged; the message says how.
        """
        from pydantic import ValidationError

        try:
            found = _schema().validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(_describe(error.errors(include_url=False)[0])) from None
        if name is not None and found.name != name:
            raise ValueError(f"it names {found.name!r:.60}")
        return found

    def to_json(self) -> bytes:
        """Write the manifest."""
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def is_best(self) -> bool:
        """Whether it is one of the best models and no regular checkpoint."""
        return self.group.startswith("best_")


@cache
def _schema() -> TypeAdapter[Manifest]:
    from pydantic import TypeAdapter  # here, not above: its import takes about 0.2 s

    return TypeAdapter(Manifest)


def _describe(error: ErrorDetails) -> str:
    """Say what is wrong in a few words, the key first."""
    where = error["loc"]
    if not where:
        return f"it holds no object ({error['msg']})"
    is_missing = error["type"] == "missing" and len(where) == 1
    return f"it has no {where[0]!r}" if is_missing else f"its {where[0]!r} is {error['input']!r:.60}"


def text_digest(text: str) -> str:
    """SHA-256 of a config's text, as manifests have it."""
    return hashlib.sha256(text.encode()).hexdigest()
