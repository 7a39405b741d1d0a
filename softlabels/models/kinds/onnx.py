"""``onnx:FILE``: a network in the Open Neural Network Exchange format, run by ONNX Runtime on the CPU.

Its named outputs become heads. Probabilities of a softmax become log-probabilities. The meaning of other outputs and
the preprocessing of images are declared, unless ``export-model`` wrote them into the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.models.exported import ExportedNetwork, OutputSpec, check_images, needs_sample, select_outputs
from softlabels.models.exported_model import exported_model, kinds_of, preprocessing_of
from softlabels.models.kind import Kind, ModelSpec
from softlabels.models.model import Model
from softlabels.models.onnx_file import OnnxFile, read_onnx, require_onnx
from softlabels.models.preprocessing import Preprocessing


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
    """Return the model of a file.

    Args:
        spec: Specification, with the path of the file and the declarations of the caller.
        sample: Some inputs, (n, *input_shape); None if there are none.

    Raises:
        DataNotFound: There is no such file.
        InvalidData: The file is damaged or something else.
        InvalidArgument: A sample or a declaration is needed, or a declaration does not fit the file.
    """
    require_onnx()
    file = read_onnx(Path(spec.text))
    selected = select_outputs(str(spec), list(file.outputs), _known_outputs(file), kinds_of(spec, file.metadata))
    preprocessing = preprocessing_of(spec, file.metadata)
    check_images(str(spec), file.input_spec, sample, preprocessing)
    sessions = Sessions(file.path, file.input_spec.name, [name for name, _ in selected])
    network = OnnxNetwork(str(spec), sessions, file, [output for _, output in selected], preprocessing)
    names = [output.name for output in network.outputs]
    config = {"kind": KIND.name, "version": KIND.version, "file": file.digest, "outputs": names}
    not_covered = ("not covered: version of ONNX Runtime",)
    return exported_model(spec, network, sample, config=config, path=file.path, not_covered=not_covered)


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


def _known_outputs(file: OnnxFile) -> Mapping[str, OutputSpec]:
    """Return the outputs; those of ``export-model`` have their classes last."""
    if not file.metadata:
        return file.outputs
    return {name: OutputSpec(name=name, channels_first=False) for name in file.outputs}


KIND = Kind(name="onnx", form="onnx:FILE", load=load, needs_sample=needs_sample, declares=True)
