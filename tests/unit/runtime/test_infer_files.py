"""Prediction on files: results written whole, bad files named, frames that are done left alone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from raydet3d.config import Config
from raydet3d.data.datasets.kitti_io import read_calib, read_labels
from raydet3d.errors import InputError
from raydet3d.runtime.frame_sinks import JsonSink
from raydet3d.runtime.infer_files import CloudFile, FileInferencer, InferJob, is_done, make_sinks
from raydet3d.runtime.infer_output import FoundBoxes, begin, make_record, write_lines
from raydet3d.runtime.kitti_text_sink import kitti_annotation
from raydet3d.runtime.scene_sink import join_scenes
from raydet3d.structures import LiDARInstance3DBoxes
from tests.kit.small_detector import clouds_of, write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InferJob]:
    folder = tmp_path_factory.mktemp("project")
    config, checkpoint = write_project(folder)
    cfg = Config.fromfile(config).to_dict()
    return folder, InferJob(cfg=cfg, checkpoint=str(checkpoint), out="", device="cpu")


def files_of(folder: Path) -> list[CloudFile]:
    return [CloudFile(str(path), path.stem) for path in clouds_of(folder)]


def test_a_bad_file_takes_no_other_of_its_batch_with_it(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    folder, job = project
    torn = tmp_path / "torn.bin"
    torn.write_bytes(clouds_of(folder)[0].read_bytes()[:-3])
    files = [*files_of(folder)[:2], CloudFile(str(torn), "torn"), CloudFile(str(tmp_path / "gone.bin"), "gone")]
    job = replace(job, out=str(tmp_path / "out"), batch_size=4)
    outcomes = {one.path: one.error for one in FileInferencer(job).run(files)}
    assert [outcomes[file.path] for file in files[:2]] == ["", ""]
    assert "torn.bin" in outcomes[str(torn)]
    assert "gone.bin" in outcomes[files[3].path]
    assert sorted(path.name for path in (tmp_path / "out" / "preds").iterdir()) == [f"{f.name}.json" for f in files[:2]]


def test_a_cloud_that_the_model_trips_over_is_found_in_its_batch(
    project: tuple[Path, InferJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, job = project
    files = files_of(folder)[:3]
    inferencer = FileInferencer(replace(job, out=str(tmp_path)))
    predict = inferencer._inferencer.predict

    def trip(loaded: Any) -> Any:
        if any(name == files[1].name for name, _ in loaded):
            raise RuntimeError("no\nvoxels")
        return predict(loaded)

    monkeypatch.setattr(inferencer._inferencer, "predict", trip)
    assert [one.error for one in inferencer.run(files)] == ["", "RuntimeError: no voxels", ""]


def test_empty_clouds_and_clouds_out_of_range_give_a_result(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    _, job = project
    np.zeros((0, 4), np.float32).tofile(tmp_path / "empty.bin")
    np.full((5, 4), 500, np.float32).tofile(tmp_path / "far.bin")
    files = [CloudFile(str(tmp_path / f"{name}.bin"), name) for name in ("empty", "far")]
    assert [one.error for one in FileInferencer(replace(job, out=str(tmp_path))).run(files)] == ["", ""]


def test_frames_that_are_done_are_not_predicted_again(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    folder, job = project
    files = files_of(folder)[:2]
    job = replace(job, out=str(tmp_path), show_dir=str(tmp_path / "pictures"), kitti=True)
    assert not FileInferencer(replace(job, show_dir=None, kitti=False)).run(files[:1])[0].error
    assert not is_done(make_sinks(job), files[0])  # it has no picture yet
    inferencer = FileInferencer(job)
    inferencer.run(files[:1])
    result = tmp_path / "preds" / f"{files[0].name}.json"
    os.utime(result, ns=(1, 1))
    inferencer.run(files)
    assert result.stat().st_mtime_ns == 1
    for name in (f"pictures/{files[1].name}.png", f"kitti/{files[1].name}.txt", f"preds/{files[1].name}.json"):
        assert (tmp_path / name).is_file()


def test_a_page_holds_the_named_frames_that_are_done(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    folder, job = project
    files = files_of(folder)[:3]
    names = tuple(file.name for file in files[:2])
    job = replace(job, out=str(tmp_path), page_dir=str(tmp_path / "page"), page_names=names)
    FileInferencer(job).run(files[1:])
    assert [is_done(make_sinks(job), file) for file in files] == [False, True, True]
    page = join_scenes(tmp_path / "page", names, title="clouds", classes=["Car"], score_thr=0.3)
    text = page.read_text()
    assert f'"frames":[{{"name":"{names[1]}","misses":0,"falses":0}}]' in text
    assert '"kinds":["found"]' in text


def test_score_thr_leaves_out_boxes(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    folder, job = project
    file = files_of(folder)[0]
    scores = []
    for name, least in (("all", None), ("some", 0.592)):
        out = tmp_path / name
        FileInferencer(replace(job, out=str(out), score_thr=least)).run([file])
        scores.append(json.loads((out / "preds" / f"{file.name}.json").read_text())["scores_3d"])
    assert scores[1] == [score for score in scores[0] if score >= np.float32(0.592)]
    assert 0 < len(scores[1]) < len(scores[0])


def test_kitti_text_holds_the_boxes_in_the_camera_frame(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    folder, job = project
    file = files_of(folder)[0]
    calibs = folder / "kitti" / "training" / "calib"
    FileInferencer(replace(job, out=str(tmp_path), kitti=True, calib_dir=str(calibs))).run([file])
    found = json.loads((tmp_path / "preds" / f"{file.name}.json").read_text())
    labels = read_labels(tmp_path / "kitti" / f"{file.name}.txt")
    lidar2cam = read_calib(calibs / f"{file.name}.txt").lidar2cam
    boxes = LiDARInstance3DBoxes(np.array(found["bboxes_3d"])).convert_to("cam", lidar2cam).tensor.numpy()
    assert np.allclose(labels.boxes, boxes, atol=1e-4)
    assert np.allclose(labels.score, found["scores_3d"], atol=1e-4)


def test_image_boxes_need_a_calibration(project: tuple[Path, InferJob]) -> None:
    calib = read_calib(next((project[0] / "kitti" / "training" / "calib").iterdir()))
    boxes = LiDARInstance3DBoxes([[10.0, 0, -1, 4, 2, 1.5, 0.3], [-10.0, 0, -1, 4, 2, 1.5, 0.3]])
    found: Any = {"bboxes_3d": boxes, "scores_3d": np.array([0.5, 0.6]), "labels_3d": np.array([0, 0])}
    with_calib, without = (kitti_annotation(found, ["Car"], one) for one in (calib, None))
    assert (with_calib["bbox"][0, 2:] > with_calib["bbox"][0, :2]).all()
    assert not with_calib["bbox"][1].any()  # behind the camera
    assert not without["bbox"].any()
    assert np.allclose(without["location"], [[0, 1, 10], [0, 1, -10]])  # x forward is the camera's z


def test_lines_are_in_input_order_with_an_error_for_what_failed(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    folder, job = project
    job = replace(job, out=str(tmp_path))
    files = files_of(folder)[::-1]
    FileInferencer(job).run(sorted(files[1:], key=lambda file: file.name))
    path, boxes = write_lines(tmp_path, files, JsonSink(tmp_path), {files[0].path: "torn"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["file"] for line in lines] == [file.path for file in files]
    assert lines[0] == {"file": files[0].path, "error": "torn"}
    assert all(set(line) == {"file", "bboxes_3d", "scores_3d", "labels_3d", "box_type_3d"} for line in lines[1:])
    assert (boxes.clouds, boxes.boxes) == (len(files) - 1, sum(len(line["scores_3d"]) for line in lines[1:]))
    best = max(lines[1:], key=lambda line: max(line["scores_3d"]))
    assert (boxes.best, boxes.best_file) == (max(best["scores_3d"]), best["file"])


def test_boxes_are_described_by_number_and_best_score() -> None:
    boxes = FoundBoxes()
    boxes.add("a.bin", [])
    assert boxes.describe() == "none in 1 cloud"
    boxes.add("b.bin", [0.123, 0.05])
    assert boxes.describe() == "2 in 2 clouds; the best score is 0.12, in b.bin"


def test_a_cloud_behind_a_uri_gives_the_result_of_its_file(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    folder, job = project
    own = clouds_of(folder)[0]
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/drive/{own.name}", own.read_bytes())
    memory.pipe_file("/drive/torn.bin", own.read_bytes()[:-3])
    uris = [f"memory://drive/{name}" for name in (own.name, "torn.bin", "gone.bin")]
    inferencer = FileInferencer(replace(job, out=str(tmp_path)))
    outcomes = inferencer.run([CloudFile(uri, f"uri_{number}") for number, uri in enumerate(uris)])
    assert not outcomes[0].error
    assert uris[1] in outcomes[1].error
    assert "gone.bin" in outcomes[2].error
    inferencer.run([CloudFile(str(own), "file")])
    one, other = ((tmp_path / "preds" / f"{name}.json").read_bytes() for name in ("uri_0", "file"))
    assert one == other


def test_a_folder_holds_results_of_one_job_only(project: tuple[Path, InferJob], tmp_path: Path) -> None:
    _, job = project
    begin(tmp_path, make_record(job, "/clouds", ["Car"]), fresh=False)
    begin(tmp_path, make_record(replace(job, batch_size=4), "/clouds", ["Car"]), fresh=False)
    (tmp_path / "preds").mkdir()
    model = {**job.cfg["model"], "test_cfg": {}}
    for other, root, part in (
        (job, "/others", "another folder"),
        (replace(job, tta=True), "/clouds", "tta=False"),
        (replace(job, cfg={**job.cfg, "model": model}), "/clouds", "another config"),
        (replace(job, checkpoint=__file__), "/clouds", "another checkpoint"),
    ):
        with pytest.raises(InputError, match=part):
            begin(tmp_path, make_record(other, root, ["Car"]), fresh=False)
    begin(tmp_path, make_record(job, "/others", ["Car"]), fresh=True)
    assert not (tmp_path / "preds").exists()
