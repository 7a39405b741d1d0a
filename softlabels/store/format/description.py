"""Description of a store by its owner: licence, terms of use, data statement, contact.

It may be written and changed after a store is sealed, so it is no part of what the snapshot's digest covers; a
signature covers it (docs/adr/0019-descriptions-lie-beside-the-sealed-store.md). A change is a new file with the next
number, so that files are never replaced; the last one counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from softlabels.errors import InvalidArgument
from softlabels.store.format import canonical_json, paths
from softlabels.store.format.fields import Fields
from softlabels.store.storage.read_errors import FETCH, read_errors
from softlabels.store.storage.storage import Storage

FORMAT = "softlabels-description"
VERSION = 1
MAX_BYTES = 2**20
MAX_CHARACTERS = 2**14


@dataclass(frozen=True, kw_only=True)
class Description:
    """Statements of the owner of a store; None where nothing is stated.

    Attributes:
        title: Name of the store for people.
        license: Licence of the labels: an SPDX identifier such as ``CC-BY-4.0``, a URL or a name.
        terms: Terms of use, beyond the licence.
        data: Data statement: source, consent and personal data of the inputs.
        contact: Address for questions and removal requests.

    Raises:
        InvalidArgument: A text is blank or too long.

    Example:
        >>> Description(license="CC-BY-4.0").to_json()
        {'license': 'CC-BY-4.0'}
    """

    title: str | None = None
    license: str | None = None
    terms: str | None = None
    data: str | None = None
    contact: str | None = None

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            if text is not None and (not text.strip() or len(text) > MAX_CHARACTERS or not _is_unicode(text)):
                raise InvalidArgument(
                    f"{name}: got {text[:40]!r} of {len(text):,} characters; expected a text of 1 to "
                    f"{MAX_CHARACTERS:,} characters"
                )

    def to_json(self) -> dict[str, str]:
        """Return the statements that are there, by name."""
        return {name: text for name, text in asdict(self).items() if text is not None}

    def updated(self, changes: Description) -> Description:
        """Return this description with the statements of another one in their place.

        Args:
            changes: New statements.
        """
        return Description(**(self.to_json() | changes.to_json()))

    @classmethod
    def from_fields(cls, value: Fields) -> Self:
        """Return the description in an untrusted document.

        Raises:
            ValueError: A field is of another type, blank or too long.
        """
        return cls(**{field.name: value.optional_text(field.name) for field in fields(cls)})


def last_description(storage: Storage) -> tuple[str, Description] | None:
    """Return the name and the content of the last description of a store; None if there is none.

    Raises:
        StoreCorrupt: It is damaged.
    """
    numbers = paths.description_numbers(storage)
    if not numbers:
        return None
    name = paths.description_path(numbers[-1])
    with read_errors(storage.locate(name), FETCH):
        return name, parse_description(storage.read(name, MAX_BYTES))


def parse_description(data: bytes) -> Description:
    """Return the description in the bytes of its file.

    Raises:
        ValueError: The bytes are not a description; says why.
    """
    value = Fields(canonical_json.parse_signed(data, MAX_BYTES))
    if value.get("format") != FORMAT or value.get("version") != VERSION:
        raise ValueError(f"its format is {value.get('format')!r:.40}, version {value.get('version')!r:.40}")
    return Description.from_fields(value)


def write_description(storage: Storage, description: Description) -> str:
    """Write the next description of a store, unless the last one is equal; returns its name.

    Args:
        storage: Storage of the store.
        description: The description.
    """
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, **description.to_json()}
    data = canonical_json.to_bytes(canonical_json.sign(document))
    while True:
        last = last_description(storage)
        if last is not None and last[1] == description:
            return last[0]
        numbers = paths.description_numbers(storage)
        name = paths.description_path(numbers[-1] + 1 if numbers else 1)
        if storage.put_if_absent(name, data):
            return name


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
