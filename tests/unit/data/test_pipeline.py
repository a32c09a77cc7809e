"""Compose, the test-time views and loading; the whole published pipeline alone, in workers and over ranks."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from raydet3d.data import (
    Compose,
    DefaultSampler,
    EpochBatchSampler,
    LoadAnnotations3D,
    LoadPointsFromFile,
    MultiScaleFlipAug3D,
    Pack3DDetInputs,
    PointShuffle,
    SeededDataset,
    Transform,
    pseudo_collate,
)
from raydet3d.errors import InputError
from raydet3d.registry import DATASETS, TRANSFORMS
from raydet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from tests.kit.close import assert_close
from tests.kit.tiny_kitti import dataset_cfg, eval_pipeline, train_pipeline

BASE = ["LoadPointsFromFile", "LoadAnnotations3D"]


class Add(Transform):
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def transform(self, results: dict) -> dict | None:
        if self.amount == 0:
            return None
        return {**results, "sum": results.get("sum", 0) + self.amount}


def test_compose_runs_in_order_and_stops_at_none() -> None:
    with TRANSFORMS.temporary(Add=Add):
        steps = Compose([{"type": "Add", "amount": 2}, lambda results: {"sum": results["sum"] * 10}, Add(1)])
        assert steps({})["sum"] == 21
        assert steps.names == ["Add", "function", "Add"]
        assert Compose([{"type": "Add", "amount": 0}, lambda _: 1 / 0])({}) is None


def test_a_failing_transform_is_named() -> None:
    def broken(results: dict) -> dict:
        raise ValueError("bad cloud")

    with pytest.raises(ValueError, match="bad cloud") as caught:
        Compose([Add(1), broken])({})
    assert caught.value.__notes__ == ["(in transform function)"]
    with pytest.raises(NotImplementedError, match="must define transform"):
        Transform()({})


def test_a_transform_is_off_from_its_epoch_on() -> None:
    class Holder:
        def __init__(self) -> None:
            self.pipeline = Compose([Add(1), MultiScaleFlipAug3D([Add(10)])])

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> int:
            made = self.pipeline({})
            return made[0]["sum"] if isinstance(made, list) else made["sum"]

    holder = Holder()
    assert holder.pipeline.disable_transform("mmdet3d.Add", 3) == 2
    assert holder.pipeline.disable_transform("NoSuch", 3) == 0
    stamped = SeededDataset(holder, 0)
    assert stamped[(2, 0)] == 11
    with pytest.raises(KeyError):
        stamped[(3, 0)]


# ---------------------------------------------------------------- loading and packing


def test_requested_point_columns_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "0.bin"
    cloud = np.arange(20, dtype=np.float32).reshape(4, 5)
    cloud.tofile(path)
    load = LoadPointsFromFile("LIDAR", load_dim=5, use_dim=4)
    assert_close(load({"lidar_path": str(path)})["points"], cloud[:, :4])
    load = LoadPointsFromFile("LIDAR", load_dim=5, use_dim=5, shift_height=False, use_color=False)
    assert_close(load({"lidar_path": str(path)})["points"], cloud)
    load = LoadPointsFromFile("LIDAR", load_dim=5, use_dim=[0, 1, 2, 4, 3], norm_intensity=True, norm_elongation=True)
    made = load({"lidar_points": {"lidar_path": str(path)}})["points"]
    assert_close(made[:, :3], cloud[:, :3])
    assert_close(made[:, 3:], np.tanh(cloud[:, [4, 3]]), atol=1e-6)
    with pytest.raises(InputError, match="80 bytes, not a multiple of the 12 bytes"):
        LoadPointsFromFile("LIDAR", load_dim=3, use_dim=3)({"lidar_path": str(path)})
    for arguments, message in (
        ({"coord_type": "RADAR"}, "coord_type is 'RADAR'"),
        ({"load_dim": 4, "use_dim": 5}, "use_dim=5 asks for more than load_dim=4"),
        ({"load_dim": 4, "use_dim": 3, "norm_intensity": True}, "norm_intensity needs use_dim to keep at least 4"),
        ({"use_color": True}, "use_color=True is for indoor data"),
        ({"backend_args": {"backend": "s3"}}, "backend 's3' is not known"),
    ):
        with pytest.raises(InputError, match=message):
            LoadPointsFromFile(**arguments)


def test_requested_annotations_are_copied() -> None:
    info = {"gt_bboxes_3d": "boxes", "gt_labels_3d": "labels", "gt_bboxes": "2d"}
    made = LoadAnnotations3D()({"ann_info": info})
    assert (made["gt_bboxes_3d"], made["gt_labels_3d"]) == ("boxes", "labels")
    assert "gt_bboxes" not in made
    assert LoadAnnotations3D(with_bbox=True)({"ann_info": info})["gt_bboxes"] == "2d"
    with pytest.raises(InputError, match="gives no 'depths' for 7"):
        LoadAnnotations3D(with_bbox_depth=True)({"ann_info": info, "sample_idx": 7})
    with pytest.raises(InputError, match="sample 7 has no annotation"):
        LoadAnnotations3D()({"sample_idx": 7})


def test_packing_sorts_inputs_instances_and_meta() -> None:
    results = {
        "points": np.ones((3, 4), np.float32),
        "gt_bboxes_3d": LiDARInstance3DBoxes(torch.zeros(2, 7)),
        "gt_labels_3d": np.array([1, 0]),
        "gt_bboxes": np.zeros((2, 4), np.float32),
        "sample_idx": 134,
        "lidar_path": "x.bin",
        "forgotten": 1,
        "eval_ann_info": {"a": 1},
    }
    keys = ["points", "gt_bboxes_3d", "gt_labels_3d", "gt_bboxes", "attr_labels"]
    made = Pack3DDetInputs(keys)(results)
    sample = made["data_samples"]
    assert isinstance(sample, Det3DDataSample)
    assert made["inputs"]["points"].dtype == torch.float32
    assert sample.gt_instances_3d.labels_3d.tolist() == [1, 0]
    assert len(sample.gt_instances_3d.bboxes_3d) == 2
    assert sample.gt_instances.bboxes.shape == (2, 4)
    assert sample.metainfo == {"sample_idx": 134, "lidar_path": "x.bin"}
    assert sample.eval_ann_info == {"a": 1}
    assert Pack3DDetInputs(["points"], meta_keys=["forgotten"])(results)["data_samples"].metainfo == {"forgotten": 1}
    assert Pack3DDetInputs(["points"])([results])["inputs"]["points"].shape == (3, 4)
    assert len(Pack3DDetInputs(["points"])([results, results])) == 2
    with pytest.raises(InputError, match="cannot pack 'img'"):
        Pack3DDetInputs(["points", "img"])


def test_pseudo_collate_stacks_nothing() -> None:
    batch = [{"inputs": {"points": torch.zeros(n, 4)}, "data_samples": Det3DDataSample()} for n in (2, 0)]
    made = pseudo_collate(batch)
    assert [len(points) for points in made["inputs"]["points"]] == [2, 0]
    assert made["inputs"]["points"][0] is batch[0]["inputs"]["points"]
    assert len(made["data_samples"]) == 2
    assert pseudo_collate([(1, "a"), (2, "b")]) == [[1, 2], ["a", "b"]]
    with pytest.raises(InputError, match="different lengths"):
        pseudo_collate([[1], [1, 2]])


# ---------------------------------------------------------------- test-time views


def test_views_of_flips_and_scales() -> None:
    views = MultiScaleFlipAug3D(
        [{"type": "GlobalRotScaleTrans", "rot_range": [0, 0]}, {"type": "RandomFlip3D"}],
        img_scale=(1333, 800),
        pts_scale_ratio=[1.0, 2.0],
        flip=True,
        pcd_horizontal_flip=True,
    )({"points": np.array([[1, 2, 3, 0.5]], np.float32)})
    # Scales x (image not flipped, flipped) x (cloud not flipped, flipped).
    assert [view["points"][0].tolist() for view in views] == [
        [scale, sign * 2 * scale, 3 * scale, 0.5] for scale in (1, 2) for _ in range(2) for sign in (1, -1)
    ]
    assert views[0]["scale"] == (1333, 800)


def test_the_published_test_pipeline_changes_nothing_but_the_range(tiny: Path) -> None:
    dataset = DATASETS.build(dataset_cfg(tiny, split="val", pipeline=eval_pipeline(), test_mode=True))
    made = dataset[0]
    raw = np.fromfile(dataset.get_data_info(0)["lidar_path"], np.float32).reshape(-1, 4)
    inside = (raw[:, :3] > [0, -39.68, -3]).all(1) & (raw[:, :3] < [69.12, 39.68, 1]).all(1)
    assert_close(made["inputs"]["points"], raw[inside])
    assert made["data_samples"].sample_idx == 4
    assert made["data_samples"].eval_ann_info["gt_labels_3d"].tolist() == [2, 0, 1]
    assert made["data_samples"].pcd_scale_factor == 1


def test_frames_without_annotations_are_tested(tiny: Path) -> None:
    cfg = dataset_cfg(tiny, split="test", pipeline=eval_pipeline(), test_mode=True)
    dataset = DATASETS.build({**cfg, "data_prefix": {"pts": "testing/velodyne_reduced"}})
    assert len(dataset) == 2
    # The three points of a test frame lie at the camera: none is seen.
    assert dataset[1]["inputs"]["points"].shape == (0, 4)
    assert "eval_ann_info" not in dataset[1]["data_samples"]


# ---------------------------------------------------------------- the same wherever it runs


def fingerprint(batch: dict) -> list[tuple]:
    return [
        (sample.sample_idx, points.numpy().tobytes(), sample.gt_instances_3d.bboxes_3d.tensor.numpy().tobytes())
        for points, sample in zip(batch["inputs"]["points"], batch["data_samples"], strict=True)
    ]


def load(cfg: dict, *, workers: int, batch: int = 2, world: int = 1, rank: int = 0, epoch: int = 1) -> list[list]:
    dataset = DATASETS.build({"type": "RepeatDataset", "times": 3, "dataset": cfg})
    sampler = DefaultSampler(dataset, seed=11, rank=rank, world_size=world)
    batches = EpochBatchSampler(BatchSampler(sampler, batch, drop_last=False), sampler)
    batches.set_position(epoch, 0)
    made = DataLoader(SeededDataset(dataset, 11), batch_sampler=batches, num_workers=workers, collate_fn=pseudo_collate)
    return [fingerprint(one) for one in made]


@pytest.mark.parametrize(
    "name",
    [
        *("ObjectSample", "ObjectNoise", "RandomFlip3D", "GlobalRotScaleTrans", "PointsRangeFilter"),
        *("ObjectRangeFilter", "ObjectNameFilter", "PointShuffle"),
    ],
)
def test_each_transform_gives_the_same_in_worker_processes(tiny: Path, name: str) -> None:
    whole = train_pipeline(tiny)
    steps = [step for step in whole if step["type"] in (*BASE, name, "Pack3DDetInputs")]
    assert len(steps) == 4
    cfg = dataset_cfg(tiny, pipeline=steps)
    assert load(cfg, workers=2, batch=6) == load(cfg, workers=0, batch=6)


def test_the_whole_pipeline_is_the_same_for_workers_and_ranks_and_differs_by_epoch(tiny: Path) -> None:
    cfg = dataset_cfg(tiny, pipeline=train_pipeline(tiny, plane=True))
    alone = load(cfg, workers=0, batch=4)
    assert load(cfg, workers=2, batch=4) == alone
    ranks = [load(cfg, workers=workers, batch=2, world=2, rank=rank) for rank, workers in ((0, 0), (1, 2))]
    for together, *shares in zip(alone, *ranks, strict=True):
        assert together == [sample for pair in zip(*shares, strict=True) for sample in pair]
    # 12 samples are 4 frames three times over: each time another augmentation, and another in the next epoch.
    samples = [sample for batch in alone for sample in batch]
    assert len({points for _, points, _ in samples}) == 12
    later = [sample for batch in load(cfg, workers=0, batch=4, epoch=2) for sample in batch]
    assert not {points for _, points, _ in later} & {points for _, points, _ in samples}


def test_pasting_is_switched_off_in_workers(tiny: Path) -> None:
    dataset = DATASETS.build(
        {
            "type": "RepeatDataset",
            "times": 2,
            "dataset": dataset_cfg(tiny, pipeline=train_pipeline(tiny)),
        }
    )
    assert dataset.disable_transform("ObjectSample", 1) == 1
    sampler = DefaultSampler(dataset, shuffle=False, rank=0, world_size=1)
    batches = EpochBatchSampler(BatchSampler(sampler, 8, drop_last=False), sampler)
    made = DataLoader(
        SeededDataset(dataset, 0),
        batch_sampler=batches,
        num_workers=1,
        persistent_workers=True,
        collate_fn=pseudo_collate,
    )
    counts = []
    for epoch in range(2):
        batches.set_position(epoch)
        (batch,) = made
        counts.append(max(len(sample.gt_instances_3d.labels_3d) for sample in batch["data_samples"]))
    assert counts[0] > 3
    assert counts[1] <= 3


def test_transforms_removed_by_a_hook_are_skipped() -> None:
    """As the hooks of published projects do: ``dataset.pipeline.transforms = [those that stay]``."""
    pipeline = Compose([lambda x: x + 1, lambda x: x * 10, lambda x: x - 3])
    pipeline.transforms = pipeline.transforms[::2]
    assert pipeline(1) == -1
    assert len(pipeline.names) == 2


def test_names_are_the_configs_in_another_process_too() -> None:
    with TRANSFORMS.temporary(Other=PointShuffle):
        pipeline = Compose([{"type": "mmdet3d.Other"}, PointShuffle()])
    assert pipeline.names == pickle.loads(pickle.dumps(pipeline)).names == ["Other", "PointShuffle"]
