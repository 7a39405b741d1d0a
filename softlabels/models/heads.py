"""Named outputs of a model.

A model maps a batch of inputs to one tensor per head. A head states what the numbers mean and how they are laid out, so
that generation can encode them and training can compare them with labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from softlabels.errors import InvalidArgument, InvalidLogits
from softlabels.labels import Head, HeadKind

DEFAULT_HEAD = "logits"
"""Name of the head of a model that returns a single tensor."""

MAX_CLASSES = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class OutputHead:
    """One named output of a model.

    Attributes:
        classes: Number of classes C, or the width of a regression or embedding vector.
        kind: Meaning of the values.
        shape: Axes between the rows and the classes: () for one distribution per row, (L,) for L tokens, (H, W) for
            pixels, (None,) for tokens whose number differs from row to row.

    Raises:
        InvalidArgument: The kind is unknown, or a size is out of range.

    Example:
        >>> OutputHead(classes=10)
        OutputHead(classes=10, kind='classes', shape=())
    """

    classes: int
    kind: HeadKind = "classes"
    shape: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise InvalidArgument(f"head kind: unknown, got {self.kind!r}; expected {', '.join(get_args(HeadKind))}")
        if type(self.classes) is not int or not 1 <= self.classes <= MAX_CLASSES:
            raise InvalidArgument(f"classes of a head: out of range, got {self.classes!r}; expected 1 to 2^31 - 1")
        if self.shape != (None,) and not all(type(side) is int and 0 < side < 2**20 for side in self.shape):
            raise InvalidArgument(
                f"shape of a head: invalid, got {self.shape!r}; expected sizes from 1 to 2^20, or (None,)"
            )

    @property
    def ragged(self) -> bool:
        """True if the number of positions differs from row to row."""
        return self.shape == (None,)

    @classmethod
    def of_labels(cls, head: Head) -> OutputHead:
        """Return the output that labels of ``head`` describe, before it is downsampled.

        Args:
            head: Head of a store.
        """
        shape = head.shape if head.ragged else tuple(side * head.downsample for side in head.position_shape)
        return cls(classes=head.classes, kind=head.kind, shape=shape)

    @classmethod
    def of_output(cls, name: str, shape: tuple[int, ...], *, spec: str) -> OutputHead:
        """Infer the head of an output nobody declared, from its shape.

        Args:
            name: Name of the head.
            shape: Shape of the output for one batch: (B, C) is one distribution per row, (B, L, C) one per token.
            spec: MODEL specification that messages name.

        Raises:
            InvalidLogits: The layout cannot be inferred.
        """
        if len(shape) == 2:
            return cls(classes=shape[1])
        if len(shape) == 3:
            return cls(classes=shape[2], kind="tokens", shape=(shape[1],))
        raise InvalidLogits(
            f"{spec}: head {name!r} has an unknown layout, got shape {shape}; expected (B, C) for classes or (B, L, C) "
            "for tokens. Declare other layouts in an attribute `heads` of the model: {name: OutputHead(...)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the head as JSON values."""
        return {"kind": self.kind, "classes": self.classes, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OutputHead:
        """Return the head that ``to_json`` wrote.

        Args:
            value: JSON object with the keys kind, classes and shape.

        Raises:
            InvalidArgument: A value is out of range.
            KeyError: A key is missing.
        """
        return cls(kind=value["kind"], classes=value["classes"], shape=tuple(value["shape"]))
