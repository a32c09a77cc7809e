"""Random damage to what preparation, data check, inference and caches keep to go on from: results stay the same.

Each further call gives the results of the undisturbed one, or one line, and never another exception.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raydet3d.config import Config
from raydet3d.data.check.expectations import Expectations
from raydet3d.data.check.sources import splits_of_root
from raydet3d.data.check.split_checks import check_splits
from raydet3d.data.prepare import nuscenes_frames, prepare_custom, prepare_kitti, prepare_nuscenes
from raydet3d.errors import InputError
from raydet3d.info_file import open_infos, read_infos
from raydet3d.runtime.frame_sinks import JsonSink
from raydet3d.runtime.infer_files import CloudFile, FileInferencer, InferJob
from raydet3d.runtime.infer_output import begin, make_record, write_lines
from raydet3d.runtime.scene_sink import join_scenes
from tests.kit.damage import damage, flip_bits
from tests.kit.small_detector import clouds_of, write_project
from tests.kit.strange_recorder import write_strange_folder
from tests.kit.tiny_kitti import write_kitti
from tests.kit.tiny_nuscenes import VERSION, write_nuscenes

SLOW = pytest.mark.slow
COUNTS = pytest.mark.parametrize(("count", "seed"), [(12, 1), pytest.param(200, 2, marks=SLOW)])


def prepared(root: Path) -> dict[str, bytes]:
    """The info files and the database that a preparation writes."""
    files = [*root.glob("*.pkl"), *root.glob("*_gt_database*"), *root.glob("*_gt_database/*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


@COUNTS
@pytest.mark.parametrize("write", [write_kitti, write_strange_folder], ids=["kitti", "custom"])
def test_a_preparation_after_damage_to_its_journal_writes_the_same(
    write: Callable[[Path], Path], tmp_path: Path, count: int, seed: int
) -> None:
    prepare = {write_kitti: prepare_kitti, write_strange_folder: prepare_custom}[write]
    rng = random.Random(seed)
    root = write(tmp_path / "data")
    prepare(root)
    expected = prepared(root)
    for number in range(count):
        what = f"case {number}: {damage(root / '.prepare.journal', rng)}"
        prepare(root)
        assert prepared(root) == expected, what


@COUNTS
def test_a_preparation_after_damage_to_finished_scenes_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, seed: int
) -> None:
    rng = random.Random(seed)
    root = write_nuscenes(tmp_path / "nuscenes")
    prepare_nuscenes(root, version=VERSION)
    expected = prepared(root)
    (root / f".prepare.{VERSION}.json").unlink()
    real = nuscenes_frames.make_frame

    def stop_in_the_second_scene(frame: Any) -> Any:
        if frame.token == "sample-1-1":
            raise KeyboardInterrupt
        return real(frame)

    monkeypatch.setattr(nuscenes_frames, "make_frame", stop_in_the_second_scene)
    with pytest.raises(KeyboardInterrupt):
        prepare_nuscenes(root, version=VERSION)
    monkeypatch.setattr(nuscenes_frames, "make_frame", real)
    shutil.copytree(root, tmp_path / "stopped")
    for number in range(count):
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "stopped", root)
        (scene,) = root.glob(f".prepare.{VERSION}/*.pkl")
        what = f"case {number}: {damage(scene, rng)}"
        prepare_nuscenes(root, version=VERSION)
        assert prepared(root) == expected, what
        what = f"case {number}: {damage(root / f'.prepare.{VERSION}.json', rng)}"
        prepare_nuscenes(root, version=VERSION)
        assert prepared(root) == expected, what


@COUNTS
def test_a_data_check_after_damage_to_its_journal_finds_the_same(tmp_path: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    root = write_kitti(tmp_path / "kitti", train=4, val=2, num_points=100)
    splits = splits_of_root(root)
    expected = check_splits(splits, Expectations(), tmp_path / "out")
    for number in range(count):
        what = f"case {number}: {damage(tmp_path / 'out' / '.check.journal', rng)}"
        result = check_splits(splits, Expectations(), tmp_path / "out")
        assert result.findings == expected.findings, what
        for name, tally in expected.splits.items():
            assert result.splits[name].to_json() == tally.to_json(), what


@pytest.fixture(scope="module")
def inferred(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InferJob, list[CloudFile]]:
    """A folder of inference results, the job that made them, and its files."""
    folder = tmp_path_factory.mktemp("inferred")
    config, checkpoint = write_project(folder, val=2)
    files = [CloudFile(str(path), path.stem) for path in clouds_of(folder)]
    out = folder / "out"
    job = InferJob(
        cfg=Config.fromfile(config).to_dict(),
        checkpoint=str(checkpoint),
        out=str(out),
        page_dir=str(out / "page"),
        page_names=tuple(file.name for file in files),
        device="cpu",
    )
    infer_all(job, files, FileInferencer(job))
    return out, job, files


def infer_all(job: InferJob, files: list[CloudFile], inferencer: FileInferencer) -> dict[str, bytes]:
    out = Path(job.out)
    begin(out, make_record(job, "/clouds", ["Car"]), fresh=False)
    failed = {one.path: one.error for one in inferencer.run(files) if one.error}
    lines, _ = write_lines(out, files, JsonSink(out), failed)
    assert job.page_dir is not None
    page = join_scenes(job.page_dir, job.page_names, title="clouds", classes=["Car"], score_thr=0.3)
    return {"lines": lines.read_bytes(), "page": page.read_bytes()}


@COUNTS
def test_an_inference_after_damage_to_its_folder_ends_with_all_predictions_or_one_line(
    inferred: tuple[Path, InferJob, list[CloudFile]], tmp_path: Path, count: int, seed: int
) -> None:
    whole, job, files = inferred
    rng = random.Random(seed)
    expected = [json.loads(line) for line in (whole / "predictions.jsonl").read_text().splitlines()]
    out = tmp_path / "out"
    job = replace(job, out=str(out), page_dir=str(out / "page"))
    inferencer = FileInferencer(job)
    for number in range(count):
        shutil.copytree(whole, out)
        targets = sorted(path for path in out.rglob("*") if path.is_file())
        target = rng.choice(targets)
        what = f"case {number}: {damage(target, rng)}"
        try:
            infer_all(job, files, inferencer)
        except InputError as error:
            said = str(error)
            assert target.name == "infer.json", what
            assert "--fresh" in said, what
            assert len(list(out.glob("preds/*.json"))) == len(files), what
        else:
            lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
            assert len(lines) == len(expected), what
            if target.parent.name != "preds":
                assert lines == expected, what
            assert all("error" not in line for line in lines), what
        shutil.rmtree(out)


@COUNTS
def test_a_damaged_cache_of_an_info_file_is_made_again_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, seed: int
) -> None:
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)
    rng = random.Random(seed)
    root = write_kitti(tmp_path / "kitti")
    prepare_kitti(root)
    path = root / "kitti_infos_train.pkl"
    cache = root / "kitti_infos_train.pkl.cache"
    expected = repr(list(read_infos(path)["data_list"]))
    for number in range(count):
        assert repr(list(open_infos(path))) == expected
        what = f"case {number}: {damage(cache, rng)}"
        try:
            frames = open_infos(path)
            assert repr(list(frames)) == expected, what
        except InputError as error:
            said = str(error)
            assert "kitti_infos_train.pkl.cache" in said, what
        shutil.rmtree(cache) if cache.is_dir() else cache.unlink()


def test_bit_flips_in_a_cache_of_usual_size_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)
    rng = random.Random(3)
    root = write_kitti(tmp_path / "kitti")
    prepare_kitti(root)
    path, cache = root / "kitti_infos_train.pkl", root / "kitti_infos_train.pkl.cache"
    expected = repr(list(open_infos(path)))
    whole = cache.read_bytes()
    for _ in range(200):
        cache.write_bytes(whole)
        flip_bits(cache, rng)
        assert repr(list(open_infos(path))) == expected
