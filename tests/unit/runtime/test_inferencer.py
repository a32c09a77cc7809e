"""Inference outside of a data set: MMDetection3D's calls, and the boxes of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.metrics.prediction_file import read_predictions
from raydet3d.models.tta import BaseTTAModel
from raydet3d.registry import INFERENCERS
from raydet3d.runtime import LidarDet3DInferencer, assemble, inference_detector, init_model
from raydet3d.structures import DataElement, Det3DDataSample, LiDARInstance3DBoxes
from tests.kit.small_detector import clouds_of, write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("project")
    return (folder, *write_project(folder))


@pytest.fixture(scope="module")
def inferencer(project: tuple[Path, Path, Path]) -> LidarDet3DInferencer:
    _, config, checkpoint = project
    return LidarDet3DInferencer(str(config), str(checkpoint), device="cpu", show_progress=False)


def test_boxes_are_those_that_an_evaluation_scores(
    project: tuple[Path, Path, Path], inferencer: LidarDet3DInferencer, tmp_path: Path
) -> None:
    folder, config, checkpoint = project
    cfg = Config.fromfile(config)
    saved = tmp_path / "found.npz"
    cfg["test_evaluator"] = [cfg["test_evaluator"], {"type": "PredictionFile", "out_file": str(saved)}]
    cfg["work_dir"], cfg["load_from"] = str(tmp_path), str(checkpoint)
    assemble(cfg).test()
    frames, _ = read_predictions(saved)
    clouds = clouds_of(folder)
    predictions: Any = inferencer([str(cloud) for cloud in clouds])["predictions"]
    assert len(predictions) == len(frames) == len(clouds)
    for cloud, ours in zip(clouds, predictions, strict=True):
        theirs: Any = frames[str(int(cloud.stem))]["pred_instances_3d"]
        assert len(theirs["scores_3d"]) > 0
        assert np.array_equal(np.array(ours["bboxes_3d"], np.float32), theirs["bboxes_3d"].numpy())
        assert np.array_equal(np.array(ours["scores_3d"], np.float32), theirs["scores_3d"])
        assert ours["labels_3d"] == theirs["labels_3d"].tolist()
        assert ours["box_type_3d"] == "LiDAR"


def test_files_dicts_arrays_and_tensors_give_the_same(
    project: tuple[Path, Path, Path], inferencer: LidarDet3DInferencer
) -> None:
    cloud = clouds_of(project[0])[0]
    points = np.fromfile(cloud, np.float32).reshape(-1, 4)
    before = points.copy()
    inputs = [cloud, str(cloud), {"points": str(cloud)}, {"points": points}, torch.from_numpy(points)]
    results: Any = [inferencer(one)["predictions"] for one in inputs]  # type: ignore[arg-type]
    results += [[one] for one in inferencer(inputs)["predictions"]]  # type: ignore[arg-type]
    assert all(result == results[0] for result in results)
    assert np.array_equal(points, before)


def test_a_folder_is_all_of_its_clouds_and_batches_change_nothing_but_rounding(
    project: tuple[Path, Path, Path], inferencer: LidarDet3DInferencer
) -> None:
    clouds = clouds_of(project[0])
    one: Any = inferencer(dict(points=str(clouds[0].parent)))["predictions"]
    three: Any = inferencer(str(clouds[0].parent), batch_size=3)["predictions"]
    assert len(one) == len(three) == len(clouds) + 1  # the training frame lies there too
    for a, b in zip(one, three, strict=True):
        assert np.allclose(a["scores_3d"], b["scores_3d"], atol=1e-5)
        assert np.allclose(a["bboxes_3d"], b["bboxes_3d"], atol=1e-3)


def test_files_are_written_where_out_dir_says(
    project: tuple[Path, Path, Path], inferencer: LidarDet3DInferencer, tmp_path: Path
) -> None:
    cloud = clouds_of(project[0])[0]
    result = inferencer(cloud, out_dir=tmp_path, return_vis=True, return_datasamples=True)
    sample: Any = result["predictions"][0]
    assert isinstance(sample, Det3DDataSample)
    assert isinstance(sample.pred_instances_3d.bboxes_3d, LiDARInstance3DBoxes)
    assert json.loads((tmp_path / "preds" / f"{cloud.stem}.json").read_text())["labels_3d"] == (
        sample.pred_instances_3d.labels_3d.tolist()
    )
    picture = np.asarray(Image.open(tmp_path / "vis_lidar" / f"{cloud.stem}.png"))
    assert np.array_equal(picture, result["visualization"][0])
    inferencer(cloud, out_dir=tmp_path / "none", no_save_pred=True, no_save_vis=True)
    assert not (tmp_path / "none").exists()


def test_the_config_in_the_checkpoint_is_enough(
    project: tuple[Path, Path, Path], inferencer: LidarDet3DInferencer
) -> None:
    folder, _, checkpoint = project
    alone: Any = INFERENCERS.build(
        {"type": "det3d-lidar", "weights": str(checkpoint), "device": "cpu", "show_progress": False}
    )
    cloud = clouds_of(folder)[0]
    assert alone(cloud) == inferencer(cloud)
    assert alone.dataset_meta["classes"] == ("Pedestrian", "Cyclist", "Car")


def test_inference_detector_returns_prediction_and_data(project: tuple[Path, Path, Path]) -> None:
    folder, config, checkpoint = project
    model = init_model(str(config), str(checkpoint), device="cpu", cfg_options={"model.test_cfg.max_num": 2})
    clouds = clouds_of(folder)[:2]
    one, data = inference_detector(model, str(clouds[0]))
    assert len(one.pred_instances_3d) == 2  # type: ignore[union-attr]
    assert data["inputs"]["points"].shape[1] == 4  # type: ignore[call-overload]
    several, _ = inference_detector(model, [str(cloud) for cloud in clouds])
    assert isinstance(several, list)
    assert len(several) == 2


class FirstView(BaseTTAModel):
    """Merges views by taking the first."""

    def merge_preds(self, data_samples_list: Sequence[Sequence[DataElement]]) -> list[Any]:
        assert all(len(views) == 4 for views in data_samples_list)
        return [views[0] for views in data_samples_list]


def test_views_of_a_tta_pipeline_are_merged_by_tta_model(
    project: tuple[Path, Path, Path], inferencer: LidarDet3DInferencer
) -> None:
    folder, config, checkpoint = project
    cfg = Config.fromfile(config)
    pipeline = cfg.copy()["test_dataloader"]["dataset"]["pipeline"]
    pipeline[1].update(flip=True, pcd_horizontal_flip=True)
    cfg["tta_pipeline"], cfg["tta_model"] = pipeline, {"type": FirstView}
    cloud = clouds_of(folder)[0]
    with pytest.raises(InputError, match="tta_model"):
        LidarDet3DInferencer(str(config), str(checkpoint), tta=True)
    views = LidarDet3DInferencer(cfg, str(checkpoint), device="cpu", show_progress=False, tta=True)
    assert len(views.pipeline(cloud)) == 4
    assert views(cloud) == inferencer(cloud)


@pytest.mark.parametrize(
    ("points", "part"), [(np.zeros((3, 5), np.float32), r"\(N, 4\)"), (np.zeros(4, np.float32), r"\(N, 4\)")]
)
def test_points_of_another_shape_are_refused(inferencer: LidarDet3DInferencer, points: Any, part: str) -> None:
    with pytest.raises(InputError, match=part):
        inferencer(points)


def test_a_checkpoint_that_does_not_fit_is_one_sentence(project: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, config, checkpoint = project
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["bbox_head.conv_cls.weight"] = torch.zeros(1, 2, 1, 1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth does not fit the model.*conv_cls") as caught:
        LidarDet3DInferencer(str(config), str(tmp_path / "other.pth"))
    assert "\n" not in str(caught.value)
