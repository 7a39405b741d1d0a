"""The source over a table: files of every kind, arrays, data frames and Hugging Face datasets.

Opening makes one pass over the rows. It checks all inputs and computes the keys; labels, splits and keys then stay in
memory (22 bytes per row) or, above 4 MiB, in an unlinked temporary file. Only inputs are read from the table later.

Shuffled reading touches many blocks of a file in every batch. If the decoded blocks do not fit the table's cache, they
would be decoded again for every batch. Once the rows decoded in vain since opening exceed 1.5 times the rows of the
source, all inputs are written to a temporary file of fixed-size rows (in TMPDIR), and later reads come from there. So
at most four times the data is decoded, however many epochs follow. Reading in order decodes nothing in vain.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from softlabels.errors import InvalidData, StorageFailed
from softlabels.keys import KEY_BYTES, content_keys
from softlabels.sources.arrays import ArrayTable
from softlabels.sources.class_labels import ClassLabels, LabelReader, recorded_names
from softlabels.sources.ids import id_column_keys, require_unique
from softlabels.sources.image_cache import ImageCache
from softlabels.sources.image_column import ImageColumn, is_image_column
from softlabels.sources.image_files import Pixels, decode_mask
from softlabels.sources.image_sizes import ImageSizes
from softlabels.sources.inputs import input_array, join_columns
from softlabels.sources.keyed_source import KeyedSource
from softlabels.sources.masks import class_mask, mask_array
from softlabels.sources.pictures import map_arrays_of
from softlabels.sources.protocol import Columns, Target
from softlabels.sources.scratch import ArrayBuilder
from softlabels.sources.split_names import SplitReader, Splits
from softlabels.sources.tables import Table
from softlabels.sources.target_columns import open_target
from softlabels.sources.target_values import TargetReader, TargetValues, described

PASS_ROWS = 16_384
"""Rows that are converted at a time in a pass over all rows."""
PASS_BYTES = 64 * 2**20
"""Bytes of inputs that are converted at a time in a pass over all rows, at least one row."""
MAX_WASTE = 1.5
"""Rows decoded but not returned, per row of the source, before inputs are written to a temporary file."""
FILE_BYTES = 2**20
"""Bytes that an encoded image is taken to have where the rows of a pass are chosen."""
SPARE = 2
"""A temporary file is written if the disk has this many times its size free."""

Value = TypeVar("Value")

log = logging.getLogger("softlabels")


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Values in a temporary file, for reading in any order.

    Attributes:
        inputs: (n, *input_shape).
        masks: Masks by head, (n, H, W).
    """

    inputs: NDArray[np.generic]
    masks: Mapping[str, NDArray[np.generic]]


