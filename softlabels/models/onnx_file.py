"""Reading of ONNX files as untrusted input: structure, names, probabilities, digest, and size.

Weights outside the file are read only from its own folder, and from regular files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.models.exported import InputSpec, OutputSpec

METADATA = "softlabels"
"""Key of the file's metadata that holds heads and preprocessing, as ``export-model`` writes them."""

PASS_THROUGH = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "DequantizeLinear", "QuantizeLinear"}
"""Operators that change no value; those of quantisation round it."""
MAX_STEPS = 16


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """Description of an ONNX file.

    Attributes:
        path: The file.
        input_spec: Its only input.
        outputs: What the file shows of each output, by name.
        digest: BLAKE3 of the file and of its external weights, hexadecimal.
        parameters: Number of trainable values that ``export-model`` wrote, else of values in its weights.
        bytes: Size of the file and of its external weights in bytes.
        metadata: Heads and preprocessing that ``export-model`` wrote; empty for other files.
    """

    path: Path
    input_spec: InputSpec
    outputs: Mapping[str, OutputSpec]
    digest: str
    parameters: int
    bytes: int
    metadata: Mapping[str, Any]


def require_onnx() -> None:
    """Raise InvalidArgument unless the libraries of ``onnx:FILE`` are installed.

    Raises:
        InvalidArgument: A library is missing; names the extra.
    """
    try:
        import onnx  # noqa: F401  presence
        import onnxruntime  # noqa: F401  presence
    except ImportError as error:
        raise InvalidArgument(
            f"onnx:FILE: needs a library that is not installed, got {error}. Run pip install 'softlabels[export]'"
        ) from None


