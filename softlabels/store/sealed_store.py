"""Reading a sealed store: every row that leaves it is what was committed, or there is an exception.

Records are read when their unit is, and checked against the table of the snapshot. Needs NumPy, pyarrow, blosc; no
torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabels import columns as ragged
from softlabels.encodings import Codebook, Encoding
from softlabels.encodings.codebook import check_priors
from softlabels.errors import InvalidArgument, StoreCorrupt
from softlabels.labels import Head, SoftLabels
from softlabels.lru import LruCache
from softlabels.store.chunk_index import ChunkIndex
from softlabels.store.format import paths
from softlabels.store.format.codebooks import read_codebook
from softlabels.store.format.descriptor import LENGTH, Descriptor
from softlabels.store.format.limits import MAX_CHUNKS
from softlabels.store.format.record import read_record
from softlabels.store.format.skipped_rows import SkippedRow
from softlabels.store.format.snapshot import Snapshot, read_prior, read_probe, read_table
from softlabels.store.format.token_inputs import IDS, MARKS, TokenInputs
from softlabels.store.format.token_inputs import LENGTH as INPUT_LENGTH
from softlabels.store.format.tokenizer_file import TokenizerDocument, read_tokenizer
from softlabels.store.read_ahead import map_ahead
from softlabels.store.storage.read_errors import FETCH, SEAL, read_errors
from softlabels.store.storage.storage import Storage
from softlabels.store.unit_reader import UnitReader, native

MAX_READERS = 8192
"""Units whose records stay in memory, about 3 KB each: to read one again takes as long as to verify a chunk."""


class Probe(NamedTuple):
    """The rows stored dense.

    Attributes:
        rows: Row numbers, ascending, (n,).
        logits: Logits of the teacher, (n, *shape, C) float32.
        positions: Position within each ragged row, (n,); None for other rows.
    """

    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    positions: NDArray[np.int64] | None


class Store:
    """A sealed store. Threads may share it, and it can be pickled: it opens files when it reads them.

    Args:
        storage: Storage of the store.
        descriptor: Contents and geometry of the store.
        snapshot: Sealed state to read.
        table: Rows and record of each unit; None: they are read.

    Raises:
        StoreCorrupt: The table of units is damaged, or does not add up to the rows of the snapshot.

    Attributes:
        storage: Storage of the store; `str(storage)` is its location.
        descriptor: Contents and geometry of the store.
        snapshot: Sealed state that is read.
        chunk_index: Positions of rows in chunks, and of chunks in units.
    """

    def __init__(
        self,
        storage: Storage,
        descriptor: Descriptor,
        snapshot: Snapshot,
        table: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.storage = storage
        self.descriptor = descriptor
        self.snapshot = snapshot
        if table is None:
            table = read_table(storage, snapshot, ["rows", "record"])
        self._records = table["record"]  # bytes in one array: as strings they would take twice the memory
        counts = table["rows"]
        min_rows = 0 if snapshot.skipped else 1
        if (counts < min_rows).any() or (counts > descriptor.unit_rows).any() or counts.sum() != snapshot.rows:
            raise StoreCorrupt(f"{storage}: the table of units does not add up to {snapshot.rows} rows; {SEAL}")
        if (chunks := int((-(-counts // descriptor.chunk_rows)).sum())) > MAX_CHUNKS:
            raise StoreCorrupt(f"{storage}: {chunks:,} chunks, where at most {MAX_CHUNKS:,} are allowed; {FETCH}")
        self.chunk_index = ChunkIndex(counts, descriptor.chunk_rows)
        self._readers: LruCache[int, UnitReader] = LruCache(MAX_READERS)
        self._reading: dict[tuple[int, int], threading.Lock] = {}
        self._encodings: dict[str, Encoding] = {}
        self._short_names: dict[str, dict[str, str]] = {}
        self._checked: dict[tuple[str, ...] | None, NDArray[np.bool_]] = {}
        self._priors: dict[str, NDArray[np.float32]] | None = None
        self._codebooks: dict[str, Codebook | None] = {}
        self._probe: dict[str, NDArray[Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the records read so far, which another process reads again where it needs them."""
        return self.__dict__ | {"_readers": LruCache(MAX_READERS), "_reading": {}}

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.rows

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.snapshot.rows

    @property
    def units(self) -> int:
        """Number of units."""
        return self.snapshot.units

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return self.snapshot.bytes

    @property
    def bytes_per_row(self) -> float:
        """Bytes of all shards per row."""
        return self.bytes / self.rows

    def skipped(self) -> list[SkippedRow]:
        """Return the rows without labels, with their numbers in the data that was labelled.

        Only records of units that lack rows are read.

        Raises:
            StoreCorrupt: A record is damaged, or the snapshot counts other rows.
        """
        if not self.snapshot.skipped:
            return []
        full = np.full(self.units, self.descriptor.unit_rows)
        full[-1] = len(self.descriptor.unit_range(self.units - 1))
        skipped = [
            entry._replace(row=unit * self.descriptor.unit_rows + entry.row)
            for unit in np.flatnonzero(full > self.chunk_index.unit_rows).tolist()
            for entry in self._reader(unit).record.skipped
        ]
        if len(skipped) != self.snapshot.skipped:
            raise StoreCorrupt(
                f"{self.storage}: {len(skipped):,} rows are skipped, not {self.snapshot.skipped:,}; {SEAL}"
            )
        return skipped

    @property
    def heads(self) -> dict[str, Head]:
        """Outputs of the teacher, by name."""
        return dict(self.descriptor.heads)

    @property
    def chunks(self) -> int:
        """Number of chunks; chunk numbers run through the units in order."""
        return len(self.chunk_index)

    def chunk_rows(self) -> NDArray[np.int64]:
        """Return the rows of each chunk, (chunks,)."""
        return self.chunk_index.sizes.copy()

    def read_chunk(
        self, number: int, columns: Iterable[str] | None = None, *, out: ragged.Buffers | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return verified columns of one chunk, (rows, *shape) each, (entries, *shape) of ragged ones.

        The bytes are hashed every time. Their values follow from the bytes, so they are checked only the first time
        that this object reads the chunk with these columns.

        Args:
            number: Number of the chunk, 0 to chunks - 1.
            columns: Names such as ``key`` or ``logits/ids``; None: all columns.
            out: Buffers to decode into: chunk_rows entries for a plain column, any number for a ragged one. Plain
                columns are returned as views of their buffers; ragged ones are, if their buffers are large enough.

        Raises:
            StoreCorrupt: Other bytes than were committed, or values that no encoder writes; names the file.
        """
        unit, local = self.chunk_index.unit_of(number)
        names = None if columns is None else tuple(columns)
        checked = self._checked.get(names)
        if checked is None:
            checked = self._checked.setdefault(names, np.zeros(self.chunks, np.bool_))
        arrays = self._reader(unit).read_chunk(local, names, out=out, check=not checked[number])
        checked[number] = True
        return arrays

    def read_chunks(self, numbers: Iterable[int], columns: Iterable[str]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield columns of chunks as `read_chunk` returns them; several are requested at a time behind a network.

        Args:
            numbers: Numbers of the chunks.
            columns: Names of the columns.

        Raises:
            StoreCorrupt: Other bytes than were committed, or values that no encoder writes.
        """
        names = tuple(columns)
        return map_ahead(self.storage.read_threads, lambda number: self.read_chunk(number, names), numbers)

    def keys(self) -> NDArray[np.uint8]:
        """Return the keys of all rows in order, (rows, 16).

        Raises:
            StoreCorrupt: Other bytes than were committed.
        """
        keys = np.empty((self.rows, 16), np.uint8)
        start = 0
        for columns in self.read_chunks(range(self.chunks), ["key"]):
            keys[start : start + len(columns["key"])] = columns["key"]
            start += len(columns["key"])
        return keys

    def read(self, rows: Iterable[int] | NDArray[np.integer[Any]], head: str = "logits") -> SoftLabels:
        """Return the labels of rows, in their order.

        Args:
            rows: Row numbers.
            head: Name of the output.

        Raises:
            InvalidArgument: There is no such row or head.
            StoreCorrupt: Other bytes than were committed.

        Example:
            >>> import softlabels as sl
            >>> sl.open("labels").read([3, 1, 4]).log_probs().shape  # doctest: +SKIP
            (3, 10)
        """
        numbers = np.fromiter(rows, np.int64) if not isinstance(rows, np.ndarray) else rows.astype(np.int64)
        return self.decode(self.take(numbers, self.head_columns(head)), head)

    def take(self, numbers: NDArray[np.int64], names: list[str]) -> dict[str, NDArray[Any]]:
        """Return columns of rows, in their order, in the form of ``read_chunk``.

        Args:
            numbers: Row numbers, (n,).
            names: Names of the columns.

        Raises:
            InvalidArgument: There is no such row.
            StoreCorrupt: Other bytes than were committed.
        """
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self.rows:
            raise InvalidArgument(
                f"{self.storage}: no such row, got {numbers[(numbers < 0) | (numbers >= self.rows)][0]}; expected 0 to "
                f"{self.rows - 1}"
            )
        chunk_of, offsets = self.chunk_index.locate(numbers)
        columns = self.descriptor.columns()
        parts = []
        used = np.unique(chunk_of).tolist()
        for chunk, arrays in zip(used, self.read_chunks(used, names), strict=True):
            parts.append(ragged.take(arrays, columns, offsets[chunk_of == chunk]))
        if not parts:
            parts = [{name: np.empty((0, *columns[name].shape), columns[name].dtype) for name in names}]
        # From the order of the chunks to that of the numbers.
        by_chunk = np.argsort(chunk_of, kind="stable")
        return ragged.take(ragged.join(parts), columns, np.argsort(by_chunk))

    def encoding(self, head: str) -> Encoding:
        """Return the encoding of a head.

        Args:
            head: Name of the output.
        """
        if head not in self._encodings:
            self._encodings[head] = self.descriptor.encoding(head)
        return self._encodings[head]

    def decode(self, columns: Mapping[str, NDArray[Any]], head: str, *, widen: bool = True) -> SoftLabels:
        """Decode the columns of a head, in the form of ``read_chunk``, into labels.

        Args:
            columns: Columns of the head, by full name.
            head: Name of the output.
            widen: Return ids as int64 and values as float32; see Encoding.decode.

        Raises:
            InvalidArgument: The rows are too many and too uneven to be padded to the longest in memory.
        """
        if head not in self._short_names:
            self._short_names[head] = {name: name.removeprefix(f"{head}/") for name in self.head_columns(head)}
        short_names = self._short_names[head]
        arrays = {short_names[name]: native(array) for name, array in columns.items() if name in short_names}
        lengths = arrays.pop(LENGTH, None)
        try:
            labels = self.encoding(head).decode(arrays, self.descriptor.heads[head], self.prior(head), widen=widen)
        except ValueError as error:
            raise InvalidArgument(f"{error}; read fewer rows of {head!r} at a time, or use smaller batches") from None
        return labels if lengths is None else replace(labels, lengths=lengths)

    def head_columns(self, head: str) -> list[str]:
        """Return the names of the columns of a head.

        Args:
            head: Name of the output.

        Raises:
            InvalidArgument: There is no such head; lists those there are.
        """
        if head not in self.descriptor.heads:
            raise InvalidArgument(f"{self.storage} has no head {head!r}; it has {', '.join(self.descriptor.heads)}")
        return [name for name in self.descriptor.columns() if name.startswith(f"{head}/")]

    def prior(self, head: str) -> NDArray[np.float32] | None:
        """Return the tail prior of a head, (T, C) with T temperatures, or its codebook, (T, M, C); None without one.

        Args:
            head: Name of the output.

        Raises:
            StoreCorrupt: A file is missing or damaged.
        """
        if (codebook := self.codebook(head)) is not None:
            return codebook.priors
        return self._tail_priors().get(f"{head}/prior")

    def load_priors(self) -> None:
        """Read the tail priors and codebooks of all heads, unless they have been read, so that decoding finds them.

        Raises:
            StoreCorrupt: A file is missing or damaged.
        """
        self._tail_priors()
        for head in self.heads:
            self.codebook(head)

    def codebook(self, head: str) -> Codebook | None:
        """Return the tail priors that the rows of a head choose from; None if one prior is for all.

        Args:
            head: Name of the output.

        Raises:
            StoreCorrupt: The file is missing or damaged.
        """
        if head not in self._codebooks:
            self._codebooks[head] = read_codebook(self.storage, self.descriptor, head)
        return self._codebooks[head]

    @property
    def inputs(self) -> TokenInputs | None:
        """Section on the token ids of the store; None if it holds labels alone."""
        return self.descriptor.inputs

    def read_inputs(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.uint8]]:
        """Return the token ids of rows, (N,), the tokens of each row, (B,), and the marks of the tokens, (N,).

        Args:
            rows: Row numbers, (B,).

        Raises:
            InvalidArgument: The store holds labels alone, or has no such row.
            StoreCorrupt: The bytes are not those that were committed.
        """
        if self.inputs is None:
            raise InvalidArgument(f"{self.storage}: holds labels alone, got no token ids; expected a store of text")
        columns = self.take(rows, list(self.inputs.columns()))
        return columns[IDS], columns[INPUT_LENGTH].astype(np.int64), columns[MARKS]

    def tokenizer_document(self) -> TokenizerDocument | None:
        """Return the document of the tokenizer that made the token ids; None if there is none.

        Raises:
            StoreCorrupt: The file is missing or damaged.
        """
        return read_tokenizer(self.storage, self.descriptor)

    def codebooks(self) -> dict[str, Codebook]:
        """Return the codebooks of all heads that have one."""
        return {head: codebook for head in self.heads if (codebook := self.codebook(head)) is not None}

    def probe(self, head: str = "logits") -> Probe | None:
        """Return the rows of a head that are stored dense; None if there are none.

        Args:
            head: Name of the output.

        Raises:
            StoreCorrupt: The file is missing or damaged.
        """
        if self._probe is None:
            self._probe = read_probe(self.storage, self.snapshot, self.descriptor)
        if f"{head}/rows" not in self._probe:
            return None
        return Probe(self._probe[f"{head}/rows"], self._probe[f"{head}/logits"], self._probe.get(f"{head}/positions"))

    def _tail_priors(self) -> dict[str, NDArray[np.float32]]:
        """Return the tail priors of the snapshot, ``HEAD/prior``, which are read once."""
        if self._priors is None:
            priors = read_prior(self.storage, self.snapshot)
            for name, kind in self.descriptor.heads.items():
                if (prior := priors.get(f"{name}/prior")) is not None:
                    path = paths.prior_path(self.snapshot.number, str(self.snapshot.prior))
                    with read_errors(self.storage.locate(path), SEAL):
                        check_priors(np.atleast_1d(prior)[..., None, :], (len(kind.temperatures), 1, kind.classes))
            self._priors = priors
        return self._priors

    def _reader(self, unit: int) -> UnitReader:
        if (reader := self._readers.get(unit)) is not None:
            return reader
        # Threads that need a record at the same time read it once. A fork would copy a lock in the state it is in.
        turn = (os.getpid(), unit)
        with self._reading.setdefault(turn, threading.Lock()):
            reader = self._readers.get(unit)
            if reader is None:
                reader = self._read_unit(unit)
                self._readers.put(unit, reader)
        self._reading.pop(turn, None)
        return reader

    def _read_unit(self, unit: int) -> UnitReader:
        record = read_record(self.storage, unit, self.descriptor)
        if record.digest != self._records[unit].decode("latin-1"):
            raise StoreCorrupt(
                f"unit {unit} of {self.storage} is not the one that was sealed; "
                "run softlabels seal if you made it again"
            )
        return UnitReader(self.storage, self.descriptor, record)
