"""The town as a data set: generated once, on first use, by one process, and never mistaken for another town."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet3d.data.synthetic import TownDataset, TownSettings
from raydet3d.data.synthetic.town import ensure_town
from raydet3d.errors import InputError
from raydet3d.registry import DATASETS

TOWN = dict(seed=1, num_train=3, num_val=2, cars=(4, 6))
CLASSES = ("Pedestrian", "Cyclist", "Car")


def config(root: Path, **more: object) -> dict[str, object]:
    return dict(
        type="TownDataset",
        data_root=str(root),
        ann_file="kitti_infos_train.pkl",
        town=TOWN,
        data_prefix=dict(pts="training/velodyne_reduced"),
        metainfo=dict(classes=CLASSES),
        pipeline=[
            dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=4, use_dim=4),
            dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
            dict(type="Pack3DDetInputs", keys=["points", "gt_labels_3d", "gt_bboxes_3d"]),
        ],
        **more,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("towns") / "deep" / "town"
    TownDataset.check_data(config(root))
    return root


def test_first_use_generates_and_prepares(root: Path):
    assert {path.name for path in root.glob("*.pkl")} == {
        "kitti_infos_train.pkl",
        "kitti_infos_val.pkl",
        "kitti_infos_trainval.pkl",
        "kitti_dbinfos_train.pkl",
    }
    assert len(list((root / "training" / "velodyne_reduced").iterdir())) == 5
    assert json.loads((root / "settings.json").read_text())["num_train"] == 3
    assert not (root.parent / ".town.partial").exists()


def test_without_a_root_it_goes_to_the_same_folder_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cfg = {key: value for key, value in config(tmp_path).items() if key != "data_root"}
    cfg["town"] = {**TOWN, "num_train": 1, "num_val": 1}
    TownDataset.check_data(cfg)
    assert (tmp_path / "data/town/settings.json").is_file()
    assert len(DATASETS.build(cfg)) == len(DATASETS.build({**cfg, "data_root": ""})) == 1


def test_second_use_leaves_the_files_alone(root: Path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    TownDataset.check_data(config(root))
    dataset = DATASETS.build(config(root))
    assert len(dataset) == 3
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_samples_have_kittis_fields(root: Path):
    dataset = DATASETS.build(config(root))
    assert dataset.metainfo["classes"] == CLASSES
    for index in range(3):
        sample = dataset[index]
        points = sample["inputs"]["points"]
        assert points.dtype == torch.float32
        assert points.shape[1] == 4
        assert len(points) > 10_000
        objects = sample["data_samples"].gt_instances_3d
        assert len(objects.bboxes_3d) > 3
        assert set(objects.labels_3d.tolist()) <= {0, 1, 2}
        held = objects.bboxes_3d.points_in_boxes(points[:, :3])
        assert np.median(np.asarray(held).sum(axis=0)) > 20
    val = DATASETS.build(config(root) | dict(ann_file="kitti_infos_val.pkl", test_mode=True))
    assert [val.get_data_info(i)["sample_idx"] for i in range(len(val))] == [3, 4]


@pytest.mark.parametrize("key", ["seed", "num_val"])
def test_another_town_in_the_folder_is_refused(root: Path, key: str):
    cfg = config(root) | dict(town={**TOWN, key: 7})
    with pytest.raises(InputError) as error:
        TownDataset.check_data(cfg)
    message = str(error.value)
    assert f"the town with {key}={TOWN[key]}, the config asks for {key}=7" in message
    assert str(root) in message
    assert "delete the folder" in message
    with pytest.raises(InputError, match="asks for"):
        DATASETS.build(cfg)


def test_a_folder_with_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no generated town"):
        TownDataset.check_data(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unwritable_parent_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the town to"):
        TownDataset.check_data(config(tmp_path / "file" / "town"))


def test_a_killed_generation_leaves_no_files(tmp_path: Path):
    left = tmp_path / ".town.partial" / "training"
    left.mkdir(parents=True)
    (left / "half.bin").write_bytes(b"1")
    (tmp_path / "town").mkdir()  # empty, as a volume that was just mounted
    TownDataset.check_data(config(tmp_path / "town"))
    assert (tmp_path / "town" / "settings.json").is_file()
    assert not (tmp_path / ".town.partial").exists()
    assert not list((tmp_path / "town").rglob("half.bin"))


def _come(root: str, start: "multiprocessing.synchronize.Barrier", answers: "multiprocessing.Queue[float]") -> None:
    start.wait()
    ensure_town(Path(root), TownSettings.read(TOWN))
    answers.put((Path(root) / "settings.json").stat().st_mtime_ns)


def test_of_three_processes_one_generates_and_the_others_wait(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_come, args=(str(tmp_path / "town"), start, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    times = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=10)
        assert process.exitcode == 0
    assert len(set(times)) == 1


def test_a_misspelt_setting_is_named():
    with pytest.raises(InputError, match="did you mean 'num_train'"):
        TownDataset.check_data(dict(data_root="nowhere", town=dict(num_trian=3)))
