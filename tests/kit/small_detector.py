"""A reduced PointPillars with first weights, a few KITTI frames, and a config of both: predictions in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raydet3d.config import Config
from raydet3d.data.prepare import prepare_kitti
from raydet3d.runtime.build import build_model
from tests.kit.pointpillars import reduced
from tests.kit.tiny_kitti import CLASSES, dataset_cfg, eval_pipeline, write_kitti


def write_project(folder: Path, *, val: int = 5, **changes: Any) -> tuple[Path, Path]:
    """Write a prepared data set, a config and a checkpoint whose weights find something in every frame.

    Args:
        folder: Where to write them.
        val: Frames of the test set.
        **changes: Top-level keys of the config.

    Returns:
        The config's path and the checkpoint's.
    """
    root = write_kitti(folder / "kitti", train=1, val=val)
    prepare_kitti(root)
    model = reduced(cells=64)
    model["test_cfg"].update(score_thr=0.0, nms_pre=20, max_num=8)
    dataset = dataset_cfg(root, split="val", pipeline=eval_pipeline(), test_mode=True)
    cfg = Config(
        {
            "model": model,
            "test_dataloader": {
                "batch_size": 1,
                "num_workers": 0,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "dataset": dataset,
            },
            "test_cfg": {"type": "TestLoop"},
            "test_evaluator": {"type": "KittiMetric", "ann_file": f"{root}/kitti_infos_val.pkl"},
            "default_hooks": {
                "logger": {"type": "LoggerHook", "headline": ["AP40"]},
                "visualization": {"type": "Det3DVisualizationHook"},
            },
            "visualizer": {"type": "Det3DLocalVisualizer", "vis_backends": [], "bev_size": 200},
            "randomness": {"seed": 0},
            "ray": {"dashboard": False, "gpus_per_worker": 0, "cpus_per_worker": 0.5},
            **changes,
        }
    )
    path = folder / "small.py"
    cfg.dump(path)
    write_checkpoint(cfg, folder / "small.pth")
    return path, folder / "small.pth"


def write_checkpoint(cfg: Config, path: Path, **further: Any) -> None:
    """Write first weights, with heads that answer to what they see, as a checkpoint of a run.

    Args:
        cfg: The config of the model.
        path: The file.
        **further: Further keys of the checkpoint.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = build_model(cfg)
        model.init_weights()
        for parameter in model.bbox_head.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": list(CLASSES)}, "epoch": 1, "seed": 0}
    torch.save({"meta": meta, "state_dict": model.state_dict(), **further}, path)


def clouds_of(folder: Path) -> list[Path]:
    """The clouds of the test set, in its order."""
    return sorted((folder / "kitti" / "training" / "velodyne_reduced").glob("*.bin"))[1:]
