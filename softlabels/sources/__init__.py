"""DATA: examples with keys, from tables (parquet, csv, jsonl, arrow) and arrays (npz)."""

from __future__ import annotations

import difflib
import importlib.resources
from pathlib import Path

from softlabels.errors import DataNotFound, InvalidArgument
from softlabels.keys import as_keys, content_keys, fingerprint, id_keys
from softlabels.sources.arrays import ArrayBackend, read_arrays, schema_of
from softlabels.sources.columns import choose_columns
from softlabels.sources.distinct import DistinctSource
from softlabels.sources.mapped import DatasetSource
from softlabels.sources.protocol import Columns, Source
from softlabels.sources.readers import OPENERS, open_reader
from softlabels.sources.sequences import TokenSource, input_keys
from softlabels.sources.source import IndexedSource, TableBackend
from softlabels.sources.structure import Ragged, join_inputs, map_arrays

__all__ = [
    "Columns",
    "DatasetSource",
    "DistinctSource",
    "Ragged",
    "Source",
    "TokenSource",
    "as_keys",
    "content_keys",
    "fingerprint",
    "id_keys",
    "input_keys",
    "join_inputs",
    "map_arrays",
    "open_source",
]

BUNDLED = "digits"
"""DATA that travels with the package: the UCI handwritten digits (data/README.md)."""


def open_source(
    spec: str | Path,
    *,
    input: str | None = None,  # noqa: A002  named as the command line's option
    label: str | None = None,
    id: str | None = None,  # noqa: A002  as above
) -> Source:
    """Open DATA.

    Args:
        spec: a .parquet, .csv, .jsonl, .arrow or .npz file, or ``digits``, the bundled handwritten digits.
        input: column of model inputs; by default the first of image, input, inputs, x, features, pixels, else all
            numeric columns stacked in file order.
        label: column of hard labels; by default the first of label, labels, target, y, class.
        id: column that names rows in place of their content.

    Returns:
        The source; opening reads the data once, to check it and to compute its keys.

    Raises:
        DataNotFound: there is no such file.
        InvalidArgument: a kind of file that is not known.
        ColumnMissing: a named column is not there.
        InvalidData: empty, damaged, of mixed shapes, null or not finite; names the row.
    """
    path = _bundled_digits() if str(spec) == BUNDLED else Path(spec)
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataNotFound(f"there is no file {path}{_nearest(path)}")
    if suffix not in {*OPENERS, ".npz"} or path.is_dir():
        known = ", ".join([*OPENERS, ".npz"])
        raise InvalidArgument(f"{path} is no kind of data that is known by its name; files may end in {known}")
    if suffix == ".npz":
        arrays = read_arrays(path)
        columns = choose_columns(schema_of(arrays), str(path), input_column=input, label_column=label, id_column=id)
        return IndexedSource(str(spec), ArrayBackend(path, arrays, columns), columns)
    reader = open_reader(path)
    columns = choose_columns(reader.schema, str(path), input_column=input, label_column=label, id_column=id)
    return IndexedSource(str(spec), TableBackend(reader, columns), columns)


def _bundled_digits() -> Path:
    """The digits inside the installed package, or in the checkout's data folder."""
    packaged = Path(str(importlib.resources.files(__package__))) / "bundled" / "digits.parquet"
    return packaged if packaged.exists() else Path(__file__).parents[2] / "data" / "digits.parquet"


def _nearest(path: Path) -> str:
    """A hint naming a file beside ``path`` that is spelt alike."""
    if not path.parent.is_dir():
        return f"; nor a folder {path.parent}"
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f". Did you mean {path.with_name(near[0])}?" if near else ""
