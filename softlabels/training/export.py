"""Export of a model to ONNX or torch.export, in 8 bits on request, checked on real rows before the file appears.

Exporters have been silently wrong. So the exported file is run beside the model on held-out rows, and refused if the
outputs differ by more than a tolerance. The heads travel in the file's metadata and preprocessing is a part of the
network, so that ``onnx:FILE`` and ``pt2:FILE`` need no options.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabels.errors import InvalidArgument
from softlabels.models import Model, ModelLike, as_model
from softlabels.models.kinds.pt2 import METADATA
from softlabels.models.onnx_file import require_onnx
from softlabels.models.run_files import make_folder, write_file
from softlabels.sources import DataLike, Source
from softlabels.sources.request import DataOptions, with_data_options
from softlabels.store.storage.system_errors import system_errors
from softlabels.training.export_check import BATCH_ROWS, HeadDifference, check_differences, compare_outputs
from softlabels.training.model_inputs import open_for_models
from softlabels.training.onnx_editing import INPUT, add_metadata, quantize
from softlabels.training.splits import split_rows

Form: TypeAlias = Literal["onnx", "pt2"]

OPSET = 18
DEFAULT_ROWS = 256
"""Rows to calibrate on, and rows to check on."""
EXACT_TOLERANCE = 1e-3
INT8_TOLERANCE = 0.05
"""Default tolerances: see ``export_model``."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported model.

    Attributes:
        path: The file.
        spec: MODEL specification of the file.
        form: ``onnx`` or ``pt2``.
        int8: True if weights and activations have 8 bits.
        bytes: Size of the file in bytes.
        checked_rows: Number of rows it was checked on.
        tolerance: Greatest difference that was allowed.
        heads: Difference by head.
    """

    path: str
    spec: str
    form: Form
    int8: bool
    bytes: int
    checked_rows: int
    tolerance: float
    heads: Mapping[str, HeadDifference]

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``export-model --json`` prints it."""
        return asdict(self)


@with_data_options
def export_model(
    model: ModelLike,
    data: DataLike,
    out: str | Path,
    *,
    to: Form | None = None,
    int8: bool = False,
    rows: int = DEFAULT_ROWS,
    tolerance: float | None = None,
    **columns: Unpack[DataOptions],
) -> Exported:
    """Write a model as an ONNX file or a program of ``torch.export``, once it agrees with the model on real rows.

    Args:
        model: MODEL specification, or anything ``as_model`` takes.
        data: Data of the model: rows of the split ``train`` calibrate, the others check. Without a size, images are
            resized to the one that the model takes.
        out: File to write; it appears in one step.
        to: ``onnx`` or ``pt2``; None: by the ending of ``out``.
        int8: If True, weights and activations have 8 bits, with ranges from ``rows`` rows. Only for ``onnx``; the
            layers that compute the outputs stay in float32.
        rows: Number of rows to calibrate on, and of rows to check on.
        tolerance: Greatest mean KL divergence in nats of a distribution, and greatest relative difference of other
            values; None: 0.001, or 0.05 with ``int8``.
        columns: Roles of the columns of ``data``; see ``softlabels.sources.open_source``.

    Returns:
        The file, and its difference to the model by head.

    Raises:
        InvalidArgument: The model cannot be exported, or an option is out of range.
        ExportRejected: The exported model differs by more than the tolerance; nothing was written.
        StorageFailed: ``out`` cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
        >>> with TemporaryDirectory() as folder:
        ...     export_model(network.float(), {"x": np.zeros((9, 8, 8), np.float32)}, f"{folder}/net.pt2").form
        'pt2'
    """
    path = Path(out)
    form = _form(path, to, int8=int8)
    limit = tolerance if tolerance is not None else INT8_TOLERANCE if int8 else EXACT_TOLERANCE
    if rows < 1 or not limit > 0:
        raise InvalidArgument(f"rows and tolerance: out of range, got {rows} and {limit}; expected more than 0")
    if isinstance(model, str) and model.startswith("run:"):
        model = as_model(model)
    if isinstance(model, Model) and model.tokenizer is not None:
        raise InvalidArgument(
            f"{model.spec}: cannot be exported, got a model of text; expected one of images or numbers. Name "
            "another one"
        )
    (source,) = open_for_models([model], data, **columns)
    original = as_model(model, sample=source.inputs(np.zeros(1, np.int64))).to("cpu")
    calibration, checked = _rows(source, rows)
    sample = _inputs(original, source, checked[:2])
    with system_errors(tempfile.gettempdir()), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model.{form}"
        with quiet():
            _write(original, sample, file, form)
            if int8:
                blocks = [calibration[start : start + BATCH_ROWS] for start in range(0, len(calibration), BATCH_ROWS)]
                quantize(file, (_inputs(original, source, block) for block in blocks))
        with quiet():
            exported = as_model(f"{form}:{file}", sample=sample)
            differences = compare_outputs(original, exported, source, checked)
        check_differences(original, differences, limit, len(checked))
        content = file.read_bytes()
    make_folder(path.parent)
    write_file(path.parent, path.name, content)
    return Exported(
        path=str(path), spec=f"{form}:{path}", form=form, int8=int8, bytes=len(content), checked_rows=len(checked),
        tolerance=limit, heads=differences,
    )  # fmt: skip


