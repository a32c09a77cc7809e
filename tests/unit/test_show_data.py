"""`show data`: a small KITTI before and after augmentation; which objects were pasted; counts of labels and points."""

import sys
from pathlib import Path

import numpy as np
import pytest

from raydet3d import show
from raydet3d.errors import InputError
from raydet3d.show_data import PASTED_COLOR, follow_pasted
from tests.kit.tiny_kitti import CLASSES, train_pipeline, write_kitti


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from raydet3d.data.prepare.__main__ import main

    root = write_kitti(tmp_path_factory.mktemp("kitti"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare", "kitti", str(root), "--workers", "0"])
        assert main() == 0
    return root


def config(folder: Path, root: Path, *, val_pipeline: list[dict] | None = None) -> Path:
    def loader(split: str, pipeline: list[dict], **kwargs: object) -> dict[str, object]:
        dataset = {
            "type": "KittiDataset",
            "data_root": f"{root}/",
            "ann_file": f"kitti_infos_{split}.pkl",
            "data_prefix": {"pts": "training/velodyne_reduced", "img": "training/image_2"},
            "metainfo": {"classes": CLASSES},
            "pipeline": pipeline,
            **kwargs,
        }
        return {"batch_size": 1, "dataset": {"type": "RepeatDataset", "times": 2, "dataset": dataset}}

    test = [train_pipeline(root)[0], {"type": "Pack3DDetInputs", "keys": ["points"]}]
    file = folder / "tiny.py"
    file.write_text(
        f"train_dataloader = {loader('train', train_pipeline(root))!r}\n"
        f"val_dataloader = {loader('val', test, test_mode=True)!r}\n"
        f"work_dir = {str(folder / 'work')!r}\nrandomness = dict(seed=3)\n"
    )
    return file


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", ["show", "data", *map(str, args)])
    assert show.main() == 0


def test_pictures_page_and_counts(kitti, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "page"
    run(monkeypatch, config(tmp_path, kitti), "--n", 2, "--aug", 2, "--page", folder)
    out = capsys.readouterr().out
    assert "train: 8 samples; labels of 8 of them" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["Car", "8", "8", "1", "33.3", "%"] in rows  # objects, samples with it, most in one, share
    assert sorted(file.name for file in folder.iterdir()) == ["000000.png", "000003.png", "index.html"]
    page = (folder / "index.html").read_text()
    assert '"kinds":["truth","pasted"]' in page
    assert '"pasted":true' in page
    for name in ("000000 before", "000000 after (epoch 0)", "000000 after (epoch 1)"):
        assert f'"name":"{name}"' in page
    assert "<td>Car</td>" in page
    assert page.count('"jpeg"') == 2  # cameras of the two samples that were not moved
    before = next(line for line in rows if line[:2] == ["before", "Car"])
    assert before == ["before", "Car", "2", "0", "40", "40", "40", "0"]  # boxes, pasted, points 10 %, 50 %, 90 %, empty
    from PIL import Image

    picture = np.asarray(Image.open(folder / "000000.png")).astype(int)
    third = picture.shape[1] // 3
    has = [(np.abs(picture[:, i * third : (i + 1) * third] - PASTED_COLOR).sum(-1) < 30).any() for i in range(3)]
    assert has == [False, True, True]


def test_the_same_command_draws_the_same(kitti, tmp_path, monkeypatch):
    for name in ("one", "two"):
        run(monkeypatch, config(tmp_path, kitti), "--n", 1, "--page", tmp_path / name)
    for file in ("000000.png", "index.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_validation_samples_in_the_work_dir_without_augmented_ones(kitti, tmp_path, monkeypatch):
    run(monkeypatch, config(tmp_path, kitti), "--split", "val", "--n", 1, "--aug", 0)
    page = (tmp_path / "work" / "data" / "index.html").read_text()
    assert '"frames":[{"name":"000004 before","misses":0,"falses":0}]' in page
    assert '"kinds":["truth"' in page


def test_bad_flags_and_absent_splits_are_named(kitti, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--n must be 1 or more"):
        run(monkeypatch, config(tmp_path, kitti), "--n", 0)
    with pytest.raises(InputError, match="no test_dataloader"):
        run(monkeypatch, config(tmp_path, kitti), "--split", "test")


def test_pasted_boxes_are_followed_through_transforms_that_add_move_and_remove():
    own = np.arange(18.0).reshape(3, 6)
    new = 100 + np.arange(12.0).reshape(2, 6)
    flags = follow_pasted(own, np.zeros(3, bool), np.concatenate([own, new]))
    assert flags.tolist() == [False, False, False, True, True]
    moved = np.concatenate([own, new]) + 1
    flags = follow_pasted(np.concatenate([own, new]), flags, moved)
    kept = moved[[0, 2, 4]]
    assert follow_pasted(moved, flags, kept).tolist() == [False, False, True]
    assert follow_pasted(moved, flags, moved[:0]).tolist() == []
