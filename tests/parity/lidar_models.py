"""Published LiDAR models: tensors and config values, from MMDetection3D itself, into `lidar_models.json.gz`.

Run in an environment with MMDetection3D 1.4.0 (`../shared/reference`), from the root of the checkout:
`PYTHONPATH=../shared/reference python tests/parity/lidar_models.py`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

OUT = Path(__file__).with_name("lidar_models.json.gz")
FOLDERS = ("second", "centerpoint", "pointpillars", "dynamic_voxelization")
LEFT_OUT = ("waymo", "lyft")
SECTIONS = (
    *("model", "optim_wrapper", "param_scheduler", "train_cfg", "auto_scale_lr", "train_dataloader"),
    *("val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"),
)


def main() -> None:
    """Write the file."""
    import standins
    from mmdet3d.registry import MODELS
    from mmengine.config import Config

    found = {}
    for folder in FOLDERS:
        for path in sorted((standins.CONFIGS / folder).glob("*.py")):
            if any(word in path.name for word in LEFT_OUT):
                continue
            cfg = Config.fromfile(path).to_dict()
            sections = {key: cfg[key] for key in SECTIONS}
            text = json.dumps(sections)  # building a model changes its config
            model = MODELS.build(Config.fromfile(path).model)
            shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
            found[f"{folder}/{path.name}"] = {"tensors": shapes, "config": json.loads(text)}
            print(path.name, len(shapes))
    with gzip.GzipFile(OUT, "wb", mtime=0) as file:
        file.write(json.dumps(found, separators=(",", ":")).encode())


if __name__ == "__main__":
    main()
