"""The card of a store: README.md with the YAML header of the hub.

Everything in it comes from a store that somebody else may have made. Texts are escaped, so that they show as they are
and no markup, link or key of the header comes out of them.
"""

from __future__ import annotations

import json
import re

from softlabels.store import Store
from softlabels.store.format.description import Description

CARD = "README.md"
MARKER = (
    "<!-- This card is written by softlabels describe and softlabels push. Edit the description, not this file. -->"
)
TAGS = ("softlabels", "soft-labels", "knowledge-distillation")
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B")
HUB_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,30}")
MAX_CHARACTERS = 2000
SPECIAL = re.compile(r"[\\`*_{}\[\]()<>#+!|~&:@\"'$^=.-]")


def render_card(store: Store, description: Description) -> str:
    """Return the text of the card.

    Args:
        store: The store.
        description: Statements of its owner.
    """
    snapshot, descriptor = store.snapshot, store.descriptor
    teacher, data = descriptor.teacher, descriptor.data
    lines = [
        *_header(store, description),
        MARKER,
        "",
        f"# {_text(description.title or 'Soft labels')}",
        "",
        "The outputs of a teacher for each example of a data set, to train students from without the teacher.",
        "",
        "| | |",
        "|---|---|",
        f"| rows | {snapshot.rows:,} in {snapshot.units:,} units, {snapshot.bytes:,} bytes |",
        f"| snapshot | {snapshot.number}, digest {_code(snapshot.digest)} |",
        f"| teacher | {_code(teacher.spec or 'unnamed')}, digest {_code(teacher.digest or 'none')} |",
        f"| data | {_code(data.spec)}, fingerprint {_code(data.fingerprint or 'none')} |",
    ]
    if descriptor.subset_of is not None:
        lines.append(f"| taken from | snapshot {_code(descriptor.subset_of.snapshot)} |")
    for name, head in store.heads.items():
        temperatures = ", ".join(f"{temperature:g}" for temperature in head.temperatures)
        storing = f"{head.kind}, {head.classes:,} classes, {_code(head.encoding)}, T = {temperatures}"
        lines.append(f"| head {_code(name)} | {storing} |")
    sections = {
        "License": description.license, "Terms of use": description.terms, "Data": description.data,
        "Contact": description.contact,
    }  # fmt: skip
    for title, text in sections.items():
        lines += ["", f"## {title}", "", "Not stated." if text is None else _text(text)]
    lines += [
        "",
        "## Use",
        "",
        "```sh",
        "pip install softlabels",
        f"softlabels pull SOURCE labels --digest {snapshot.digest}",
        "softlabels train-student labels --student MODEL --data DATA --out run",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _header(store: Store, description: Description) -> list[str]:
    """Return the YAML header. Values are JSON strings, which YAML reads as they are."""
    header: dict[str, object] = {"pretty_name": description.title or "Soft labels", "tags": list(TAGS)}
    if description.license is not None:
        identifier = description.license.lower()
        header |= (
            {"license": identifier}
            if HUB_LICENSE.fullmatch(identifier)
            else {"license": "other", "license_name": "custom", "license_details": description.license}
        )
    size = min(max(len(str(store.rows)) - 3, 0), len(SIZES) - 1)
    header["size_categories"] = [SIZES[size]]
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in header.items()), "---", ""]


def _text(text: str) -> str:
    """Return prose that shows as it is: one paragraph, every character of Markdown and HTML as an entity."""
    shown = " ".join(_printable(text).split())[:MAX_CHARACTERS]
    return SPECIAL.sub(lambda match: f"&#{ord(match[0])};", shown)


def _code(text: str) -> str:
    """Return a name as code in a cell of a table."""
    shown = " ".join(_printable(text).split())[:200]
    return "`" + re.sub(r"[`|\\<>&]", "?", shown) + "`" if shown else "`?`"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
