"""Config files of a checkout of MMDetection3D, file by file: what ours reads against what MMEngine reads.

    python tests/parity/configs.py --root CHECKOUT [--mmengine PYTHON] [--all]

Every file is read by both, without importing what ``custom_imports`` names, and the dictionaries are compared, tuples
told from lists; the ``_scope_`` that MMEngine adds to what another package brings does not count, since ours has no
scopes. Prints one line a file that differs (``--all``: every file) and a count; ends with 1 where some differ.
``PYTHON`` is one that has MMEngine; by default ``RAYDET3D_MMENGINE_PYTHON``, else this one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from raydet3d.config import Config  # noqa: E402
from raydet3d.errors import InputError  # noqa: E402
from tests.parity.mmengine_side import encoded  # noqa: E402


def mmengine_python() -> str:
    """The python that has MMEngine."""
    return os.environ.get("RAYDET3D_MMENGINE_PYTHON", sys.executable)


def ask_mmengine(requests: Sequence[dict[str, Any]], *, python: str, path: str = "") -> list[dict[str, Any]]:
    """MMEngine's answers.

    Args:
        requests: See ``mmengine_side``.
        python: A python that has MMEngine.
        path: A folder from which it can import as well.
    """
    command = [python, str(HERE / "mmengine_side.py")]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, input=json.dumps(list(requests)), capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{python} cannot answer for MMEngine:\n{done.stderr[-1000:]}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def ours(file: Path) -> dict[str, Any]:
    """What our loader reads, or its sentence."""
    try:
        return {"value": encoded(Config.fromfile(file, import_custom_modules=False).to_dict())}
    except InputError as error:
        return {"error": str(error)}


def difference(theirs: Any, mine: Any, path: str = "") -> Iterator[str]:
    """Where two encoded values differ."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in [*theirs, *(key for key in mine if key not in theirs)]:
            where = f"{path}.{key}" if path else key
            if key not in mine:
                yield f"{where}: only theirs"
            elif key not in theirs:
                yield f"{where}: only ours"
            else:
                yield from difference(theirs[key], mine[key], where)
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        for index, (one, other) in enumerate(zip(theirs, mine, strict=True)):
            yield from difference(one, other, f"{path}.{index}")
    elif theirs != mine or type(theirs) is not type(mine):
        yield f"{path}: {str(theirs)[:60]} against our {str(mine)[:60]}"


def files_of(root: Path) -> list[Path]:
    """The config files of a checkout: configs/, the projects' ones, and the new-style ones inside the package."""
    folders = [root / "configs", root / "mmdet3d" / "configs", root / "mmdet3d" / ".mim" / "configs"]
    folders += sorted(root.glob("projects/*/configs"))
    found = {file.resolve(): file for folder in folders for file in sorted(folder.rglob("*.py"))}
    return [file for file in found.values() if file.name != "__init__.py"]


def verdict(theirs: dict[str, Any], mine: dict[str, Any]) -> tuple[str, str]:
    """One word, and what there is to say."""
    if "error" in theirs:
        word = "both refuse" if "error" in mine else "only ours reads it"
        return word, f"{theirs['error']} | {mine.get('error', '')}"
    if "error" in mine:
        return "only MMEngine reads it", mine["error"]
    found = [text for text in difference(theirs["value"], mine["value"]) if not text.endswith("_scope_: only theirs")]
    return ("differs", "; ".join(found[:3])) if found else ("equal", "")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--mmengine", default=mmengine_python(), metavar="PYTHON")
    parser.add_argument("--all", action="store_true", help="a line for every file")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    files = files_of(root)
    sys.path.insert(0, str(root))
    theirs = ask_mmengine([{"file": str(file)} for file in files], python=args.mmengine, path=str(root))
    count: Counter[str] = Counter()
    for file, answer in zip(files, theirs, strict=True):
        word, why = verdict(answer, ours(file))
        count[word] += 1
        if args.all or word not in ("equal", "both refuse"):
            print(f"{file.relative_to(root)}: {word}{f': {why}' if why else ''}")
    print(f"{len(files)} files: " + ", ".join(f"{number} {word}" for word, number in count.most_common()))
    return 0 if set(count) <= {"equal", "both refuse", "only ours reads it"} else 1


if __name__ == "__main__":
    sys.exit(main())
