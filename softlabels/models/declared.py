"""Declarations of a caller about a model whose file or code does not say its heads or preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from softlabels.errors import InvalidArgument
from softlabels.labels import HeadKind
from softlabels.models.preprocessing import Preprocessing, PreprocessingOptions


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Declarations of a caller.

    Attributes:
        kinds: Meaning of outputs, by name; if there are any, other outputs are not used.
        preprocessing: A record that replaces the preprocessing of the model, or options that change it; None: that of
            the model.
    """

    kinds: Mapping[str, HeadKind] = field(default_factory=dict)
    preprocessing: Preprocessing | PreprocessingOptions | None = None

    def __bool__(self) -> bool:
        return bool(self.kinds) or bool(self.preprocessing)

    def preprocessing_over(self, base: Preprocessing | None) -> Preprocessing | None:
        """Return the preprocessing to run; None if neither the caller nor the model has any.

        Args:
            base: Preprocessing of the model itself; None if it has none.

        Raises:
            InvalidArgument: An option is malformed or out of range.
        """
        if isinstance(self.preprocessing, PreprocessingOptions) and self.preprocessing:
            return self.preprocessing.over(base or Preprocessing())
        return self.preprocessing if isinstance(self.preprocessing, Preprocessing) else base


def parse_kinds(values: Sequence[str]) -> dict[str, HeadKind]:
    """Return kinds of heads by name.

    Args:
        values: Texts ``NAME=KIND``.

    Raises:
        InvalidArgument: A text is malformed, a kind is unknown, or a name has two kinds.

    Example:
        >>> parse_kinds(["road=pixels", "steering=regression"])
        {'road': 'pixels', 'steering': 'regression'}
    """
    kinds: dict[str, HeadKind] = {}
    for value in values:
        name, _, kind = value.rpartition("=")
        known = next((known_kind for known_kind in get_args(HeadKind) if known_kind == kind), None)
        if not name or known is None:
            raise InvalidArgument(
                f"head: malformed, got {value!r}; expected NAME=KIND with a KIND of {', '.join(get_args(HeadKind))}"
            )
        if kinds.get(name, known) != known:
            raise InvalidArgument(f"head {name!r}: has two kinds, got {kinds[name]} and {known}; expected one")
        kinds[name] = known
    return kinds
