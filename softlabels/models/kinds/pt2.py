"""``pt2:FILE``: a network that ``torch.export`` saved.

Reading such a file evaluates expressions in it, so open files that you trust only. Its outputs become heads, as those
of ``onnx:FILE`` do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor, nn

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.labels import HeadKind
from softlabels.models.exported import (
    ExportedNetwork,
    InputSpec,
    OutputSpec,
    check_images,
    needs_sample,
    select_outputs,
)
from softlabels.models.exported_model import exported_model, kinds_of, preprocessing_of
from softlabels.models.heads import DEFAULT_HEAD
from softlabels.models.kind import Kind, ModelSpec
from softlabels.models.model import Model
from softlabels.models.preprocessing import Preprocessing

KINDS_BY_AXES: Mapping[int, HeadKind] = {2: "classes", 3: "tokens", 4: "pixels"}

METADATA = "softlabels.json"
"""Extra file of the archive that holds heads and preprocessing, as ``export-model`` writes them."""


class Pt2Network(ExportedNetwork):
    """A network of ``torch.export``.

    Args:
        spec: MODEL specification that messages name.
        network: The exported network.
        names: Names of its outputs, in their order.
        selected: Indices and specifications of the outputs to use.
        input_spec: The input.
        preprocessing: Preprocessing of images; None: inputs are passed as they are.
    """

    def __init__(
        self,
        spec: str,
        network: nn.Module,
        selected: Sequence[tuple[int, OutputSpec]],
        input_spec: InputSpec,
        preprocessing: Preprocessing | None,
    ) -> None:
        super().__init__(spec, self._call, input_spec, [output for _, output in selected], preprocessing)
        self.network = network
        self._indices = [index for index, _ in selected]

    def _call(self, array: Any) -> list[Any]:
        parameter = next(self.network.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        value = self.network(torch.from_numpy(array).to(device))
        outputs = _as_list(value)
        return [outputs[index].detach().cpu().numpy() for index in self._indices]

    def train(self, mode: bool = True) -> Pt2Network:  # noqa: FBT001, FBT002  as torch
        """Return the network itself: an exported network has one mode."""
        return self


def load(spec: ModelSpec, sample: Any) -> Model:
    """Return the model of a file.

    Args:
        spec: Specification, with the path of the file and the declarations of the caller.
        sample: Some inputs, (n, *input_shape); None if there are none.

    Raises:
        DataNotFound: There is no such file.
        InvalidData: The file is damaged or something else.
        InvalidArgument: A sample or a declaration is needed, or a declaration does not fit the file.
    """
    path = Path(spec.text)
    program, metadata, digest = read_pt2(path)
    input_spec = _input_spec(spec, program)
    names = output_names(program)
    known = {name: _output_spec(name, node, written=bool(metadata)) for name, node in _output_nodes(program).items()}
    selected = select_outputs(str(spec), names, known, kinds_of(spec, metadata))
    preprocessing = preprocessing_of(spec, metadata)
    if not metadata:
        check_images(str(spec), input_spec, sample, preprocessing)
    network = Pt2Network(
        str(spec),
        program.module(check_guards=False),
        [(names.index(name), output) for name, output in selected],
        input_spec,
        preprocessing,
    )
    config = {"kind": KIND.name, "version": KIND.version, "file": digest}
    return exported_model(spec, network, sample, config=config, path=path)


def read_pt2(path: Path) -> tuple[Any, Mapping[str, Any], str]:
    """Return the program of a file, what ``export-model`` wrote beside it, and the BLAKE3 of the file.

    Args:
        path: File that ``torch.export.save`` wrote.

    Raises:
        DataNotFound: There is no such file.
        InvalidData: The file is damaged or something else.
    """
    if not path.is_file():
        raise DataNotFound(f"pt2:{path}: no such file; expected what torch.export.save wrote")
    extra = {METADATA: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
        metadata = json.loads(extra[METADATA]) if extra[METADATA] else {}
        dict(metadata.get("heads", {}))
    except Exception as error:  # noqa: BLE001  torch raises what each of its readers raises
        raise InvalidData(
            f"pt2:{path}: cannot be read, got {type(error).__name__}: {' '.join(str(error).split())[:200]}; expected "
            "what torch.export.save wrote with this version of torch. Export it again"
        ) from None
    return program, metadata, str(blake3(path.read_bytes()).hexdigest())


def output_names(program: Any) -> list[str]:
    """Return the names of the outputs: keys of a dictionary, ``logits`` for one tensor, else ``output_0``, ...

    Args:
        program: Program of ``torch.export``.
    """
    spec = program.call_spec.out_spec
    count = len(program.graph_signature.user_outputs)
    if spec.type is dict:
        return [str(name) for name in spec.context]
    return [DEFAULT_HEAD] if count == 1 else [f"output_{index}" for index in range(count)]


def _output_nodes(program: Any) -> dict[str, Any]:
    """Return the node of the graph that computes each output, by name."""
    nodes = {node.name: node for node in program.graph.nodes}
    return dict(zip(output_names(program), map(nodes.get, program.graph_signature.user_outputs), strict=True))


def _output_spec(name: str, node: Any, *, written: bool) -> OutputSpec:
    """Return what a program shows of an output: a softmax as its last operation makes it a distribution."""
    value = node.meta.get("val") if node is not None else None
    axes = value.ndim if isinstance(value, Tensor) else 0
    if node is None or "softmax" not in str(node.target) or axes not in KINDS_BY_AXES:
        return OutputSpec(name=name, channels_first=not written)
    axis = int(node.args[1]) % axes
    is_log = "log_softmax" in str(node.target)
    return OutputSpec(
        name=name,
        kind=KINDS_BY_AXES[axes],
        softmax_axis=None if is_log else axis,
        channels_first=axes == 4 and axis == 1,
    )


def _as_list(value: Any) -> list[Tensor]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def _input_spec(spec: ModelSpec, program: Any) -> InputSpec:
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [values[name] for name in names if isinstance(values.get(name), Tensor)]
    if len(names) != 1 or len(tensors) != 1:
        raise InvalidArgument(
            f"{spec}: has {len(names)} inputs, got {', '.join(names) or 'none'}; expected one tensor. Export the "
            "network with one input"
        )
    shape = tuple(side if type(side) is int else None for side in tensors[0].shape)
    dtype = np.dtype(str(tensors[0].dtype).removeprefix("torch.").replace("bfloat16", "float32"))
    return InputSpec(name=names[0], shape=shape, dtype=dtype)


KIND = Kind(name="pt2", form="pt2:FILE", load=load, needs_sample=needs_sample, declares=True)