class TableSource(KeyedSource):
    """A source of the rows of a table; see Source for the methods.

    Args:
        spec: DATA as the user typed it.
        table: The rows.
        columns: Roles of its columns.
        class_names: Names of the classes by number; None to number the labels of the table themselves.
        base: Directory that relative paths of images start from; None for the current one.

    Raises:
        InvalidData: No rows, inputs or labels that cannot be used, missing or repeated ids; names the row.
    """

    def __init__(
        self,
        spec: str,
        table: Table,
        columns: Columns,
        *,
        class_names: Sequence[str] | None = None,
        base: Path | None = None,
    ) -> None:
        self._columns = columns
        self._base = base or Path()
        self._table = table.select(columns.used())
        self._schema = table.schema
        if len(self._table) == 0:
            raise InvalidData(f"{table.name}: the data has no rows")
        row = np.zeros(1, np.int64)
        first_row = self._table.read(row, columns.used())
        self._images = self._image_column(first_row, columns.inputs[0]) if not columns.stacked else None
        if self._images is None:
            first = input_array(first_row, columns, table.name, row)
            self._shape, self._dtype = first.shape[1:], first.dtype
        else:
            self._columns = replace(columns, computed=columns.id is None)
            self._shape, self._dtype = (), np.dtype(np.uint8)
        self._sizes = ImageSizes(f"{table.name}, column {columns.inputs[0]!r}")
        self._scratch: Scratch | None = None
        self._targets: dict[str, TargetValues] = {}
        masks = {target.head: self._image_column(first_row, target.column) for target in columns.targets}
        self._mask_images = {head: images for head, images in masks.items() if images is not None}
        self._lock = threading.Lock()
        keys, labels, splits = self._read_all()
        if columns.id is not None:
            require_unique(keys, f"{table.name}, column {columns.id!r}")
        if self._images is not None:
            self._shape = (*self._sizes.common(), 3)
        self._needless = self._table.decoded_rows
        if class_names is not None and labels is not None:
            labels = labels.renamed(class_names, table.name)
        super().__init__(spec, self._columns, keys, labels=labels, splits=splits, name=table.name)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what only this process has: a lock and temporary files."""
        targets = {head: values.in_memory() for head, values in self._targets.items()}
        state = super().__getstate__() | {"_scratch": None, "_needless": 0, "_targets": targets}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state in another process."""
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self._shape

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the inputs."""
        return self._dtype

    @property
    def targets(self) -> Mapping[str, Target]:
        """The ground truth by head; the hard labels are that of ``logits``."""
        return {**super().targets, **described(self._targets)}

    def __len__(self) -> int:
        return len(self._table)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the inputs of ``rows``, (n, *input_shape), in memory of the caller's own.

        Raises:
            InvalidData: The data cannot be read any more, or has changed since it was opened.
        """
        if len(rows) == 0:
            return np.empty((0, *self._shape), self._dtype)
        if self._images is not None:
            self._sizes.require_one()
            pictures = np.stack(self.map_images(rows, lambda _place, image: image))
            self._check_shape(pictures, rows)
            return pictures
        scratch = self._scratch_for(rows)
        if scratch is not None:
            return np.array(scratch.inputs[rows])
        array = self._read_inputs(rows)
        self._check_shape(array, rows)
        return array if array.flags.owndata and array.flags.writeable else np.array(array)

    @property
    def sizes(self) -> ImageSizes | None:
        """Sizes of the images that rows hold as files; None if rows hold numbers."""
        return None if self._images is None else self._sizes

    def map_images(self, rows: NDArray[np.int64], change: Callable[[int, Pixels], Value]) -> list[Value]:
        """Return a function of each image of ``rows`` at its own size, computed on threads.

        Args:
            rows: (n,) row numbers.
            change: Function of the place in ``rows`` and the image, (H, W, C) uint8.

        Raises:
            UnreadableRow: Images cannot be read.
            InvalidData: The inputs are no images.
        """
        if self._images is None:
            return map_arrays_of(self, rows, change)
        column = self._columns.inputs[0]
        return self._images.decode(_column(self._table.read(rows, [column]), column), rows, change)

    def map_masks(
        self, name: str, rows: NDArray[np.int64], change: Callable[[int, NDArray[np.int64]], Value]
    ) -> list[Value]:
        """Return a function of each mask of the target ``name``, (H, W) int64, at its own size.

        Args:
            name: Name of the head.
            rows: (n,) row numbers.
            change: Function of the place in ``rows`` and the mask.

        Raises:
            UnreadableRow: Masks cannot be read.
            InvalidArgument: There is no such target.
        """
        if name not in self._mask_images:
            return [change(place, mask) for place, mask in enumerate(self.target(name, rows))]
        column = str(self._targets[name].target.column)
        values = _column(self._table.read(rows, [column]), column)
        return self._mask_images[name].decode(values, rows, change, decode_mask)

    def target(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the target of the head ``name`` for ``rows``; see Source.

        Raises:
            InvalidArgument: There is no such target.
            InvalidData: The data cannot be read any more.
        """
        if name not in self._targets:
            return super().target(name, rows)
        values = self._targets[name]
        if name in self._mask_images:
            masks = self.map_masks(name, rows, lambda _place, mask: mask)
            return np.stack(masks) if masks else np.empty((0, *values.target.shape), np.int64)
        if values.target.kind == "pixels":
            return self._read_masks(name, values.target, rows)
        return values.take(rows)

    @property
    def decoded_rows(self) -> int:
        """Rows that were decoded from the file so far; above ``len(source)``, some were decoded repeatedly."""
        return self._table.decoded_rows

    def _read_inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        table, columns = self._table, self._columns
        if isinstance(table, ArrayTable):
            arrays = [table.array(column, rows) for column in columns.inputs]
            return join_columns(arrays, columns, table.name, rows)
        return input_array(table.read(rows, columns.inputs), columns, table.name, rows)

    def _read_masks(self, head: str, target: Target, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class numbers of the pixels of ``rows``, (n, H, W)."""
        name = f"{self._table.name}, column {target.column!r}"
        scratch = self._scratch_for(rows)
        masks = self._stored_masks(target, rows) if scratch is None else scratch.masks[head][rows]
        return class_mask(masks.reshape(len(rows), *target.shape), name, int(rows[0]) if len(rows) else 0)

    def _stored_masks(self, target: Target, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return masks as the table holds them, (n, H, W)."""
        column = str(target.column)
        if isinstance(self._table, ArrayTable):
            return self._table.array(column, rows)
        name = f"{self._table.name}, column {column!r}"
        return mask_array(_column(self._table.read(rows, [column]), column), name, int(rows[0]) if len(rows) else 0)

    def _scratch_for(self, rows: NDArray[np.int64]) -> Scratch | None:
        """Return the values in a temporary file once rows are decoded in vain too often; None before."""
        with self._lock:
            # Rows that were decoded since opening but not returned; the opening pass itself is set off at the start.
            if (
                self._images is None
                and self._scratch is None
                and self._table.decoded_rows - self._needless > MAX_WASTE * len(self)
            ):
                self._scratch = self._write_scratch()
            self._needless += len(rows)
            return self._scratch

    def _masks(self) -> dict[str, Target]:
        """Return the targets whose values are read from the table."""
        pixels = {head: values.target for head, values in self._targets.items() if values.target.kind == "pixels"}
        return {head: target for head, target in pixels.items() if head not in self._mask_images}

    def _image_column(self, first_row: pa.Table, column: str) -> ImageColumn | None:
        """Return a column of images; None if it holds something else."""
        values = first_row.column(column)
        if not is_image_column(values.type, values[0].as_py()):
            return None
        return ImageColumn(f"{self._table.name}, column {column!r}", self._base)

    def _check_shape(self, array: NDArray[np.generic], rows: NDArray[np.int64]) -> None:
        if array.shape[1:] != self._shape or array.dtype != self._dtype:
            raise InvalidData(
                f"{self._table.name}, rows {rows.min()} to {rows.max()}: inputs must have one shape and dtype, "
                f"got {array.dtype} {array.shape[1:]}; expected {self._dtype} {self._shape} as in row 0"
            )

    def _row_ranges(self) -> Iterator[NDArray[np.int64]]:
        """Yield all rows in order, as many at a time as the bounds of a pass allow."""
        row_bytes = math.prod(self._shape) * self._dtype.itemsize * (1 + len(self._columns.targets))
        if self._images is not None:
            row_bytes = FILE_BYTES
        step = max(1, min(PASS_ROWS, PASS_BYTES // row_bytes))
        for start in range(0, len(self), step):
            yield np.arange(start, min(start + step, len(self)), dtype=np.int64)

    def _read_all(self) -> tuple[NDArray[np.uint8], ClassLabels | None, Splits | None]:
        """Read every row once to check the inputs, and return keys, labels and splits."""
        name, columns, count = self._table.name, self._columns, len(self)
        keys = ArrayBuilder(count, (KEY_BYTES,), np.dtype(np.uint8))
        labels = splits = None
        if columns.label is not None:
            names = recorded_names(self._schema.metadata, columns.label)
            labels = LabelReader(count, f"{name}, column {columns.label!r}", names)
        if columns.split is not None:
            splits = SplitReader(count, f"{name}, column {columns.split!r}")
        targets: dict[str, TargetReader] = {
            target.head: open_target(target, self._schema, count, name, self._mask_images.get(target.head), self._sizes)
            for target in columns.targets
        }
        cache = ImageCache(self._base) if self._images is not None else None
        for rows in self._row_ranges():
            table = self._table.read(rows, columns.used())
            input_keys = self._look_at_inputs(table, rows, cache)
            first = int(rows[0])
            if columns.id is None:
                keys.append(input_keys)
            else:
                keys.append(id_column_keys(_column(table, columns.id), f"{name}, column {columns.id!r}", first))
            if labels is not None and columns.label is not None:
                labels.append(_column(table, columns.label), first)
            if splits is not None and columns.split is not None:
                splits.append(_column(table, columns.split), first)
            for target in columns.targets:
                targets[target.head].append(_column(table, target.column), first)
        if cache is not None:
            cache.save()
        self._targets = {head: reader.finish() for head, reader in targets.items()}
        return (
            keys.finish().view(np.uint8),
            None if labels is None else labels.finish(),
            None if splits is None else splits.finish(),
        )

    def _look_at_inputs(self, table: pa.Table, rows: NDArray[np.int64], cache: ImageCache | None) -> NDArray[np.uint8]:
        """Check inputs, and return the keys of their content."""
        if self._images is None or cache is None:
            inputs = input_array(table, self._columns, self._table.name, rows)
            self._check_shape(inputs, rows)
            return content_keys(inputs) if self._columns.id is None else np.empty((0, KEY_BYTES), np.uint8)
        keys, sizes = self._images.keys_and_sizes(_column(table, self._columns.inputs[0]), cache)
        self._sizes.append(sizes, int(rows[0]))
        return keys

    def _write_scratch(self) -> Scratch | None:
        """Return all inputs and masks in a temporary file; None if there is no space for one."""
        masks = self._masks()
        samples = {head: self._stored_masks(target, np.zeros(1, np.int64)) for head, target in masks.items()}
        row_bytes = math.prod(self._shape) * self._dtype.itemsize + sum(mask.nbytes for mask in samples.values())
        size = len(self) * row_bytes
        try:
            if shutil.disk_usage(tempfile.gettempdir()).free < SPARE * size:
                raise StorageFailed(f"{tempfile.gettempdir()} has too little free space")
            inputs = ArrayBuilder(len(self), self._shape, self._dtype)
            builders = {head: ArrayBuilder(len(self), mask.shape[1:], mask.dtype) for head, mask in samples.items()}
            for rows in self._row_ranges():
                inputs.append(self._read_inputs(rows))
                for head, target in masks.items():
                    builders[head].append(self._stored_masks(target, rows))
            stored = {head: builder.finish() for head, builder in builders.items()}
            return Scratch(inputs=inputs.finish(), masks=stored)
        except (StorageFailed, OSError) as error:
            log.warning(
                "%s: blocks are decoded repeatedly because they exceed the cache, and no temporary file of %d bytes "
                "can be written: %s. Set TMPDIR, or write the data with smaller row groups",
                self._table.name,
                size,
                error,
            )
            return None
        finally:
            self._needless = self._table.decoded_rows


def _column(table: pa.Table, name: str) -> pa.Array:
    """Return a column of a table as one array."""
    chunks = table.column(name).chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
