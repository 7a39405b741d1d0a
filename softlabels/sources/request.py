"""Requests to open DATA, and the kinds of data that answer them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, get_type_hints

import numpy as np
import pyarrow as pa

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.signatures import with_options
from softlabels.sources.arrow_types import is_text
from softlabels.sources.column_roles import INPUT_NAMES, InputOption, LabelOption, TargetsOption, choose_columns
from softlabels.sources.image_column import is_image_column
from softlabels.sources.protocol import Source
from softlabels.sources.table_source import TableSource
from softlabels.sources.tables import Table
from softlabels.sources.text_tables import open_text_table
from softlabels.text.options import TextOptions

PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "image_path", "image_file")
"""Columns of paths of images, if no column has the usual name of an input."""


class DataOptions(TypedDict, total=False):
    """Options of DATA, named as the parameters of ``softlabels.sources.open_source``."""

    input: InputOption
    label: LabelOption
    id: str | None
    targets: TargetsOption
    size: int | None


with_data_options = with_options(dict.fromkeys(DataOptions.__annotations__), get_type_hints(DataOptions))
"""Decorator that lists the options of DATA in the signature of a function with ``**columns``."""


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """DATA as typed, and the options it is opened with.

    Attributes:
        spec: DATA as the user typed it; empty for data that is no file.
        path: Absolute path of the file, so that a later change of directory does not matter.
        input: Column of inputs, or several; None for the default.
        label: Column of hard labels; False for none, None for the default.
        id: Column that names rows; None to name them by content.
        targets: Columns of targets by head; None for none beside the hard labels.
        class_names: Names of the classes by number; None to number the labels of the data themselves.
        text: Options of text; None if the inputs are numbers.
    """

    spec: str = ""
    path: Path = Path()
    input: InputOption = None
    label: LabelOption = None
    id: str | None = None
    targets: TargetsOption = None
    class_names: Sequence[str] | None = None
    text: TextOptions | None = None

    def source(self, table: Table, odd: Mapping[str, str] | None = None, base: Path | None = None) -> Source:
        """Return the source over a table, with the roles of columns that the request names.

        Args:
            table: The rows of the data.
            odd: Columns that cannot be used as they are, with the reason.
            base: Directory that paths of images start from; None for that of the file.

        Raises:
            ColumnMissing: A named column is not there, or nothing can be the input.
            InvalidArgument: Several columns could have one role.
            InvalidData: The data cannot be used; names the row.
        """
        if len(table) == 0:
            raise InvalidData(f"{table.name}: the data has no rows")
        if self.text is not None:
            if self.id is not None:
                raise InvalidArgument(
                    f"{self.spec}: rows of text are named by their tokens, got id={self.id!r}; leave it out"
                )
            if self.targets:
                raise InvalidArgument(
                    f"{self.spec}: rows of text have no targets beside their label, got {', '.join(self.targets)}; "
                    "leave out targets="
                )
            source = open_text_table(self.spec, table, self.text, input_columns=self.input, label_column=self.label)
            return source if self.class_names is None else source.with_class_names(self.class_names)
        columns = choose_columns(
            table.schema,
            table.name,
            input_columns=self.input or path_column(table),
            label_column=self.label,
            id_column=self.id,
            target_columns=self.targets,
            odd=odd,
        )
        return TableSource(self.spec, table, columns, class_names=self.class_names, base=base or self.path.parent)


def path_column(table: Table) -> str | None:
    """Return the column of paths of images, by its name and its first value; None if there is none.

    Args:
        table: The rows of the data.

    Example:
        >>> from softlabels.sources.tables import MemoryTable
        >>> path_column(MemoryTable("table", pa.table({"file_name": ["cat/1.jpg"], "label": [3]})))
        'file_name'
    """
    names = {name.strip().casefold(): name for name in table.schema.names}
    if names.keys() & {*INPUT_NAMES}:
        return None
    for name in PATH_NAMES:
        if name in names and is_text(table.schema.field(names[name]).type):
            first = table.select([names[name]]).read(np.zeros(1, np.int64), [names[name]])
            value = first.column(0)[0].as_py()
            return names[name] if is_image_column(pa.string(), value) else None
    return None


@dataclass(frozen=True, kw_only=True)
class DataKind:
    """A kind of DATA. A module of softlabels.sources.kinds defines one as ``KIND``, and it is found by that.

    Attributes:
        name: Name of the kind, for messages.
        open: Opens the data; may return any Source.
        suffixes: Ends of file names, in lower case, with the dot.
        names: Words that stand for data without a file, such as ``digits``.
        prefix: Word before a colon that stands for data without a file, as in ``roads:1000``; None for none.
        holds: Tells if a directory is data of this kind; None if data of this kind is a file.
    """

    name: str
    open: Callable[[OpenRequest], Source]
    suffixes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    prefix: str | None = None
    holds: Callable[[Path], bool] | None = None


@contextlib.contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Convert what Arrow and the operating system raise while a file is read.

    Args:
        name: Name of the file in messages.
        kind: Name of the kind of data in messages.

    Raises:
        InvalidData: The file cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise InvalidData(
            f"{name}: cannot be read as {kind}: {str(error).rstrip('. ')}. Is the file complete?"
        ) from error
