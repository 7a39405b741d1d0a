"""The first rows of ``sl.create``, held until a codebook is fitted or a target resolved on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels import encodings, planning
from softlabels.encodings.codebook import pilot_rows
from softlabels.encodings.logits import checked_float
from softlabels.errors import InvalidArgument, StoreBusy
from softlabels.generation.label_writer import LabelWriter, as_views
from softlabels.generation.outputs import HeadOutput, of_arrays
from softlabels.generation.pilot import SAMPLE_ROWS
from softlabels.keys import as_keys, row_names
from softlabels.labels import Head
from softlabels.store import Snapshot

if TYPE_CHECKING:
    from torch import Tensor

MAX_HELD_BYTES = 2**29
"""Bytes of outputs that are held at most."""

SAMPLE_IMAGES = 64
"""Rows of many positions, such as pixels, that a target is resolved on."""

Start = Callable[[Mapping[str, "Tensor"]], LabelWriter]
"""Opens the store, with the outputs of the first rows by head as its pilot."""


@dataclass(frozen=True)
class _AppendedRows:
    """Rows that were appended: their names, new outputs by head, and views."""

    keys: NDArray[np.uint8]
    outputs: dict[str, HeadOutput]
    views: NDArray[np.uint32]


class FirstRows(LabelWriter):
    """Writer that holds its first rows in memory, and begins the store once they are enough for a pilot.

    They are enough when there are as many as a codebook is fitted to, or 512 for a target, or 512 MiB of them; a flush
    and leaving the context begin the store too. A kill before that costs the rows held.

    Args:
        heads: Heads of the store, by name.
        start: Function that opens the store.

    Raises:
        InvalidArgument: At the first flush, if the rows are too few for a codebook.
    """

    def __init__(self, heads: Mapping[str, Head], start: Start) -> None:
        self._heads = dict(heads)
        self._start = start
        self._writer: LabelWriter | None = None
        self._batches: list[_AppendedRows] = []
        self._held_names: set[bytes] = set()
        self._closed = False
        self.rows = 0

    def missing(self, keys: Sequence[object] | NDArray[Any], views: Sequence[int] | None = None) -> NDArray[np.int64]:
        """See LabelWriter.missing."""
        if self._writer is not None:
            return self._writer.missing(keys, views)
        row_views = as_views(views, len(keys))
        names = row_names(as_keys(keys, row_views), row_views).tolist()
        return np.array([row for row, name in enumerate(names) if name not in self._held_names], np.int64)

    def append(
        self, keys: Sequence[object] | NDArray[Any], outputs: Mapping[str, Any], *, views: Sequence[int] | None = None
    ) -> int:
        """See LabelWriter.append."""
        if self._writer is not None:
            added = self._writer.append(keys, outputs, views=views)
            self.rows = self._writer.rows
            return added
        if self._closed:
            raise StoreBusy("writer: closed; open another one with sl.create")
        row_views = as_views(views, len(keys))
        row_keys = as_keys(keys, row_views)
        if set(outputs) != set(self._heads):
            raise InvalidArgument(
                f"outputs: other heads than the store's, got {sorted(outputs)}; expected {sorted(self._heads)}"
            )
        batch = {name: of_arrays(name, outputs[name], head, len(row_keys)) for name, head in self._heads.items()}
        for name, output in batch.items():
            checked_float(output.values[:], self._heads[name], np.arange(len(output.values)))
        names = row_names(row_keys, row_views).tolist()
        first = {name: row for row, name in reversed(list(enumerate(names)))}
        new = np.array([row for row in sorted(first.values()) if names[row] not in self._held_names], np.int64)
        if len(new):
            # Copied, since a loop may use its buffers again.
            held = {name: _copied(output.take(new)) for name, output in batch.items()}
            self._batches.append(_AppendedRows(row_keys[new], held, row_views[new]))
            self._held_names.update(names[row] for row in new)
            self.rows = len(self._held_names)
            if self._is_enough():
                self._begin()
        return len(new)

    def flush(self) -> None:
        """See LabelWriter.flush."""
        if self._batches:
            self._begin()
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> Snapshot | None:
        """See LabelWriter.close; without any row there is no store."""
        try:
            self.flush()
            return None if self._writer is None else self._writer.close()
        finally:
            self._release()

    def _release(self) -> None:
        self._closed = True
        self._batches.clear()
        if self._writer is not None:
            self._writer._release()  # noqa: SLF001  a writer of the same class

    def _is_enough(self) -> bool:
        """Return True if the rows held suffice for every head, or memory for more is spent."""
        sizes = {name: sum(len(batch.outputs[name].values) for batch in self._batches) for name in self._heads}
        held = sum(
            4 * sizes[name] * head.classes * math.prod(head.position_shape) for name, head in self._heads.items()
        )
        return held >= MAX_HELD_BYTES or all(sizes[name] >= _needed(head) for name, head in self._heads.items())

    def _begin(self) -> None:
        """Open the store with the rows held as its pilot, and append them."""
        import torch

        wanting = [name for name, head in self._heads.items() if _needed(head)]
        pilot = {name: torch.cat([batch.outputs[name].values[:] for batch in self._batches]) for name in wanting}
        self._writer = self._start(pilot)
        batches, self._batches = self._batches, []
        for batch in batches:
            values = {name: _as_given(output) for name, output in batch.outputs.items()}
            self._writer.append(batch.keys, values, views=batch.views.tolist())


def needs_rows(heads: Mapping[str, Head]) -> bool:
    """Return True if an encoding is found, or its codebook fitted, on rows of the teacher."""
    return any(_needed(head) for head in heads.values())


def _needed(head: Head) -> int:
    """Return the number of rows, or positions of ragged rows, that a head needs before its store can begin."""
    if head.encoding.startswith("auto:budget"):
        raise InvalidArgument(
            f"encoding: a budget needs the number of rows, got {head.encoding!r} for a store that grows; expected "
            "bytes per row, such as adaptive:bytes=40 or threshold:bytes=40"
        )
    of_codebook = -(-pilot_rows(head) // math.prod(head.position_shape))
    if planning.is_target(head.encoding):
        return max(SAMPLE_IMAGES if head.position_shape else SAMPLE_ROWS, of_codebook)
    return of_codebook if encodings.parse(head.encoding, classes=head.classes).priors > 1 else 0


def _copied(output: HeadOutput) -> HeadOutput:
    return HeadOutput(output.values[:].clone(), output.lengths)


def _as_given(output: HeadOutput) -> Any:
    """Return an output in the form that LabelWriter.append takes."""
    if output.lengths is None:
        return output.values
    ends = np.cumsum(output.lengths)
    return [output.values[start:end] for start, end in zip(ends - output.lengths, ends, strict=True)]
