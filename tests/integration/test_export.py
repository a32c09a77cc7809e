"""The export command: files, their description, the outputs of published models on real frames, and bad input."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet3d.config import Config
from raydet3d.models.export_graphs import dense_graphs
from raydet3d.registry import MODELS
from raydet3d.runtime.example_frames import ExampleFrames, Packed
from raydet3d.runtime.graph_files import TOLERANCE, export_graph, largest_differences, reference_tensors
from raydet3d.runtime.model_profile import build_detector
from raydet3d.structures import Det3DDataSample
from tests.kit.lidar import fill
from tests.kit.shared import KITTI, needs_shared

REPO = Path(__file__).resolve().parents[2]
POINTPILLARS = "configs/pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py"
CENTERPOINT = "configs/centerpoint/centerpoint_pillar016_second_secfpn_8xb6-cyclic-80e_kitti-3d-3class.py"
TOWN = "configs/demo/pointpillars_town.py"

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e '.[export]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install -e '.[export]'")


def real_frame(name: str) -> Packed:
    points = np.fromfile(KITTI / "training" / "velodyne" / f"{name}.bin", np.float32).reshape(-1, 4)
    return {"inputs": {"points": torch.from_numpy(points)}, "data_samples": Det3DDataSample()}


@needs_shared
@pytest.mark.parametrize("config", [POINTPILLARS, CENTERPOINT], ids=["pointpillars", "centerpoint"])
def test_published_models_give_their_outputs_on_real_frames(config: str) -> None:
    """A cloud of the camera's view alone, and one together with a full sweep of 120,000 points."""
    model = build_detector(Config.fromfile(REPO / config)).eval()
    fill(model)
    frames = ExampleFrames([real_frame(name) for name in ("000008", "000134", "000001")], "")
    batches = [frames.batch(1), frames.batch(2, first=1)]
    references = [reference_tensors(model, batch) for batch in batches]
    graphs, _ = dense_graphs(model)
    assert [graph.name for graph in graphs] == ["pts_voxel_encoder", "pts_backbone_neck_head"]
    assert len({len(reference["pts_voxel_encoder"][0]) for reference in references}) == 2
    for graph in graphs:
        given, outputs = references[0][graph.name]
        exported = export_graph(graph, given, list(outputs), file_format="onnx")
        for reference in references:
            differences = largest_differences(exported, *reference[graph.name])
            print(config, graph.name, differences)
            assert max(differences.values()) <= TOLERANCE


def call(*arguments: str, plug_ins: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raydet3d.export", *arguments]
    path = os.pathsep.join(str(one) for one in (REPO, plug_ins) if one is not None)
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = MODELS.build(Config.fromfile(REPO / TOWN).model)
    fill(model)
    file = tmp_path_factory.mktemp("weights") / "town.pth"
    torch.save({"state_dict": model.state_dict()}, file)
    return file


def test_files_and_their_description(checkpoint: Path, tmp_path: Path) -> None:
    done = call(TOWN, str(checkpoint), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "middle_encoder (PointPillarsScatter) is not exported" in done.stdout
    description = json.loads((tmp_path / "out" / "deployment.json").read_text())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("pts_voxel_encoder.onnx", "pts_backbone_neck_head.onnx", "deployment.json")
    }
    for graph in description["graphs"].values():
        file = tmp_path / "out" / graph["file"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == graph["sha256"]
        session = onnxruntime.InferenceSession(file)
        assert [(one.name, one.shape) for one in session.get_inputs()] == [
            (graph["input"]["name"], graph["input"]["shape"])
        ]
        assert {one.name: one.shape for one in session.get_outputs()} == {
            name: one["shape"] for name, one in graph["outputs"].items()
        }
    assert list(description["graphs"]["pts_backbone_neck_head"]["outputs"]) == [
        "cls_score",
        "bbox_pred",
        "dir_cls_pred",
    ]
    assert description["classes"] == ["Pedestrian", "Cyclist", "Car"]
    assert description["voxels"]["grid_size"] == [128, 128, 1]
    assert description["post_processing"]["nms_thr"] == 0.01
    assert len(description["voxel_encoder"]["input_features"]) == 10
    assert description["checked"]["largest_difference"] <= TOLERANCE


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_bad_input_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    refused(call(TOWN, "none.pth", *out), "checkpoint none.pth does not exist")
    refused(call("configs/demo/second_town.py", str(checkpoint), *out), str(checkpoint), "does not fit the model")
    (tmp_path / "file").touch()
    refused(call(TOWN, str(checkpoint), "--out", str(tmp_path / "file")), str(tmp_path / "file"))
    assert not (tmp_path / "out").exists()


PLUG_IN = """
import torch
from raydet3d.models import SECOND, PillarFeatureNet
from raydet3d.registry import MODELS

@MODELS.register_module()
class BesselSECOND(SECOND):
    def forward(self, x):
        return tuple(torch.special.bessel_j0(one) for one in super().forward(x))

@MODELS.register_module()
class ShiftedNet(PillarFeatureNet):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) + 1
"""


def test_what_cannot_be_exported_or_differs_leaves_no_file(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "my_parts.py").write_text(PLUG_IN)
    config = tmp_path / "mine.py"
    text = f"_base_ = [{str(REPO / TOWN)!r}]\ncustom_imports = dict(imports=['my_parts'])\nmodel = dict({{}})\n"
    config.write_text(text.format("backbone=dict(type='BesselSECOND')"))
    out = ("--out", str(tmp_path / "out"))
    refused(call(str(config), str(checkpoint), *out, plug_ins=tmp_path), "pts_backbone_neck_head", "bessel_j0", "onnx")
    config.write_text(text.format("voxel_encoder=dict(type='ShiftedNet')"))
    done = call(str(config), str(checkpoint), *out, plug_ins=tmp_path)
    assert done.returncode == 1
    assert "pillar_features differs" in done.stderr
    assert not (tmp_path / "out").exists()
