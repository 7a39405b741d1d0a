"""Changes to an exported ONNX file: its metadata, and weights and activations of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from softlabels.models.onnx_file import METADATA

INPUT = "input"
"""Name of the input of an exported file."""


def add_metadata(path: Path, text: str) -> None:
    """Set the metadata of an ONNX file, and drop what exporters noted of each node, such as paths of this machine.

    Args:
        path: ONNX file.
        text: Heads and preprocessing as JSON.
    """
    import onnx

    proto = onnx.load(path)
    for entry in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output, proto.graph):
        entry.doc_string = ""
        del entry.metadata_props[:]
    onnx.helper.set_model_props(proto, {METADATA: text})
    onnx.save(proto, path)


def quantize(path: Path, batches: Iterator[NDArray[Any]]) -> None:
    """Replace an ONNX file by one of 8 bits; layers that compute outputs stay in float32.

    Args:
        path: ONNX file.
        batches: Inputs to calibrate the ranges of activations on.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    metadata = next(entry.value for entry in onnx.load(path).metadata_props if entry.key == METADATA)
    prepared, quantized = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        nodes_to_exclude=last_layers(onnx.load(prepared).graph),
        extra_options={"WeightSymmetric": True},
        reduce_range=True,  # 8-bit sums saturate on processors without VNNI
    )  # fmt: skip
    quantized.replace(path)
    add_metadata(path, metadata)


def last_layers(graph: Any) -> list[str]:
    """Return the names of the layers that compute the outputs of a graph: the nearest ones with weights.

    Args:
        graph: Graph of an ONNX file.
    """
    makers = {output: node for node in graph.node for output in node.output}
    names: list[str] = []
    for value in graph.output:
        pending: Sequence[str] = [value.name]
        while pending:
            nodes = [makers[name] for name in pending if name in makers]
            names += [node.name for node in nodes if node.op_type in {"Conv", "MatMul", "Gemm"}]
            others = [node for node in nodes if node.op_type not in {"Conv", "MatMul", "Gemm"}]
            pending = [node.input[0] for node in others if node.input]
    return sorted(set(names))
