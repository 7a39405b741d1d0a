"""``onnx:FILE``: a network in the Open Neural Network Exchange format, run by ONNX Runtime on the CPU.

Its named outputs become heads. Probabilities of a softmax become log-probabilities. The meaning of other outputs and
the preprocessing of images are declared, unless ``export-model`` wrote them into the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.labels import HeadKind
from softlabels.models.digest import digest_of
from softlabels.models.exported import ExportedNetwork, OutputSpec, check_images, heads_of, needs_sample, select_outputs
from softlabels.models.heads import OutputHead
from softlabels.models.kind import Kind, ModelSpec
from softlabels.models.model import Model
from softlabels.models.onnx_file import OnnxFile, read_onnx, require_onnx
from softlabels.models.preprocessing import Preprocessing
from softlabels.models.user_code import CodeIdentity


class Sessions:
    """Sessions of ONNX Runtime for one file, one for each number of threads.

    Args:
        path: The file.
        input_name: Name of the input.
        outputs: Names of the outputs to compute.

    Raises:
        InvalidData: ONNX Runtime cannot run the file.
    """

    def __init__(self, path: Path, input_name: str, outputs: list[str]) -> None:
        self.path = path
        self._input_name = input_name
        self._outputs = outputs
        self._sessions: dict[int, Any] = {}
        self._session()

    def __call__(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the outputs for an input."""
        results: list[NDArray[Any]] = self._session().run(self._outputs, {self._input_name: array})
        return results

    def _session(self) -> Any:
        """Return the session with as many threads as torch has."""
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions[threads] = open_session(self.path, threads)
        return self._sessions[threads]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sessions": {}}  # sessions cannot be pickled; they are opened again


def open_session(path: Path, threads: int = 1) -> Any:
    """Return a session of ONNX Runtime on the CPU.

    Args:
        path: ONNX file.
        threads: Threads of one operator.

    Raises:
        InvalidData: ONNX Runtime cannot run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  ONNX Runtime has an exception for each of its status codes
        raise InvalidData(
            f"onnx:{path}: ONNX Runtime cannot run it, got {' '.join(str(error).split())[:300]}; expected a valid "
            "model with standard operators. Export it again"
        ) from None


def load(spec: ModelSpec, sample: Any) -> Model:
    """Return the model of a file."""
    require_onnx()
    file = read_onnx(Path(spec.text))
    kinds: dict[str, HeadKind] = {**_known_kinds(file), **spec.declared.kinds}
    selected = select_outputs(str(spec), list(file.outputs), _known_outputs(file), kinds)
    preprocessing = _preprocessing(file, spec)
    check_images(str(spec), file.input_spec, sample, preprocessing)
    sessions = Sessions(file.path, file.input_spec.name, [name for name, _ in selected])
    network = OnnxNetwork(str(spec), sessions, file, [output for _, output in selected], preprocessing)
    heads = _heads(spec, network, sample)
    config = {
        "kind": KIND.name,
        "version": KIND.version,
        "file": file.digest,
        "outputs": [output.name for output in network.outputs],
        "preprocessing": None if preprocessing is None else preprocessing.to_json(),
        "heads": {name: head.to_json() for name, head in heads.items()},
    }
    covers = ("file with its weights", "preprocessing", "kinds of heads", "not covered: version of ONNX Runtime")
    return Model(
        spec=str(spec),
        module=network.eval(),
        heads=heads,
        input_shape=_input_shape(network, sample),
        config=config,
        identity=CodeIdentity(digest_of(config, {}), covers),
        preprocessing=preprocessing,
        path=file.path,
    )


class OnnxNetwork(ExportedNetwork):
    """A network that ONNX Runtime runs.

    Args:
        spec: MODEL specification that messages name.
        run: Sessions of the file.
        file: Description of the file.
        outputs: Outputs in their order.
        preprocessing: Preprocessing of images; None: inputs are passed as they are.
    """

    def __init__(
        self,
        spec: str,
        run: Sessions,
        file: OnnxFile,
        outputs: list[OutputSpec],
        preprocessing: Preprocessing | None,
    ) -> None:
        super().__init__(spec, run, file.input_spec, outputs, preprocessing)
        self.file = file


def _known_kinds(file: OnnxFile) -> dict[str, HeadKind]:
    """Return the kinds that ``export-model`` wrote."""
    return {name: OutputHead.from_json(head).kind for name, head in file.metadata.get("heads", {}).items()}


def _known_outputs(file: OnnxFile) -> Mapping[str, OutputSpec]:
    """Return the outputs; those of ``export-model`` have their classes last."""
    if not file.metadata:
        return file.outputs
    return {name: OutputSpec(name=name, channels_first=False) for name in file.outputs}


def _preprocessing(file: OnnxFile, spec: ModelSpec) -> Preprocessing | None:
    """Return the preprocessing that was declared or that ``export-model`` wrote; None without any."""
    written = file.metadata.get("preprocessing")
    base = Preprocessing.from_json(written) if isinstance(written, Mapping) else None
    if file.metadata and base is None and spec.declared.preprocessing:
        raise InvalidArgument(
            f"{spec}: preprocesses images itself, got options of preprocessing; leave out mean=, std=, scale= and "
            "layout="
        )
    return spec.declared.preprocessing_over(base)


def _heads(spec: ModelSpec, network: ExportedNetwork, sample: Any) -> dict[str, OutputHead]:
    """Return the heads that the outputs for a sample show; for zeros if the shape of the input is fixed."""
    inputs = sample
    if inputs is None:
        shape = network.input_spec.shape[1:]
        if network.preprocessing is not None or any(side is None for side in shape):
            raise InvalidArgument(f"{spec}: a sample of inputs is needed to find the heads, got None")
        inputs = np.zeros((1, *[side or 1 for side in shape]), network.input_spec.dtype)
    with torch.inference_mode():
        outputs = network(torch.as_tensor(np.array(inputs[:1])))
    return heads_of(str(spec), outputs, {output.name: output.kind or "classes" for output in network.outputs})


def _input_shape(network: ExportedNetwork, sample: Any) -> tuple[int, ...]:
    if sample is not None:
        return tuple(int(side) for side in sample.shape[1:])
    return tuple(side or 1 for side in network.input_spec.shape[1:])


KIND = Kind(name="onnx", form="onnx:FILE", load=load, needs_sample=needs_sample, declares=True)
