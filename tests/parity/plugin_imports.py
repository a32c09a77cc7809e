"""Which imports of four public code bases resolve here, and why the others do not.

    python tests/parity/plugin_imports.py [--update NAMES.txt]

`plugin_imports.tsv` holds, for each name that mmdetection3d/projects, FRNet, oneformer3d and unidet3d import from
mmengine, mmcv, mmdet and mmdet3d: how often, the name, and the reason where nothing stands for it. `--update` reads
uses and names from a list (uses, code bases, name) and keeps the reasons.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

TABLE = Path(__file__).with_suffix(".tsv")


def resolves(name: str) -> bool:
    """Whether `import` finds a name, a module or something in one, through the aliases."""
    from raydet3d import compat

    compat.install()
    module, _, attribute = name.rpartition(".")
    try:
        found = importlib.import_module(module)
        return hasattr(found, attribute) or bool(importlib.import_module(name))
    except (ImportError, AttributeError):
        return False


def read_table() -> list[tuple[int, str, str]]:
    """Uses, name and reason (empty if it resolves) of each row."""
    rows = [line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines()]
    return [(int(uses), name, reason) for uses, name, reason in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", type=Path)
    args = parser.parse_args()
    if args.update is not None:
        reasons = {name: reason for _, name, reason in read_table()} if TABLE.exists() else {}
        listed = [line.split() for line in args.update.read_text().splitlines() if line and not line.startswith("#")]
        rows = [f"{uses}\t{name}\t{'' if resolves(name) else reasons.get(name, '?')}\n" for uses, _, name in listed]
        TABLE.write_text("".join(rows), encoding="utf-8")
    rows = read_table()
    missing = [(uses, name, reason) for uses, name, reason in rows if not resolves(name)]
    for uses, name, reason in missing:
        print(f"{uses:3} {name}: {reason}")
    total = sum(uses for uses, _, _ in rows)
    print(f"{total - sum(uses for uses, _, _ in missing)} of {total} imports resolve")


if __name__ == "__main__":
    main()
