"""Run directories: ``run.json`` describes a trained model, ``model.safetensors`` holds its weights.

Reading one never runs code from it: JSON and safetensors only, of bounded size. The description is written last, so a
run directory is either complete or has no ``run.json``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from softlabels.errors import DataNotFound, InvalidArgument, RunCorrupt
from softlabels.models.run_files import make_folder, read_file, write_file
from softlabels.models.run_record import RunRecord
from softlabels.store.format import canonical_json
from softlabels.suggestions import suggest_path

RUN_FILE = "run.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "softlabels-run"
VERSION = 2

MAX_RUN_BYTES = 4 * 2**20
"""Size of ``run.json``."""
MAX_HEADER_BYTES = 4 * 2**20
"""Size of the header of a weights file, which takes about thirty times its size in memory."""


def write_run(folder: Path, record: RunRecord, tensors: Mapping[str, Tensor]) -> None:
    """Write the weights, then the description, whose presence makes the run complete.

    Args:
        folder: Run directory.
        record: Description of the run.
        tensors: Weights by name.

    Raises:
        InvalidArgument: The description is too large.
        StorageFailed: A file cannot be written.
    """
    document = record_to_bytes(record)
    make_folder(folder)
    write_file(folder, WEIGHTS_FILE, tensors_to_bytes(tensors))
    write_file(folder, RUN_FILE, document)


def record_to_bytes(record: RunRecord) -> bytes:
    """Return the document that describes a run: canonical JSON.

    Args:
        record: Description of the run.

    Raises:
        InvalidArgument: The document is larger than readers accept.
    """
    body = {"format": FORMAT, "version": VERSION, "identity": record.identity, **record.to_json()}
    data = canonical_json.to_bytes(body | {"digest": canonical_json.digest(body)}) + b"\n"
    if len(data) > MAX_RUN_BYTES:
        raise InvalidArgument(
            f"description of the run: too large, got {len(data):,} bytes; expected at most {MAX_RUN_BYTES:,}. "
            "Use shorter class names"
        )
    return data


def record_from_bytes(path: Path, data: bytes) -> RunRecord:
    """Return the description of a run in an untrusted document.

    Args:
        path: File that messages name.
        data: Its bytes.

    Raises:
        RunCorrupt: The document is damaged, of another version, or describes something else.
    """
    try:
        document = canonical_json.parse(data.removesuffix(b"\n"), MAX_RUN_BYTES)
        digest = document.pop("digest", None)
        if document.get("format") != FORMAT:
            raise ValueError(f"format: got {str(document.get('format'))[:60]!r}; expected {FORMAT!r}")
        if document.get("version") != VERSION:
            raise ValueError(f"version: got {str(document.get('version'))[:20]}; expected {VERSION}. Train again")
        if canonical_json.digest(document) != digest:
            raise ValueError("digest: does not match the description")
        record = RunRecord.from_json(document)
    except ValueError as error:
        raise RunCorrupt(
            f"{path}: the run is damaged, {error}. Copy it again, or train into another directory"
        ) from error
    return record


def read_run(folder: Path) -> RunRecord:
    """Return the description of a complete run.

    Args:
        folder: Run directory.

    Raises:
        DataNotFound: There is no such directory, or training has not finished.
        RunCorrupt: The description is damaged or describes something else.

    Example:
        >>> from pathlib import Path
        >>> read_run(Path("nowhere"))
        Traceback (most recent call last):
        ...
        softlabels.errors.DataNotFound: nowhere: not a finished run, got no such directory; expected run.json. Train \
with softlabels train-teacher or train-student
    """
    path = folder / RUN_FILE
    try:
        data = read_file(folder, RUN_FILE, MAX_RUN_BYTES)
    except FileNotFoundError:
        state = "a run whose training has not finished" if folder.is_dir() else "no such directory"
        near = "" if folder.is_dir() else suggest_path(folder, holding=RUN_FILE)
        raise DataNotFound(
            f"{folder}: not a finished run, got {state}; expected {RUN_FILE}"
            f"{near or '. Train with softlabels train-teacher or train-student'}"
        ) from None
    return record_from_bytes(path, data)


def read_weights(folder: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the weights of a run.

    Args:
        folder: Run directory.
        expected: Tensors of the network, perhaps on the meta device, which bound the size of the file; None: the memory
            of this machine bounds it.

    Raises:
        RunCorrupt: The weights are missing, damaged, or too large.
    """
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if expected is not None:
        limit = sum(tensor.nbytes for tensor in expected.values()) + MAX_HEADER_BYTES
    try:
        data = read_file(folder, WEIGHTS_FILE, limit)
    except FileNotFoundError:
        raise RunCorrupt(
            f"{folder / WEIGHTS_FILE}: missing, got an incomplete run; expected the weights. Copy the run again, or "
            "train again"
        ) from None
    return tensors_from_bytes(folder / WEIGHTS_FILE, data)


def tensors_to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return tensors as a safetensors file.

    Args:
        tensors: Tensors by name, on any device; several names may share memory.
        metadata: Texts of the header.
    """
    addresses: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory, such as tied weights.
        separate[name] = plain.clone() if plain.untyped_storage().data_ptr() in addresses else plain
        addresses.add(plain.untyped_storage().data_ptr())
    data: bytes = save_tensors(separate, None if metadata is None else dict(metadata))
    return data


def tensors_from_bytes(path: Path, data: bytes) -> dict[str, Tensor]:
    """Return the tensors of an untrusted safetensors file.

    Args:
        path: File that messages name.
        data: Its bytes.

    Raises:
        RunCorrupt: The bytes are not a safetensors file.
    """
    try:
        header = int.from_bytes(data[:8], "little")
        if header > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {header:,} bytes; expected at most {MAX_HEADER_BYTES:,}")
        return load_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        # The original error cannot be pickled, so it must not travel along as __cause__.
        raise RunCorrupt(
            f"{path}: not a safetensors file, got {error}. Copy it again. A pickled checkpoint is never loaded: "
            "convert it with safetensors.torch.save_file if you trust it"
        ) from None
