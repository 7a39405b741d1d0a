"""The ``views`` section of a descriptor: the augmentation whose views the rows of a store are labels of.

A store of views requires the feature ``views``: a reader that does not know it would use labels of augmented images
with images as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from softlabels.errors import InvalidArgument
from softlabels.store.format.fields import HASH, Fields, check_integer, refusal

VIEWS = "views"
"""Feature that a store of views requires, and the name of its section."""

MAX_VIEWS = 2**16
MAX_SIZE = 2**16
MAX_POLICY = 2000
"""Characters of a policy."""
MAX_DIGESTS = 64
MAX_SOFTWARE = 200
"""Characters of the versions of libraries."""


@dataclass(frozen=True, kw_only=True)
class ViewDigest:
    """The pixels of one view, to find out if views replay.

    Attributes:
        key: Key of the example, 32 hexadecimal digits.
        view: Number of the view.
        digest: BLAKE3 of the shape and pixels of the view, 64 hexadecimal digits.
    """

    key: str
    view: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class ViewRecord:
    """The views of a store.

    Attributes:
        count: Views of each example, numbered from 0.
        policy: Canonical specification of the policy, with every option.
        version: Version of the transforms' arithmetic.
        seed: Seed of the parameters of views.
        size: Height and width of a view in pixels; None: those of the image.
        examples: Number of examples; partners of mixed views are drawn from them.
        digests: Pixels of a few views.
        software: Versions of the libraries that made the pixels, for messages. Not part of the identity.

    Raises:
        InvalidArgument: A value is out of range.

    Example:
        >>> ViewRecord(count=50, policy="flip:p=0.5", version=1, seed=0, size=224, examples=9).to_json()["count"]
        50
    """

    count: int
    policy: str
    version: int
    seed: int
    size: int | None
    examples: int
    digests: tuple[ViewDigest, ...] = ()
    software: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, value, high in (("count", self.count, MAX_VIEWS), ("size", self.size or 1, MAX_SIZE)):
            if not 1 <= value <= high:
                raise InvalidArgument(f"views: invalid {name}, got {value}; expected 1 to {high:,}")
        if not 1 <= len(self.policy) <= MAX_POLICY or len(self.software) > MAX_SOFTWARE:
            raise InvalidArgument(f"views: policy too long, got {len(self.policy)} characters; expected {MAX_POLICY}")

    @property
    def identity(self) -> dict[str, Any]:
        """The parts that two generators of one store must have in common."""
        value = self.to_json()
        del value["software"]
        return value

    def to_json(self) -> dict[str, Any]:
        """Return the section as the descriptor holds it."""
        return {
            "count": self.count,
            "policy": self.policy,
            "version": self.version,
            "seed": self.seed,
            "size": self.size,
            "examples": self.examples,
            "digests": [{"key": entry.key, "view": entry.view, "digest": entry.digest} for entry in self.digests],
            "software": self.software,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Return the section in an untrusted document.

        Raises:
            ValueError: A field is missing, of another type or out of range.
        """
        entries = fields.items("digests", MAX_DIGESTS)
        return cls(
            count=fields.integer("count", 1, MAX_VIEWS),
            policy=fields.text("policy"),
            version=fields.integer("version", 1, 2**31 - 1),
            seed=fields.integer("seed", -(2**63), 2**64 - 1),
            size=None if fields.get("size") is None else fields.integer("size", 1, MAX_SIZE),
            examples=fields.integer("examples", 1, 2**48),
            digests=tuple(_digest(Fields(entry, fields.path("digests"))) for entry in entries),
            software=fields.optional_text("software") or "",
        )


def _digest(fields: Fields) -> ViewDigest:
    key = fields.text("key")
    if len(key) != 32 or not HASH.fullmatch(key * 2):
        raise refusal(fields.path("key"), key, "32 hexadecimal digits")
    view = check_integer(fields.path("view"), fields.get("view"), 0, MAX_VIEWS)
    return ViewDigest(key=key, view=view, digest=fields.hash("digest"))


def same_views(first: ViewRecord | None, second: ViewRecord | None) -> bool:
    """Return True if two stores are labels of the same views.

    Args:
        first: Record of one store.
        second: Record of the other.
    """

    def without_examples(record: ViewRecord | None) -> Mapping[str, Any] | None:
        """Return the parts that do not depend on the other examples of the data."""
        if record is None:
            return None
        return {name: record.identity[name] for name in ("count", "policy", "version", "seed", "size")}

    return without_examples(first) == without_examples(second)