def read_onnx(path: Path) -> OnnxFile:
    """Return the description of an ONNX file.

    Args:
        path: The file.

    Raises:
        DataNotFound: There is no such file.
        InvalidData: The file is not ONNX, damaged, or refers to files outside its folder.
        InvalidArgument: The network has several inputs.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise DataNotFound(f"onnx:{path}: no such file; expected an ONNX model")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise _damaged(path, str(error) or "no message") from None
    graph = model.graph
    if not graph.output or not model.opset_import:
        raise _damaged(path, "no outputs")
    external = _external_files(path, graph)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InvalidArgument(
            f"onnx:{path}: has {len(inputs)} inputs, got {names}; expected one. Export the network with one input, or "
            "wrap it as python:MODULE:NAME"
        )
    metadata = _metadata(path, model)
    contents = [path.read_bytes(), *(file.read_bytes() for file in external)]
    hasher = blake3(b"softlabels onnx 1\0")
    for content in contents:
        hasher.update(len(content).to_bytes(8, "little"))
        hasher.update(content)
    return OnnxFile(
        path=path,
        input_spec=_input_spec(path, inputs[0]),
        outputs={value.name: _output_spec(value.name, graph, _default_axis(model)) for value in graph.output},
        digest=str(hasher.hexdigest()),
        parameters=metadata.get("parameters") or sum(math.prod(tensor.dims) for tensor in graph.initializer),
        bytes=sum(len(content) for content in contents),
        metadata=metadata,
    )


def _damaged(path: Path, reason: str) -> InvalidData:
    return InvalidData(
        f"onnx:{path}: not an ONNX model, got {' '.join(reason.split())[:200]}; expected a file that a tool exported. "
        "Export or copy it again"
    )


def _external_files(path: Path, graph: Any) -> list[Path]:
    """Return the files of external weights, sorted, all of them in the folder of the model."""
    folder = path.parent.resolve()
    names = set()
    for tensor in _tensors(graph):
        if tensor.data_location == tensor.EXTERNAL:
            names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    files = []
    for name in sorted(names):
        file = path.parent / name
        if not name or Path(name).is_absolute() or not file.resolve().is_relative_to(folder) or file.is_symlink():
            raise InvalidData(
                f"onnx:{path}: refers to weights outside its folder, got {name!r}; expected a file beside it. Do not "
                "use this file, or export it again with its weights inside"
            )
        if not file.is_file():
            raise DataNotFound(f"onnx:{path}: weights are missing, got no file {name!r} beside it. Copy it too")
        files.append(file)
    return files


def _tensors(graph: Any) -> list[Any]:
    """Return all tensors of a graph: weights, and constants of nodes and of their subgraphs."""
    tensors = list(graph.initializer)
    for sparse in graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for subgraph in (attribute.g, *attribute.graphs):
                tensors += _tensors(subgraph) if len(subgraph.node) or len(subgraph.initializer) else []
    return tensors


def _input_spec(path: Path, value: Any) -> InputSpec:
    import onnx

    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        dtype = np.dtype(object)
    if dtype.kind not in "fiu":
        raise InvalidArgument(
            f"onnx:{path}: input {value.name!r} has an unsupported dtype, got {dtype}; expected numbers"
        )
    shape = tuple(
        int(axis.dim_value) if axis.HasField("dim_value") and axis.dim_value > 0 else None for axis in tensor.shape.dim
    )
    return InputSpec(name=value.name, shape=shape, dtype=dtype)


def _default_axis(model: Any) -> int:
    """Return the axis of a softmax that names none; it depends on the version of the operators."""
    version = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)
    return -1 if version >= 13 else 1


def _output_spec(name: str, graph: Any, default_axis: int) -> OutputSpec:
    """Return what a file shows of an output: a softmax before it makes it a distribution."""
    makers = {output: node for node in graph.node for output in node.output}
    transposed: list[list[int]] = []
    node = makers.get(name)
    for _ in range(MAX_STEPS):
        if node is None or not (node.op_type in PASS_THROUGH or node.op_type == "Transpose"):
            break
        if node.op_type == "Transpose":
            transposed.append(next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), []))
        node = makers.get(node.input[0])
    axes = _axes(name, graph)
    kind = None if axes is None else {2: "classes", 3: "tokens", 4: "pixels"}.get(axes)
    if node is not None and axes == 2 and _is_written_out_softmax(node, makers):
        return OutputSpec(name=name, kind="classes", softmax_axis=1)
    if node is None or node.op_type not in {"Softmax", "LogSoftmax"}:
        named = name == "logits" and kind in {"classes", "pixels"}
        return OutputSpec(name=name, kind=kind if named else None)  # type: ignore[arg-type]  # kinds of heads
    axis = next((int(entry.i) for entry in node.attribute if entry.name == "axis"), default_axis)
    for order in reversed(transposed):
        if order:
            axis = order.index(axis % len(order))
    if axes is not None:
        axis %= axes
    first = axes == 4 and axis == 1
    is_softmax = node.op_type == "Softmax"
    return OutputSpec(
        name=name,
        kind=kind,  # type: ignore[arg-type]  # kinds of heads
        softmax_axis=axis if is_softmax else None,
        channels_first=first,
    )


def _is_written_out_softmax(node: Any, makers: Mapping[str, Any]) -> bool:
    """Return True if a node divides exponentials by their sum, as files converted from JAX and TensorFlow do."""
    exponentials = makers.get(node.input[0]) if node.op_type == "Div" else None
    if exponentials is None or exponentials.op_type != "Exp":
        return False
    total = makers.get(node.input[1])
    for _ in range(MAX_STEPS):
        if total is None or total.op_type not in PASS_THROUGH | {"Expand"}:
            break
        total = makers.get(total.input[0])
    return total is not None and total.op_type == "ReduceSum" and total.input[0] == node.input[0]


def _axes(name: str, graph: Any) -> int | None:
    """Return the number of axes of an output; None if the file does not say."""
    value = next(value for value in graph.output if value.name == name)
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


def _metadata(path: Path, model: Any) -> Mapping[str, Any]:
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), None)
    if text is None:
        return {}
    try:
        value = json.loads(text)
        if not isinstance(value.get("parameters", 0), int):
            raise TypeError("parameters is no number")
        return {"heads": dict(value["heads"]), "preprocessing": value["preprocessing"], **value}
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"metadata {error!r}") from None
