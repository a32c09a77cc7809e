"""Check the lists of frames that make up the splits of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from raydet3d.log import get_logger


def unique_frames(names: Sequence[str], path: Path) -> list[str]:
    """Return every frame of a list once, in its order, and warn of those that are listed more than once.

    Args:
        names: Frames as listed.
        path: The list, for the warning.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        get_logger().warning(
            "%s: %d frames are listed more than once (first: %s) and used once", path, len(repeated), repeated[0]
        )
    return list(dict.fromkeys(names))


def warn_of_shared_frames(splits: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Warn of frames that are in the training and in the validation split.

    Args:
        splits: Frames by split.
        folder: Folder of the lists, for the warning.
    """
    shared = set(splits.get("train", ())) & set(splits.get("val", ()))
    if shared:
        get_logger().warning(
            "%s: %d frames are in train.txt and in val.txt (first: %s): validation scores will be too good",
            folder,
            len(shared),
            min(shared),
        )
