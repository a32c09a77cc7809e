"""Write `nuscenes_infos.json.gz`: MMDetection3D 1.4.0's info files of the two scenes of `tests/kit/tiny_nuscenes.py`.

Run it with the reference environment's Python (which has the devkit); its `standins.py` must be importable:

    PYTHONPATH=.:<folder of standins.py> PYTHON tests/parity/nuscenes_infos.py
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json.gz")


def main() -> None:
    import standins  # makes mmdet3d importable

    from tests.kit.tiny_nuscenes import VERSION, write_nuscenes

    sys.path.insert(0, str(Path(standins.CONFIGS).parent))
    from tools.dataset_converters import nuscenes_converter, update_infos_to_v2

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_nuscenes(Path("data/nuscenes"))
        nuscenes_converter.create_nuscenes_infos("./data/nuscenes", "nuscenes", VERSION)
        stored = {}
        for split in ("train", "val"):
            path = f"./data/nuscenes/nuscenes_infos_{split}.pkl"
            update_infos_to_v2.update_nuscenes_infos(path, "./data/nuscenes")
            stored[split] = pickle.loads(Path(path).read_bytes())
    FILE.write_bytes(gzip.compress(json.dumps(stored, default=_plain).encode(), mtime=0))


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(type(value))


if __name__ == "__main__":
    main()
