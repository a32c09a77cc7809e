"""Look for contradictions in the config files of a checkout, without building anything; see `runtime/consistency.py`.

    python tests/parity/contradictions.py --root CHECKOUT/configs

With MMDetection3D 1.4.0's published configs it finds none: of the 141 files outside of `_base_`, 140 are read (one
names a base that the release lacks).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.runtime.consistency import find_contradictions


def survey(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the contradictions by config file (an empty list if none), and the files that cannot be read."""
    found: dict[str, list[str]] = {}
    unread = []
    for path in sorted(root.rglob("*.py")):
        if "_base_" in path.parts:
            continue
        name = path.relative_to(root).as_posix()
        try:
            cfg = Config.fromfile(path).to_dict()
        except InputError as error:
            unread.append(f"{name}: {error}")
            continue
        if "model" in cfg:
            found[name] = [
                f"{'error' if one.is_error else 'warning'}: {one.message}" for one in find_contradictions(cfg)
            ]
    return found, unread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of config files")
    found, unread = survey(parser.parse_args().root)
    for name, messages in found.items():
        for message in messages:
            print(f"{name}: {message}")
    for line in unread:
        print(f"not read: {line}")
    print(f"{len(found)} configs, {sum(map(bool, found.values()))} with contradictions, {len(unread)} not read")


if __name__ == "__main__":
    main()
