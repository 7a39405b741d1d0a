"""The description of a source: what is used of the data and what is not. For printing, and for a store's record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from softlabels.sources.class_gaps import describe_gaps
from softlabels.sources.protocol import LABEL_HEAD, Columns, Source, Target

LISTED = 6
"""Names listed in a line of text."""


@dataclass(frozen=True, kw_only=True)
class SourceDescription:
    """A summary of a source.

    Attributes:
        spec: DATA as the user typed it.
        rows: Number of rows.
        columns: Roles of the columns, and those without one.
        input_shape: Shape of one input.
        input_dtype: Name of the inputs' dtype, for example ``float32``.
        classes: Number of classes; None without labels.
        class_names: Names of the classes; None if labels are plain numbers.
        splits: Rows of each split.
        targets: Ground truth by head; that of ``logits`` is the label.
        gaps: Sentence on class numbers that do not occur; None if all of them occur.
    """

    spec: str
    rows: int
    columns: Columns
    input_shape: tuple[int, ...]
    input_dtype: str
    classes: int | None
    class_names: tuple[str, ...] | None
    splits: dict[str, int]
    targets: Mapping[str, Target] = field(default_factory=dict)
    gaps: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the description as plain values for JSON.

        Example:
            >>> from softlabels.sources import describe_source, open_source
            >>> description = describe_source(open_source("digits")).to_json()
            >>> description["input_dtype"], description["input_shape"], description["splits"]
            ('uint8', [8, 8], {'test': 450, 'train': 1347})
        """
        return {
            "spec": self.spec,
            "rows": self.rows,
            "inputs": list(self.columns.inputs),
            "input_shape": list(self.input_shape),
            "input_dtype": self.input_dtype,
            "label": self.columns.label,
            "id": self.columns.id,
            "split": self.columns.split,
            "splits": self.splits,
            "classes": self.classes,
            "class_names": None if self.class_names is None else list(self.class_names),
            "targets": {head: target.to_json() for head, target in self.targets.items()},
            "gaps": self.gaps,
            "unused": {column.name: column.reason for column in self.columns.unused},
        }

    def __str__(self) -> str:
        columns = self.columns
        shape = "x".join(map(str, self.input_shape)) or "scalar"
        lines = [
            f"{self.spec}: {self.rows:,} rows, named by {f'column {columns.id!r}' if columns.id else 'content'}",
            f"  input: {_listed(columns.inputs)} ({self.input_dtype}, {shape})",
        ]
        if columns.label is not None:
            names = f" ({_listed(self.class_names)})" if self.class_names else ""
            lines.append(f"  label: {columns.label}, {self.classes or 0} classes{names}")
            if self.gaps is not None:
                lines.append(f"  warning: {self.gaps}")
        else:
            lines.append("  label: none")
        lines += [f"  target {head}: {_target(target)}" for head, target in self.targets.items() if head != LABEL_HEAD]
        if columns.split is not None:
            lines.append(f"  splits: {', '.join(f'{name} {rows:,}' for name, rows in self.splits.items()) or 'none'}")
        if columns.unused:
            unused = [f"{column.name} ({column.reason})" for column in columns.unused]
            lines.append(f"  not used: {_listed(unused)}")
        return "\n".join(lines)


def describe_source(source: Source) -> SourceDescription:
    """Return a summary of any source: roles of columns, dtype and shape of inputs, classes and splits.

    Args:
        source: The data.

    Example:
        >>> from softlabels.sources import open_source
        >>> print(describe_source(open_source("digits")))
        digits: 1,797 rows, named by content
          input: image (uint8, 8x8)
          label: label, 10 classes
          splits: test 450, train 1,347
    """
    return SourceDescription(
        spec=source.spec,
        rows=len(source),
        columns=source.columns,
        input_shape=source.input_shape,
        input_dtype=str(source.input_dtype),
        classes=source.classes,
        class_names=source.class_names,
        splits={name: len(source.split(name)) for name in source.splits()},
        targets=source.targets,
        gaps=describe_gaps(source),
    )


def _target(target: Target) -> str:
    """Return a target in words: ``mask, 5 classes per pixel of 64x96``."""
    column = target.column or "computed"
    if target.kind == "regression":
        width = "a number" if target.classes == 1 else f"{target.classes} numbers"
        return f"{column}, {width}" + (f" in {target.unit}" if target.unit else "")
    names = f" ({_listed(target.class_names)})" if target.class_names else ""
    pixels = f" per pixel of {'x'.join(map(str, target.shape))}" if target.kind == "pixels" else ""
    return f"{column}, {target.classes} classes{pixels}{names}"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f", ... ({len(names)})" if len(names) > LISTED else "")
