"""Code lines and `Any` in argument annotations: `python -m tests.kit.code_metrics [ROOT]` prints them by package."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENCODING}


@dataclass
class Metrics:
    """Counts over one or several files."""

    code_lines: int = 0
    annotated: int = 0
    bare_any: int = 0
    containing_any: int = 0
    longest: Counter[str] = field(default_factory=Counter)

    def add(self, other: Metrics) -> None:
        """Add the counts of another."""
        self.code_lines += other.code_lines
        self.annotated += other.annotated
        self.bare_any += other.bare_any
        self.containing_any += other.containing_any
        self.longest |= other.longest


def measure(path: Path) -> Metrics:
    """Count one file: lines that hold code (no blank lines, comments, docstrings) and argument annotations."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstrings: set[int] = set()
    found = Metrics()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            rest = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
            for argument in [*named, *rest]:
                if argument.annotation is not None:
                    words = {part.id for part in ast.walk(argument.annotation) if isinstance(part, ast.Name)}
                    found.containing_any += "Any" in words
                    if argument not in rest:  # `**kwargs: Any` is how Python writes "handed on as it is"
                        found.annotated += 1
                        found.bare_any += words == {"Any"} and isinstance(argument.annotation, ast.Name)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _LAYOUT and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    found.code_lines = len(lines - docstrings)
    found.longest[str(path)] = len(text.splitlines())
    return found


def measure_package(package: Path) -> dict[str, Metrics]:
    """Count every file below `package`, by its first folder ("." for files beside it)."""
    groups: dict[str, Metrics] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        groups.setdefault(parts[0] if len(parts) > 1 else ".", Metrics()).add(measure(path))
    return groups


def main() -> None:
    """Print the table."""
    groups = measure_package((Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT) / "raydet3d")
    total = Metrics()
    for one in groups.values():
        total.add(one)
    print(f"{'package':<14}{'code':>7}{'args':>7}{'Any':>6}{'with Any':>10}")
    for name, one in [*groups.items(), ("sum", total)]:
        print(f"{name:<14}{one.code_lines:>7}{one.annotated:>7}{one.bare_any:>6}{one.containing_any:>10}")
    print(f"bare Any: {100 * total.bare_any / total.annotated:.1f} % of argument annotations")
    print("longest:", ", ".join(f"{lines} {Path(name).name}" for name, lines in total.longest.most_common(5)))


if __name__ == "__main__":
    main()
