"""Export a dense graph to ONNX or to a torch.export program, and compare it with the model."""

from __future__ import annotations

import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.models import BaseModel
from raydet3d.models.detector_parts import detector_parts
from raydet3d.models.export_graphs import LAYERED_ENCODERS, Graph, HeadOutputs, name_outputs
from raydet3d.models.module import BatchData

ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2"}
EXTRA = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest absolute difference of an output from the model's, in float32."""

GraphTensors: TypeAlias = "tuple[Tensor, dict[str, Tensor]]"
"""Input of a graph, and its outputs by name."""


@dataclass(frozen=True)
class ExportedGraph:
    """A graph as the bytes of its file.

    Attributes:
        graph: What was exported.
        file_format: A key of `ENDINGS`.
        data: Content of the file.
        output_names: Names of the outputs, in order.
    """

    graph: Graph
    file_format: str
    data: bytes
    output_names: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return self.graph.name + ENDINGS[self.file_format]


def check_extra(file_format: str) -> None:
    """Refuse a format whose packages are not installed."""
    missing = [name for name in EXTRA if file_format == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format onnx needs {', '.join(missing)}, which is not installed: pip install 'raydet3d[export]'"
        )


def export_graph(
    graph: Graph, example: Tensor, output_names: Sequence[str], *, file_format: str, opset: int | None = None
) -> ExportedGraph:
    """Export a graph with a free first axis.

    Args:
        graph: The graph, in evaluation mode.
        example: An input; only its shape is used, but for the first axis.
        output_names: Names of the outputs, in order.
        file_format: A key of `ENDINGS`.
        opset: Version of ONNX's operators; torch's choice by default.

    Raises:
        InputError: An operator cannot be exported; the sentence names it.
    """
    dynamic = ({0: torch.export.Dim(graph.dynamic_axis)},)
    # Zeros: a program holds its example, and a frame is nobody else's business.
    zeros = torch.zeros(2, *example.shape[1:])
    with _exporters_silenced() as text, torch.no_grad():
        try:
            program = torch.export.export(graph.module, (zeros,), dynamic_shapes=dynamic)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
            is_onnx = file_format == "onnx"
            data = _to_onnx(program, graph, output_names, opset) if is_onnx else _to_torch_export(program)
        except Exception as error:  # whatever an operator makes the exporters raise
            raise InputError(
                f"{graph.name}: {_describe_fault(error, text.getvalue())} cannot be exported to {file_format}"
            ) from error
    return ExportedGraph(graph, file_format, data, tuple(output_names))


def _to_onnx(
    program: torch.export.ExportedProgram, graph: Graph, output_names: Sequence[str], opset: int | None
) -> bytes:
    made = torch.onnx.export(
        program,
        input_names=[graph.input_name],
        output_names=list(output_names),
        opset_version=opset,
        external_data=False,
        verbose=False,
    )
    assert made is not None
    made.rename_axes({str(symbol): graph.dynamic_axis for symbol in program.range_constraints})
    proto = made.model_proto
    for node in [proto.graph, *proto.graph.node, *proto.graph.value_info]:
        del node.metadata_props[:]
    data: bytes = proto.SerializeToString()
    return data


def _to_torch_export(program: torch.export.ExportedProgram) -> bytes:
    program.example_inputs = None
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


@contextmanager
def _exporters_silenced() -> Iterator[io.StringIO]:
    """Keep the exporters' progress, warnings and log lines from the console, and collect what they print."""
    text = io.StringIO()
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(text), redirect_stderr(text):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield text
        finally:
            logging.disable(before)


def _describe_fault(error: BaseException, printed: str) -> str:
    """Name the operator that an exporter stumbled over; give the exporter's reason if no operator is named."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    for text in reversed(texts):
        if found := re.search(r"No ONNX function found for\W*\w*\(?(?:op=)?'?([\w.]+)", text):
            return f"the operator {found[1]}"
    reason = next((line.strip() for line in texts[0].splitlines() if line.strip()), type(error).__name__)
    calls = re.findall(r"torch\.ops\.([\w.]+)\(", printed)
    return f"the operator {calls[-1]} ({reason})" if calls else f"an operator ({reason})"


def reference_tensors(model: BaseModel, batch: BatchData) -> dict[str, GraphTensors]:
    """Run a detector, and return the input and the named outputs of each of its graphs.

    Args:
        model: The detector, in evaluation mode.
        batch: Collated frames.

    Returns:
        For each graph's name its input and its outputs.
    """
    parts = detector_parts(model)
    encoder, head = parts["voxel_encoder"].module, parts["bbox_head"].module
    seen: dict[str, GraphTensors] = {}
    maps: list[Tensor] = []

    def see_encoder(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(encoder, LAYERED_ENCODERS):
            features = {"pillar_features": output.unsqueeze(1)}
            seen["pts_voxel_encoder"] = (encoder.input_features(*args[:3]), features)

    def see_map(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        maps.append(args[0])

    def see_head(_: nn.Module, __: tuple[Tensor, ...], output: HeadOutputs) -> None:
        seen["pts_backbone_neck_head"] = (maps[0], name_outputs(output))

    hooks = [
        encoder.register_forward_hook(see_encoder),
        parts["backbone"].module.register_forward_pre_hook(see_map),
        head.register_forward_hook(see_head),
    ]
    try:
        with torch.no_grad():
            model(**model.data_preprocessor(batch, False), mode="tensor")
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def largest_differences(exported: ExportedGraph, given: Tensor, expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Run an exported graph and return the largest absolute difference of each output from the model's.

    Args:
        exported: The graph.
        given: Its input.
        expected: The model's outputs by name.
    """
    outputs = _run_onnx(exported, given) if exported.file_format == "onnx" else _run_program(exported, given)
    return {
        name: float((outputs[name] - value).abs().max()) if value.numel() else 0.0 for name, value in expected.items()
    }


def _run_onnx(exported: ExportedGraph, given: Tensor) -> dict[str, Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(exported.data, options, providers=["CPUExecutionProvider"])
    outputs = session.run(list(exported.output_names), {exported.graph.input_name: given.contiguous().numpy()})
    return {name: torch.from_numpy(one) for name, one in zip(exported.output_names, outputs, strict=True)}


def _run_program(exported: ExportedGraph, given: Tensor) -> dict[str, Tensor]:
    program = torch.export.load(io.BytesIO(exported.data))
    with torch.no_grad():
        outputs: Sequence[Tensor] = program.module()(given.contiguous())
    return dict(zip(exported.output_names, outputs, strict=True))
