"""Floating-point operations of an ONNX graph: products and sums of its matrix products and convolutions.

torch's counter counts the same operators, so figures of a network and of its export agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_BYTES = 2**30
"""Size of a file above which shapes are not inferred."""


def onnx_flops(path: Path, input_shape: Sequence[int]) -> int | None:
    """Return the floating-point operations of one forward pass at batch 1.

    Args:
        path: ONNX file.
        input_shape: Shape of the input without the batch, as the network takes it.

    Returns:
        The count; None if the shape of an operand cannot be inferred.
    """
    import onnx

    if path.stat().st_size > MAX_BYTES:
        return None
    model = onnx.load(path, load_external_data=False)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    value = next(value for value in model.graph.input if value.name not in weights)
    for axis, side in zip(value.type.tensor_type.shape.dim, (1, *input_shape), strict=True):
        axis.Clear()
        axis.dim_value = side
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError):
        return None
    graph = inferred.graph
    shapes = {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    counts = [_flops(node, shapes | weights) for node in graph.node]
    return None if any(count is None for count in counts) else sum(count or 0 for count in counts)


def _flops(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the operations of a node; 0 for operators that are not counted, None for unknown shapes."""
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return 0
    first, second = shapes.get(node.input[0], ()), shapes.get(node.input[1], ())
    output = shapes.get(node.output[0], ())
    if not all(first) or not all(second) or not all(output) or not (first and second and output):
        return None
    if node.op_type == "Conv":
        return 2 * math.prod(output) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(first) * math.prod(second[1:])
    if node.op_type == "Gemm":
        transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
        return 2 * math.prod(output) * first[0 if transposed else -1]
    return 2 * math.prod(output) * first[-1]
