"""Records of provenance in a descriptor: the teacher that labelled a store, and the data it labelled.

Only what identifies them counts when a store is resumed, reused or merged (``identity``). The other fields describe:
``softlabels inspect`` shows them, and errors of joining labels with data use them. Absent fields are not written, so a
description that grows in a later version changes no document of today.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from softlabels.store.format.fields import Fields, check_integer

MAX_NAMES = 2**16
"""Names of columns or of classes."""
MAX_AXES = 16
MAX_COUNT = 2**48 - 1
SHOWN_DIGITS = 12
"""Digits of a digest that a message shows."""


@dataclass(frozen=True, kw_only=True)
class TeacherRecord:
    """The teacher that labelled a store.

    Attributes:
        spec: Name of the teacher as its user gave it, such as ``run:teacher``.
        digest: Digest of the teacher; None if it has none, and then ``spec`` identifies it.
        covers: Parts of the teacher that ``digest`` covers, such as ``weights``, ``buffers`` and ``source``.
        version: Version that the user gave because code cannot show it (``--teacher-version``).
        preprocessing: Preprocessing of images as JSON values, which ``digest`` covers; None for other inputs.

    Example:
        >>> TeacherRecord(spec="run:teacher", digest="ab12", covers=("weights", "source")).identity
        'ab12'
        >>> TeacherRecord(spec="openai:gpt", digest=None, version="May").identity
        'openai:gpt, version May'
    """

    spec: str
    digest: str | None
    covers: tuple[str, ...] = ()
    version: str | None = None
    preprocessing: Mapping[str, Any] | None = None

    @property
    def identity(self) -> str:
        """Text that two stores of one teacher share: the digest, without one the name, and the version."""
        name = self.spec if self.digest is None else self.digest
        return name if self.version is None else f"{name}, version {self.version}"

    @property
    def title(self) -> str:
        """Name of the teacher and the start of its identity, for messages."""
        return self.identity if self.digest is None else f"{self.spec} ({_shortened(self.digest, self.identity)})"

    def to_json(self) -> dict[str, Any]:
        """Return the record as the descriptor holds it."""
        return _to_json(self, always=("spec", "digest"))

    @classmethod
    def from_fields(cls, value: Fields) -> Self:
        """Return the record in an untrusted document.

        Raises:
            ValueError: A field is missing or of another type.
        """
        return cls(
            spec=value.text("spec"),
            digest=_required_or_null(value, "digest"),
            covers=value.texts("covers", MAX_AXES),
            version=value.optional_text("version"),
            preprocessing=_preprocessing(value),
        )


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The data that a store has labels for.

    Attributes:
        spec: Name of the data as its user gave it, such as a path.
        fingerprint: Digest of all keys in order; None if rows are appended.
        rows: Number of rows; None if rows are appended.
        columns: Names of the columns that are the input; empty if the data has no columns.
        ignored: Names of the columns that are neither input nor label.
        label: Name of the column of hard labels; None if there is none.
        split: Name of the split that was labelled; None for all rows.
        dtype: NumPy name of the input's dtype; None if unknown.
        shape: Shape of one input; None for an axis of any length. None if unknown.
        classes: Number of classes of the hard labels; None without hard labels.
        class_names: Names of the classes by number; empty if they have none.

    Example:
        >>> DataRecord(spec="iris.csv", fingerprint="ab12", rows=150, columns=("petal length",)).identity
        'ab12'
    """

    spec: str
    fingerprint: str | None
    rows: int | None
    columns: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    label: str | None = None
    split: str | None = None
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] = ()

    @classmethod
    def union(cls, records: Sequence[Self], *, fingerprint: str, rows: int) -> Self:
        """Return the record of the rows of several data sets; fields in which they differ are left out."""
        shared = {
            field.name: getattr(records[0], field.name)
            for field in fields(cls)
            if len({getattr(record, field.name) for record in records}) == 1
        }
        spec = " + ".join(record.spec for record in records)
        return cls(**shared | {"spec": spec, "fingerprint": fingerprint, "rows": rows})

    @property
    def identity(self) -> str:
        """Text that two stores of the same data share: the fingerprint, without one the name."""
        return self.spec if self.fingerprint is None else self.fingerprint

    @property
    def title(self) -> str:
        """Name of the data, its rows and the start of its fingerprint, for messages."""
        if self.fingerprint is None:
            return self.spec
        rows = "" if self.rows is None else f"{self.rows:,} rows, "
        return f"{self.spec} ({rows}fingerprint {self.fingerprint[:SHOWN_DIGITS]})"

    def to_json(self) -> dict[str, Any]:
        """Return the record as the descriptor holds it."""
        return _to_json(self, always=("spec", "fingerprint", "rows"))

    @classmethod
    def from_fields(cls, value: Fields) -> Self:
        """Return the record in an untrusted document.

        Raises:
            ValueError: A field is missing or of another type.
        """
        return cls(
            spec=value.text("spec"),
            fingerprint=_required_or_null(value, "fingerprint"),
            rows=_count(value, "rows"),
            columns=value.texts("columns", MAX_NAMES),
            ignored=value.texts("ignored", MAX_NAMES),
            label=value.optional_text("label"),
            split=value.optional_text("split"),
            dtype=value.optional_text("dtype"),
            shape=_shape(value),
            classes=_count(value, "classes"),
            class_names=value.texts("class_names", MAX_NAMES),
        )


