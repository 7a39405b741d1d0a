"""The errors softlabels raises: one small family, each saying what was wrong, the value, and what to do.

Each is also a builtin where one fits, so that ``except FileNotFoundError`` works as a reader expects, and each can be
pickled, so that it crosses process boundaries (a loader worker that fails must not hang its parent). Every error is
made from one string; attributes set afterwards travel with it.

``exit_code`` is what the command line returns, one of EXIT_CODES. A subclass inherits the code of its base.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "wrong usage: an option, a path or a specification",
    3: "a check found bad data: inputs, labels, a store, a run or a teacher's outputs",
    75: "the outcome of a remote operation is unknown; run the command again",
    130: "interrupted; the same command resumes",
}
"""Meanings of the exit codes of the command line."""

FAILED, WRONG_USAGE, FOUND_BAD, UNKNOWN, INTERRUPTED = 1, 2, 3, 75, 130


class SoftLabelsError(Exception):
    """Base of everything softlabels raises on purpose."""

    exit_code: ClassVar[int] = FAILED

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # OSError and KeyError subclasses would otherwise print an errno or a repr.
        return self.message


class InvalidArgument(SoftLabelsError, ValueError):
    """A specification, option or argument that cannot be meant: unknown encoding, k above the class count, ..."""

    exit_code = WRONG_USAGE


class DataNotFound(SoftLabelsError, FileNotFoundError):
    """The dataset, model or run that was named does not exist."""

    exit_code = WRONG_USAGE


class ColumnMissing(InvalidArgument):
    """A column that was named, or is needed, is not in the data; lists the columns that are."""


class InvalidData(SoftLabelsError, ValueError):
    """The user's data is there but cannot be used: empty, null, of mixed shapes, not finite."""

    exit_code = FOUND_BAD


class UnreadableRow(InvalidData):
    """Rows of the data that cannot be read, such as truncated images, while the others can.

    Attributes:
        rows: Numbers of the rows.
        reason: Why the first of them cannot be read, with the name of its file.
    """

    rows: tuple[int, ...] = ()
    reason: str = ""

    @classmethod
    def of(cls, message: str, rows: Iterable[int], reason: str) -> Self:
        """Return an error about rows.

        Args:
            message: Text of the error.
            rows: Numbers of the rows.
            reason: Why the first of them cannot be read.

        Example:
            >>> UnreadableRow.of("photos, row 3: truncated", [3], "truncated").rows
            (3,)
        """
        error = cls(message)
        error.rows, error.reason = tuple(int(row) for row in rows), reason
        return error


class TooManyBadRows(InvalidData):
    """More rows than ``--skip-bad`` allows cannot be labelled; names them and the reasons."""

    exit_code = 3


class KeyMissing(InvalidData):
    """Labels and inputs do not cover the same rows; names a few keys."""


class LabelsMisaligned(InvalidData):
    """An input's content is not the one its labels were made from."""


class InvalidLogits(SoftLabelsError, ValueError):
    """The teacher's output cannot be stored: NaN, infinite, of another shape; names the row."""

    exit_code = FOUND_BAD


class ModelFailed(SoftLabelsError, RuntimeError):
    """The code of a model raised an error; names its line and the shape of the inputs."""


class TeacherRejected(SoftLabelsError):
    """The sanity gate stopped a teacher before anything was written."""

    exit_code = FOUND_BAD


class ExportRejected(SoftLabelsError):
    """An exported model differs from the model by more than the tolerance; nothing was written."""

    exit_code = FOUND_BAD


class TeacherUnavailable(SoftLabelsError, ConnectionError):
    """The server that runs a teacher cannot be reached, or answers with errors; committed units stay in the store."""


class TrainingFailed(SoftLabelsError):
    """Training cannot go on, for example because the loss is not finite."""


class TemperatureNotStored(InvalidArgument):
    """The labels hold no tail mass at this temperature; lists those they hold."""


class WorkerDied(SoftLabelsError, RuntimeError):
    """A worker process of the loader ended without an error of its own: killed, or out of memory."""


class StoreError(SoftLabelsError):
    """Base of what goes wrong with a store."""


class StoreNotFound(StoreError, FileNotFoundError):
    """There is no store (or no sealed snapshot) at this path."""

    exit_code = WRONG_USAGE


class StoreConflict(StoreError, FileExistsError):
    """The directory holds something else: another store, a run, files that are not ours."""

    exit_code = WRONG_USAGE


class StoreIncomplete(StoreError):
    """Units are missing, so the store cannot be sealed or used as a whole."""

    exit_code = FOUND_BAD


class StoreUnsupported(StoreError):
    """The store needs a format version or feature this softlabels does not know."""


class StoreCorrupt(StoreError):
    """Bytes in the store are not what was committed; names the file, and ``softlabels repair``."""

    exit_code = FOUND_BAD


class SignatureInvalid(StoreCorrupt):
    """A store is not what a key has signed: no signature, another key's, or a file that was changed."""


class ShardMissing(StoreCorrupt, FileNotFoundError):
    """A committed shard is gone."""


class StoreBusy(StoreError):
    """Another writer holds what this one needs (only where the file system cannot put-if-absent)."""


class StorageFailed(StoreError, OSError):
    """The operating system refused (disk full, read-only, too many open files); nothing is wrong with the store."""


class StorageUnsupported(StoreError, ValueError):
    """The location of a store has a scheme that no storage supports."""

    exit_code = WRONG_USAGE


class StorageUnknown(StoreError):
    """A file may or may not have been stored; nothing was deleted, run the same command again."""

    exit_code = UNKNOWN


class RunCorrupt(SoftLabelsError):
    """A run directory (run.json, model.safetensors) is damaged or not one."""

    exit_code = FOUND_BAD
