"""Pages of the documentation, their code blocks, and the revision of the English page that a Chinese one translates.

`python -m tests.kit.docs` prints which Chinese pages are stale; `--stamp PAGE ...` marks them as up to date.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "raydet3d" / "docs"
README = ROOT / "README.md"

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n\n?)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_STAMP = re.compile(r"\A<!-- translates en/(?P<name>\S+) (?P<revision>\w+) -->\n")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Args:
        page: File that holds it.
        line: Line of its opening fence.
        mark: Text of the comment before it: `run`, `config`, `example: NAME, FILE`, `no-run: REASON`, or empty.
        language: Word after the fence.
        text: Code.
    """

    page: Path
    line: int
    mark: str
    language: str
    text: str


def pages(language: str = "en") -> list[Path]:
    """Return the pages of a language, sorted by name."""
    return sorted((DOCS / language).glob("*.md"))


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        line = text[: match.start("language")].count("\n") + 1
        found.append(Block(page, line, match["mark"] or "", match["language"], match["text"]))
    return found


def revision(page: Path) -> str:
    """Return the revision of an English page: the first 12 digits of its SHA-256."""
    return hashlib.sha256(page.read_bytes()).hexdigest()[:12]


def stale_pages() -> list[str]:
    """Return the names of Chinese pages whose stamp is not the revision of their English page."""
    stale = []
    for page in pages("zh"):
        stamp = _STAMP.match(page.read_text(encoding="utf-8"))
        english = DOCS / "en" / page.name
        if stamp is None or stamp["name"] != page.name or stamp["revision"] != revision(english):
            stale.append(page.name)
    return stale


def stamp(name: str) -> None:
    """Mark a Chinese page as a translation of the English page as it is now."""
    page = DOCS / "zh" / name
    text = _STAMP.sub("", page.read_text(encoding="utf-8"))
    page.write_text(f"<!-- translates en/{name} {revision(DOCS / 'en' / name)} -->\n{text}", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stamp"]:
        for argument in sys.argv[2:]:
            stamp(Path(argument).name)
    print("stale:", ", ".join(stale_pages()) or "none")
