"""The ways in for data: files and names (``open_source``), and anything that holds examples (``as_source``)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.sources.arrays import ArrayTable
from softlabels.sources.column_roles import InputOption, LabelOption, TargetsOption
from softlabels.sources.kinds import data_kinds, kind_of_directory, kind_of_file, kind_of_name
from softlabels.sources.protocol import Source
from softlabels.sources.request import OpenRequest
from softlabels.sources.sized import SizedSource, with_size
from softlabels.sources.tables import MemoryTable, Table
from softlabels.store.format.paths import DESCRIPTOR
from softlabels.suggestions import suggest, suggest_path
from softlabels.text.options import TextOptions

DataLike: TypeAlias = Any
"""Anything that ``as_source`` takes: DATA, a path, a source, arrays, a data frame, or a dataset."""

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open_source(
    spec: str | Path,
    *,
    input: InputOption = None,  # noqa: A002  named as the command line's option
    label: LabelOption = None,
    id: str | None = None,  # noqa: A002  as above
    targets: TargetsOption = None,
    size: int | None = None,
    class_names: Sequence[str] | None = None,
    text: TextOptions | None = None,
) -> Source:
    """Open DATA: a file, or a word that stands for data.

    Args:
        spec: A .parquet, .csv, .jsonl, .arrow, .feather, .npz or .txt file, a folder that ``datasets`` saved, or
            ``digits``, the bundled handwritten digits, or ``roads:N``, seeded road scenes.
        input: Column of model inputs, or several numeric ones to be stacked (a sequence, or one text with commas). By
            default the first of image, input, inputs, x, features, pixels, else all numeric columns in file order.
        label: Column of hard labels; False if there is none. By default the first of label, labels, target, y, class.
        id: Column that names rows instead of their content. Ids are text or whole numbers, and unique.
        targets: Columns of targets by head, such as ``{"steering": "angle"}``: class numbers or names, numbers or lists
            of numbers (a regression), or masks as lists of lists of class numbers. The kind may follow a colon
            (``angle:regression``). The head of the label is ``logits``.
        size: Height and width of images in pixels: the shorter side is resized and the centre cropped. Needed if the
            images have several sizes. None: their own size.
        class_names: Names of the classes by number, as a run or a store records them; labels are mapped by name. By
            default the labels of the data are numbered themselves.
        text: Options of text; None if the inputs are numbers. Text is a .txt file, a column of text, a pair of columns
            or a column of chats.

    Returns:
        The source. Opening reads the data once, to check it and to compute its keys.

    Raises:
        DataNotFound: There is no such file.
        InvalidArgument: The type of the file is unsupported, or it is not a regular file.
        ColumnMissing: A named column is not there, or nothing can be the input.
        InvalidData: The data is empty, damaged, of mixed shapes, null or not finite; names the row.

    Example:
        >>> source = open_source("digits")
        >>> len(source), source.input_shape, source.classes
        (1797, (8, 8), 10)
    """
    request = OpenRequest(input=input, label=label, id=id, targets=targets, class_names=class_names, text=text)
    return _open(os.fspath(spec), request, size)


def as_source(
    data: DataLike,
    *,
    input: InputOption = None,  # noqa: A002  named as the command line's option
    label: LabelOption = None,
    id: str | None = None,  # noqa: A002  as above
    targets: TargetsOption = None,
    size: int | None = None,
    class_names: Sequence[str] | None = None,
    text: TextOptions | None = None,
) -> Source:
    """Return a source of whatever holds examples.

    Args:
        data: One of: DATA as ``open_source`` takes it; a source, which is returned as it is; a NumPy array or torch
            tensor of inputs, (n, ...); a pair (inputs, labels); a mapping of column names to arrays; a data frame or
            table (pandas, polars, pyarrow, DuckDB); a dataset of Hugging Face ``datasets``; a torch ``TensorDataset``.
        input: Column of model inputs; see ``open_source``.
        label: Column of hard labels; see ``open_source``.
        id: Column that names rows; see ``open_source``.
        targets: Columns of targets by head; see ``open_source``.
        size: Height and width of images in pixels; see ``open_source``.
        class_names: Names of the classes by number; see ``open_source``.
        text: Options of text; see ``open_source``.

    Raises:
        InvalidArgument: ``data`` is nothing of these, or a source together with options of columns.
        DataNotFound: There is no such file.
        ColumnMissing: A named column is not there, or nothing can be the input.
        InvalidData: The data cannot be used; names the row.

    Example:
        >>> source = as_source({"x": np.zeros((3, 2), np.float32), "label": np.array([0, 1, 1])})
        >>> len(source), source.input_shape, source.classes
        (3, (2,), 2)
    """
    request = OpenRequest(input=input, label=label, id=id, targets=targets, class_names=class_names, text=text)
    if isinstance(data, str | os.PathLike):
        return _open(os.fspath(data), request, size)
    if isinstance(data, Source):
        if (input, label, id, targets or None) != (None, None, None, None):
            raise InvalidArgument(
                f"{data.spec}: an open source has its columns already; leave out input, label, id and targets"
            )
        source = data if class_names is None else data.with_class_names(class_names)
        if size is None:
            return source
        return with_size(source.original if isinstance(source, SizedSource) else source, size)
    table = _as_table(data)
    return with_size(replace(request, spec=table.name).source(table), size)


def as_source_of_shape(data: DataLike, shape: Sequence[int | None] | None, **options: Any) -> Source:
    """Return a source as ``as_source`` does, with images of several sizes at a size that is known already.

    Args:
        data: Anything ``as_source`` takes.
        shape: Shape of the inputs that labels were made from, such as (224, 224, 3); None if it is unknown.
        options: Options of ``as_source``. A ``size`` among them is used instead.

    Raises:
        InvalidData: As ``as_source`` does.

    Example:
        >>> as_source_of_shape("digits", (24, 24, 3)).input_shape
        (8, 8)
    """
    try:
        return as_source(data, **options)
    except InvalidData:
        if options.get("size") is not None or shape is None or len(shape) != 3 or shape[0] != shape[1]:
            raise
    return as_source(data, **{**options, "size": shape[0]})  # anything but several sizes is raised again


def _open(name: str, request: OpenRequest, size: int | None) -> Source:
    """Return the source of a file, or of a word that stands for data."""
    request = replace(request, spec=name, path=Path(name).absolute())
    is_directory = os.path.isdir(name)  # noqa: PTH112  Path.is_dir raises for names that are too long
    kind = kind_of_name(name) or (kind_of_directory(request.path) if is_directory else None)
    if kind is None:
        _check_file(name)
        kind = kind_of_file(Path(name), name)
    return with_size(kind.open(request), size)


def _as_table(data: Any) -> Table:
    """Return a table over arrays, a data frame or a dataset."""
    if _is_hugging_face(data):
        from softlabels.sources.hugging_face import HuggingFaceTable

        return HuggingFaceTable(data)
    if hasattr(data, "__arrow_c_stream__"):
        return MemoryTable("table", pa.table(data))
    if (isinstance(data, tuple) and len(data) == 2) or hasattr(data, "tensors"):
        data = dict(zip(("input", "label"), getattr(data, "tensors", data), strict=False))
    if _is_array(data):
        data = {"input": data}
    if isinstance(data, Mapping) and data and all(isinstance(name, str) for name in data):
        return ArrayTable("arrays", {name: _as_array(value, name) for name, value in data.items()})
    raise InvalidArgument(
        f"data: unsupported type {type(data).__name__}; expected a path, a source, arrays or tensors, a mapping of "
        "columns, a pair (inputs, labels), a data frame or a Hugging Face dataset. Wrap another map-style dataset as "
        "DatasetSource(dataset, ids=...)"
    )


def _is_hugging_face(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "datasets"


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (hasattr(value, "detach") and hasattr(value, "dtype"))


def _as_array(value: Any, name: str) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    """Return a column as an array of at least one axis."""
    try:
        array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (TypeError, ValueError) as error:
        raise InvalidData(f"arrays, column {name!r}: cannot be read as an array: {error}. Convert it first") from error
    if np.ma.is_masked(value):
        raise InvalidData(
            f"arrays, column {name!r}: masked values are not supported; fill them in or remove their rows"
        )
    if array.dtype == object and all(isinstance(entry, str) or _is_missing(entry) for entry in array.flat):
        array = np.array(["" if _is_missing(entry) else entry for entry in array.flat]).reshape(array.shape)
    if array.ndim == 0:
        raise InvalidData(f"arrays, column {name!r}: expected one value or array per row, got a single value")
    return array


def _is_missing(value: object) -> bool:
    """Return True for None, and for the NaN that pandas stores for a missing text."""
    return value is None or (isinstance(value, float) and np.isnan(value))


def _check_file(spec: str) -> None:
    """Raise unless ``spec`` names a regular file: devices and pipes would block, or never end."""
    if URL.match(spec):
        raise InvalidArgument(f"{spec}: data must be a local file, got a URL. Download it first")
    path = Path(spec)
    try:
        if not path.exists():
            raise DataNotFound(f"{spec}: no such file or folder{_nearest(path)}")
        if path.is_dir():
            kind = "a store of labels" if (path / DESCRIPTOR).is_file() else "a directory without images"
            raise InvalidArgument(
                f"{spec}: not data, got {kind}; expected a file, a Zarr group, "
                "or a directory with one directory of images per class. Check the path"
            )
        if not path.is_file():
            raise InvalidArgument(f"{spec}: data must be a regular file, got a device or pipe. Save it to a file first")
    except (OSError, ValueError) as error:
        if isinstance(error, DataNotFound | InvalidArgument):
            raise
        raise DataNotFound(f"{spec!r}: cannot be opened: {error}") from error


def _nearest(path: Path) -> str:
    """Return a hint that names a file beside ``path`` that is spelt alike."""
    if not path.parent.is_dir():
        return f", and no directory {path.parent}"
    names = [name for kind in data_kinds() for name in kind.names]
    return suggest_path(path) or suggest(str(path), names) or ". Check the path"
