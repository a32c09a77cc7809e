"""README's tree, made from the files: ``python -m tests.kit.tree`` prints it, ``--write`` puts it there."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- tree -->", "<!-- /tree -->"
WIDTH = 132


def make_tree(root: Path = ROOT) -> str:
    """The repository's parts, and every module of the package with the first sentence of its docstring."""
    lines = [
        _line(0, f"{name}/", _inside(root / name)) for name in ("configs", "cluster", "tests") if _inside(root / name)
    ]
    return "\n".join([*lines, *_package(root / "raydet3d", 0)])


def in_readme(text: str) -> str | None:
    """The tree that stands in a README's text, or None where it has no place for one."""
    if BEGIN not in text or END not in text:
        return None
    block = text.partition(BEGIN)[2].partition(END)[0]
    return block.strip().removeprefix("```").removesuffix("```").strip("\n")


def _package(folder: Path, depth: int) -> list[str]:
    init = folder / "__init__.py"
    lines = [_line(depth, f"{folder.name}/", _first_sentence(init) if init.is_file() else "")]
    parts = [part for part in folder.iterdir() if not part.name.startswith((".", "__pycache__"))]
    for part in sorted(parts, key=lambda part: (part.is_dir(), part.name)):
        if part.is_dir() and any(part.glob("*.py")):
            lines += _package(part, depth + 1)
        elif part.suffix == ".py" and part != init:
            lines.append(_line(depth + 1, part.name, _first_sentence(part)))
    return lines


def _first_sentence(module: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    text = text.replace("``", "`")
    end = text.find(". ")
    return (text[:end] if end > 0 else text).rstrip(".")


def _inside(folder: Path) -> str:
    if not folder.is_dir():
        return ""
    parts = [part for part in sorted(folder.iterdir()) if not part.name.startswith((".", "__"))]
    return "  ".join(f"{part.name}/" if part.is_dir() else part.name for part in parts)


def _line(depth: int, name: str, text: str) -> str:
    line = f"{'  ' * depth + name:26}{text}".rstrip()
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3].rstrip()}..."


def main() -> int:
    """Print the tree, or write it into the README."""
    tree = make_tree()
    if "--write" not in sys.argv[1:]:
        print(tree)
        return 0
    text = README.read_text(encoding="utf-8")
    if in_readme(text) is None:
        print(f"{README.name} has no {BEGIN} ... {END}", file=sys.stderr)
        return 1
    before, _, rest = text.partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n```\n{tree}\n```\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
