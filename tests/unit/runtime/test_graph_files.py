"""Exported graphs give the model's numbers; what cannot be exported is named."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.models.export_graphs import Graph, dense_graphs
from raydet3d.registry import MODELS
from raydet3d.runtime.example_frames import ExampleFrames, generate_frame
from raydet3d.runtime.graph_files import (
    ENDINGS,
    TOLERANCE,
    check_extra,
    export_graph,
    largest_differences,
    reference_tensors,
)
from tests.kit.lidar import center_point, fill
from tests.kit.pointpillars import reduced


def needs_packages(file_format: str) -> None:
    if file_format == "onnx":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install -e '.[export]'")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e '.[export]'")


@pytest.mark.parametrize("file_format", list(ENDINGS))
@pytest.mark.parametrize(
    "cfg", [reduced(), center_point(dcn=True), center_point("voxel01")], ids=["pointpillars", "dcn", "voxels"]
)
def test_outputs_equal_the_models_for_other_voxel_counts_and_batches(cfg: dict[str, object], file_format: str) -> None:
    needs_packages(file_format)
    model = MODELS.build(cfg).eval()
    fill(model)
    generator = torch.Generator().manual_seed(0)
    frames = ExampleFrames([generate_frame({"model": cfg}, model, generator, 3000) for _ in range(3)], "")
    first = reference_tensors(model, frames.batch(2))
    voxels = set()
    for graph in dense_graphs(model)[0]:
        example, outputs = first[graph.name]
        exported = export_graph(graph, example, list(outputs), file_format=file_format)
        assert exported.file_name == graph.name + ENDINGS[file_format]
        for size in (1, 2, 3):
            given, expected = reference_tensors(model, frames.batch(size))[graph.name]
            voxels.add(len(given))
            differences = largest_differences(exported, given, expected)
            assert list(differences) == list(outputs)
            assert max(differences.values()) <= TOLERANCE
            assert sum(float(value.std()) > 0.01 for value in expected.values()) == len(expected)
    assert len(voxels) >= 3


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.special.bessel_j0(x),)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x * 2 if float(x.sum()) > 0 else x,)


def test_an_operator_without_onnx_is_named() -> None:
    needs_packages("onnx")
    with pytest.raises(InputError, match=r"mine: the operator \w+\.bessel_j0 cannot be exported to onnx"):
        export_graph(Graph("mine", Bessel(), "x", "batch"), torch.zeros(2, 3), ["y"], file_format="onnx")


def test_a_branch_on_a_value_is_named() -> None:
    with pytest.raises(InputError, match=r"mine: the operator aten\.item.* cannot be exported to torch-export"):
        export_graph(Graph("mine", Branch(), "x", "batch"), torch.zeros(2, 3), ["y"], file_format="torch-export")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    check_extra("torch-export")
    with pytest.raises(InputError, match=r"onnxscript.*pip install 'raydet3d\[export\]'"):
        check_extra("onnx")


def test_files_hold_neither_paths_of_this_machine_nor_the_frame() -> None:
    needs_packages("onnx")
    graph = Graph("mine", nn.Sequential(nn.Conv2d(1, 1, 3)), "x", "batch")
    frame = torch.full((2, 1, 200, 200), 0.7)
    for file_format in ENDINGS:
        data = export_graph(graph, frame, ["y"], file_format=file_format).data
        assert len(data) < 50_000  # the frame alone would be 320,000 bytes
        assert sys.prefix.encode() not in data
        assert b"tests/unit" not in data