def _form(path: Path, to: Form | None, *, int8: bool) -> Form:
    form = to or path.suffix.removeprefix(".")
    if form not in {"onnx", "pt2"}:
        raise InvalidArgument(f"form of the export: unknown, got {form!r}; expected onnx or pt2. Name it with to=")
    if form == "onnx":
        require_onnx()
    if int8 and form != "onnx":
        raise InvalidArgument("int8: only for onnx, got pt2; expected to='onnx'")
    return "onnx" if form == "onnx" else "pt2"


def _rows(source: Source, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows to calibrate on and rows to check on, spread evenly; the same ones if none are held out."""
    train, held_out = split_rows(source)
    pools = [pool if len(pool) else source.split(None) for pool in (train, held_out)]
    first, second = (
        pool[np.unique(np.linspace(0, len(pool) - 1, num=min(count, len(pool))).astype(np.int64))] for pool in pools
    )
    return first, second


def _inputs(model: Model, source: Source, rows: NDArray[np.int64]) -> NDArray[Any]:
    inputs = source.inputs(rows)
    if not isinstance(inputs, np.ndarray) or any(head.ragged for head in model.heads.values()):
        raise InvalidArgument(
            f"{model.spec}: cannot be exported, got inputs of type {type(inputs).__name__}; expected arrays of one "
            "shape"
        )
    if getattr(model.module, "input_spec", None) is not None:
        raise InvalidArgument(f"{model.spec}: is an exported file already; expected a run or a network")
    return inputs


class NamedOutputs(nn.Module):
    """A network whose outputs are a dictionary, in the order of the heads.

    Args:
        model: Model whose network is wrapped.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.module
        self.names = tuple(model.heads)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs by head, each (B, *shape, C).

        Args:
            inputs: (B, *input_shape).
        """
        outputs = self.network(inputs)
        named = outputs if isinstance(outputs, Mapping) else {self.names[0]: outputs}
        return {name: named[name] for name in self.names}


def _write(model: Model, sample: NDArray[Any], path: Path, form: Form) -> None:
    """Write a file with the heads of the model in its metadata."""
    network = NamedOutputs(model).eval()
    # Two rows at least: torch.export takes an axis of size 1 for a fixed one.
    example = torch.from_numpy(np.ascontiguousarray(np.resize(sample, (2, *sample.shape[1:]))))
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    heads = {name: head.to_json() for name, head in model.heads.items()}
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    metadata = json.dumps({"heads": heads, "parameters": parameters, "preprocessing": None}, sort_keys=True)
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        if form == "pt2":
            buffer = io.BytesIO()  # writing to a full disk, torch would abort the process
            torch.export.save(program, buffer, extra_files={METADATA: metadata})
            path.write_bytes(buffer.getbuffer())
            return
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, opset_version=OPSET, input_names=[INPUT], output_names=network.names
        )
    except OSError:
        raise
    except Exception as error:
        raise InvalidArgument(
            f"{model.spec}: torch cannot export it, got {type(error).__name__}: {' '.join(str(error).split())[:300]}; "
            "expected a network without control flow that depends on values"
        ) from error
    if converted is None:
        raise InvalidArgument(f"{model.spec}: torch cannot export it to ONNX; expected a program")
    converted.save(str(path), external_data=False)
    add_metadata(path, metadata)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and log lines of exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
