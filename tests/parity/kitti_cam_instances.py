"""Write `kitti_cam_instances.json.gz`: MMDetection3D 1.4.0's `cam_instances` of random KITTI labels.

Run it with the reference environment's Python; its `standins.py` must be importable:

    PYTHONPATH=<folder of standins.py> python tests/parity/kitti_cam_instances.py
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json.gz")
P2 = [[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884], [0, 0, 0, 1]]
SIZE = (375, 1242)
NAMES = ("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc", "DontCare", "Bus")


def make_labels(count: int = 400) -> dict[str, list]:
    """Return columns of random labels: many of them partly or wholly outside of the image, or behind the camera."""
    rng = np.random.default_rng(0)
    names = rng.choice(NAMES, count).tolist()
    return {
        "name": names,
        "occluded": np.where(np.array(names) == "DontCare", -1, rng.integers(0, 4, count)).tolist(),
        "location": np.round(rng.uniform((-25, -1, -5), (25, 3, 45), (count, 3)), 2).tolist(),
        "dimensions": np.round(rng.uniform((0.5, 1, 0.5), (9, 3, 2.5), (count, 3)), 2).tolist(),
        "rotation_y": np.round(rng.uniform(-np.pi, np.pi, count), 2).tolist(),
    }


def main() -> None:
    import standins  # noqa: F401 - makes mmdet3d importable
    from mmdet3d.datasets.convert_utils import get_kitti_style_2d_boxes

    labels = make_labels()
    annos = {key: np.array(column) for key, column in labels.items()}
    info = {"calib": {"P2": np.array(P2)}, "image": {"image_idx": 0, "image_shape": np.array(SIZE)}}
    found = get_kitti_style_2d_boxes(info, occluded=[0, 1, 2, 3], annos=annos)
    text = json.dumps({"labels": labels, "cam_instances": found})
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(len(found), "of", len(labels["name"]))


if __name__ == "__main__":
    main()
