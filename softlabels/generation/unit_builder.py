"""The one way of building units: encode rows, gather the statistics that sealing needs, and append to the shard.

``generate`` appends from a background thread, ``sl.create`` from the loop of the user. Both give the same bytes for the
same batches of outputs, because random draws depend on the seed of the store and the number of the row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels import rng
from softlabels.columns import ranges
from softlabels.encodings import Encoded
from softlabels.errors import InvalidArgument
from softlabels.fidelity import measure
from softlabels.generation.outputs import HeadOutput, Outputs
from softlabels.labels import DISTRIBUTIONS
from softlabels.models.listed_logits import ListedLogits
from softlabels.models.sliced_logits import SlicedLogits
from softlabels.sources import Ragged
from softlabels.store import RowCopier, StoreWriter, UnitStatistics
from softlabels.store.format.descriptor import LENGTH, OWN_COLUMNS
from softlabels.store.format.skipped_rows import SkippedRow
from softlabels.store.format.token_inputs import IDS, MARKS
from softlabels.store.format.token_inputs import LENGTH as LENGTHS

if TYPE_CHECKING:
    from torch import Tensor

Columns = dict[str, NDArray[Any]]


class UnitBuilder:
    """Writer of one unit; a context manager. Without ``commit``, leaving the context leaves nothing.

    Args:
        store: Store of the unit.
        unit: Number of the unit.
        copier: Stores that rows are copied from; None if all rows are encoded.

    Attributes:
        unit: Number of the unit.
        first_row: Number in the store of the first row of the unit, as if every unit were full.
        rows: Rows appended.

    Raises:
        InvalidArgument: The store has no such unit.
    """

    def __init__(self, store: StoreWriter, unit: int, copier: RowCopier | None = None) -> None:
        self._store = store
        self._descriptor = store.descriptor
        self._schema = store.descriptor.columns()
        self._copier = copier
        self._statistics = UnitStatistics(store.descriptor, unit)
        self.first_row = unit * store.descriptor.unit_rows
        self._writer = store.begin(unit)
        self._skipped: list[SkippedRow] = []
        self.unit = unit
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, tb)

    def append(
        self,
        keys: NDArray[np.uint8],
        views: NDArray[np.uint32],
        outputs: Outputs,
        copied: NDArray[np.int64] | None = None,
        tokens: Ragged | None = None,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        """Append rows.

        Args:
            keys: Keys of the rows, (B, 16).
            views: View of each row, (B,).
            outputs: By head the outputs of the rows that are not copied, in row order; empty if all are copied.
            copied: Row of the copier for each row, (B,), -1 for a row in ``outputs``; None if none is copied.
            tokens: Token rows of the rows that are not copied, for a store that holds them.
            numbers: Numbers of the rows within the unit, (B,), ascending; None: they follow the rows before. Only a
                unit with skipped rows needs them.

        Raises:
            InvalidLogits: An output cannot be stored; no row was appended.
            InvalidArgument: The columns are not those of the store.
        """
        rows = np.arange(self.rows, self.rows + len(keys), dtype=np.int64)
        numbers = rows if numbers is None else numbers
        is_copied = np.zeros(len(keys), bool) if copied is None else copied >= 0
        encoded_rows, copied_rows = np.flatnonzero(~is_copied), np.flatnonzero(is_copied)
        encoded: dict[str, Encoded] = {}
        batches: list[Columns] = []
        if len(encoded_rows):
            encoded = {
                head: self._encode(head, outputs[head], numbers[encoded_rows]) for head in self._descriptor.heads
            }
            batches.append(self._token_columns(tokens) | self._columns(encoded, outputs))
        if copied is not None and len(copied_rows):
            batches.append(self._copy(copied[copied_rows]))
        columns = batches[0]
        if len(batches) > 1:
            order = np.argsort(np.concatenate([encoded_rows, copied_rows]))
            columns = ragged.take(ragged.join(batches), self._schema, order)
        self._writer.append({"key": keys, "view": views, **columns})
        # Statistics come after the rows, so that a batch that was refused leaves no trace in them.
        for head, arrays in encoded.items():
            self._add_statistics(head, arrays, outputs[head], rows[encoded_rows], numbers[encoded_rows])
        if self._copier is not None and copied is not None and len(copied_rows):
            self._copier.add_statistics(self._statistics, copied[copied_rows], batches[-1], rows[copied_rows])
        self.rows += len(keys)

    def skip(self, row: SkippedRow) -> None:
        """Leave a row of the unit without labels.

        Args:
            row: The row, numbered within the unit.
        """
        self._skipped.append(row)

    def commit(self) -> bool:
        """Make the unit durable and visible; return False if another writer committed it first.

        Raises:
            StoreError: Rows are missing or the disk failed; nothing was committed.
        """
        return self._writer.commit(
            extras=self._statistics.extras(), fidelity=self._statistics.fidelity(), skipped=sorted(self._skipped)
        )

    def _encode(self, head: str, output: HeadOutput, numbers: NDArray[np.int64]) -> Encoded:
        count = len(numbers)
        numbers, positions = self.first_row + numbers, None
        if output.lengths is not None:
            numbers = np.repeat(numbers, output.lengths)
            positions = ranges(np.zeros(count, np.int64), output.lengths)
        words = rng.words(self._descriptor.seed, numbers, positions, stream=rng.DRAW_STREAM)
        counters = rng.counters(self._descriptor.seed, numbers, positions)

        def encode(values: Tensor, selected: slice) -> Encoded:
            return self._descriptor.encoding(head).encode(
                values,
                self._descriptor.heads[head],
                numbers[selected],
                words=words[selected],
                counters=counters[selected],
                residual=self._statistics.wants_sums(head),
                codebook=self._store.codebooks.get(head),
            )

        if not isinstance(output.values, SlicedLogits):
            return encode(output.values, slice(None))
        encoded = [encode(values, selected) for selected, values in output.values.slices()]
        residuals = [block.residual for block in encoded if block.residual is not None]
        return Encoded(
            ragged.join([block.arrays for block in encoded]), sum(residuals[1:], residuals[0]) if residuals else None
        )

    def _token_columns(self, tokens: Ragged | None) -> Columns:
        """Return the columns of the token ids; empty for a store that holds labels alone."""
        inputs = self._descriptor.inputs
        if inputs is None:
            return {}
        if tokens is None or tokens.marks is None:
            raise InvalidArgument("tokens: the store holds token ids, got none; expected those of each row")
        columns = {LENGTHS: tokens.lengths, IDS: tokens.values, MARKS: tokens.marks}
        return {name: np.asarray(columns[name]).astype(kind.dtype) for name, kind in inputs.columns().items()}

    def _columns(self, encoded: Mapping[str, Encoded], outputs: Outputs) -> Columns:
        """Return the columns of all heads by their names in the shard."""
        columns: Columns = {}
        for head, arrays in encoded.items():
            columns |= {f"{head}/{name}": array for name, array in arrays.arrays.items()}
            if (lengths := outputs[head].lengths) is not None:
                columns[f"{head}/{LENGTH}"] = lengths.astype(np.uint32)
        return columns

    def _copy(self, numbers: NDArray[np.int64]) -> Columns:
        if self._copier is None:
            raise ValueError("rows are to be copied, but there is no store to copy from")
        columns = self._copier.columns(numbers, list(self._schema))
        return {name: array for name, array in columns.items() if name not in OWN_COLUMNS}

    def _add_statistics(
        self, head: str, encoded: Encoded, output: HeadOutput, rows: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> None:
        """Add the sums, dense rows and fidelity of rows that were encoded; of a ragged row those of one position.

        What is chosen follows from the numbers of rows, and what is stored names the places of rows in the shard.
        """
        if isinstance(output.values, ListedLogits):
            return  # the classes that are not listed are unknown, so nothing can be measured
        if encoded.residual is not None:
            self._statistics.add_sums(head, encoded.residual)
        items, positions, has_any = np.arange(len(rows)), None, np.ones(len(rows), bool)
        if output.lengths is not None:
            positions, has_any = self._statistics.positions(numbers, output.lengths), output.lengths > 0
            items = np.cumsum(output.lengths) - output.lengths + positions
        dense = np.flatnonzero(self._statistics.wants_dense(head, numbers) & has_any)
        if len(dense):
            of_rows = None if positions is None else positions[dense]
            self._statistics.add_dense(head, rows[dense], _to_numpy(output.values[items[dense]]), of_rows)
        measured = items[self._statistics.wants_measured(numbers) & has_any]
        kind = self._descriptor.heads[head]
        if len(measured) and kind.kind in DISTRIBUTIONS:
            codebook = self._store.codebooks.get(head)
            encoding = self._descriptor.encoding(head)
            # Taken before they are decoded: a batch of uneven rows, padded to the longest, may not fit into memory.
            labels = encoding.decode(
                ragged.take(encoded.arrays, encoding.columns(kind), measured),
                kind,
                None if codebook is None else codebook.priors,
            )
            self._statistics.add_measured(head, measure(_to_numpy(output.values[measured]), labels, kind.temperatures))


def _to_numpy(values: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