def _shortened(digest: str, identity: str) -> str:
    return f"digest {digest[:SHOWN_DIGITS]}{identity.removeprefix(digest)}"


@dataclass(frozen=True, kw_only=True)
class SubsetRecord:
    """The snapshot that a store was copied from, and the part of it that was copied.

    Attributes:
        snapshot: Digest of the snapshot.
        rows: First row, and row behind the last one (None: the end); None for all rows.
        keys: BLAKE3 of the sorted keys; None for all keys.
        heads: Names of the heads; None for all.
        views: Numbers of the views; None for all.
        top: Number of likeliest classes of each row; None for those of the snapshot.

    Example:
        >>> SubsetRecord(snapshot="0" * 64, top=8).to_json()["top"]
        8
    """

    snapshot: str
    rows: tuple[int, int | None] | None = None
    keys: str | None = None
    heads: tuple[str, ...] | None = None
    views: tuple[int, ...] | None = None
    top: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as the descriptor holds it."""
        return _to_json(self, always=("snapshot",))

    @classmethod
    def from_fields(cls, value: Fields) -> Self:
        """Return the record in an untrusted document.

        Raises:
            ValueError: A field is missing or of another type.
        """
        rows = None
        if value.get("rows") is not None:
            start, stop = (*_numbers(value, "rows", 2), None, None)[:2]
            rows = (start or 0, stop)
        views = (
            None if value.get("views") is None else tuple(number or 0 for number in _numbers(value, "views", MAX_NAMES))
        )
        return cls(
            snapshot=value.hash("snapshot"),
            rows=rows,
            keys=value.optional_hash("keys"),
            heads=None if value.get("heads") is None else value.texts("heads", MAX_NAMES),
            views=views,
            top=_count(value, "top"),
        )


def _to_json(record: TeacherRecord | DataRecord | SubsetRecord, always: tuple[str, ...]) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(record)}
    values = {name: getattr(record, name) for name in defaults}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name in always or value != defaults[name]
    }


def _preprocessing(value: Fields) -> dict[str, Any] | None:
    """Return the object of a teacher's preprocessing, whose fields describe; None without any."""
    if value.get("preprocessing") is None:
        return None
    fields_of = value.object("preprocessing")
    return {name: fields_of.get(name) for name in fields_of}


def _required_or_null(value: Fields, name: str) -> str | None:
    """Return a text or null that must be there: a document without it says nothing about the identity."""
    if name not in set(value):
        raise ValueError(f"{value.path(name)}: it is missing")
    return value.optional_text(name)


def _count(value: Fields, name: str) -> int | None:
    return None if value.get(name) is None else value.integer(name, 0, MAX_COUNT)


def _shape(value: Fields) -> tuple[int | None, ...] | None:
    if value.get("shape") is None:
        return None
    axes = value.items("shape", MAX_AXES)
    return tuple(None if axis is None else check_integer(value.path("shape"), axis, 0, MAX_COUNT) for axis in axes)


def _numbers(value: Fields, name: str, limit: int) -> tuple[int | None, ...]:
    """Return a list of numbers, which may be null."""
    items = value.items(name, limit)
    return tuple(None if item is None else check_integer(value.path(name), item, 0, MAX_COUNT) for item in items)
