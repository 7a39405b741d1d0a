"""Bounds on how much longer a tokenizer may make a text.

A tokenizer comes with a store or a run, and its steps are small programs: ten replacements of a letter by ten letters
turn it into ten billion. A document whose steps may add too much is refused before any text goes through it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MAX_GROWTH = 1024
"""Characters that the configured replacements of a normaliser or decoder may make of one."""
MAX_ADDED = 1024
"""Tokens that a template may add to a text."""
MAX_TOKEN = 2**14
"""Characters of a token."""
LISTS = ("normalizers", "decoders", "processors")


def check_growth(document: Mapping[str, Any]) -> None:
    """Raise ValueError if a tokenizer may make a text too long.

    Args:
        document: The parsed ``tokenizer.json``.

    Raises:
        ValueError: A step adds too much, or is not of the expected type.

    Example:
        >>> step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
        >>> check_growth({"normalizer": {"type": "Sequence", "normalizers": [step, step]}})
        Traceback (most recent call last):
        ...
        ValueError: its normalizer makes up to 10,000 characters of one; expected at most 1,024
    """
    for name in ("normalizer", "decoder"):
        growth = math.prod(map(_growth, _steps(document.get(name))))
        if growth > MAX_GROWTH:
            raise ValueError(f"its {name} makes up to {growth:,.0f} characters of one; expected at most {MAX_GROWTH:,}")
    added = sum(map(_added, _steps(document.get("post_processor"))))
    if added > MAX_ADDED:
        raise ValueError(f"its template adds {added:,} tokens; expected at most {MAX_ADDED:,}")
    longest = max(map(len, _tokens(document)), default=0)
    if longest > MAX_TOKEN:
        raise ValueError(f"a token of {longest:,} characters; expected at most {MAX_TOKEN:,}")


def _steps(step: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a normaliser, decoder or post-processor, those of sequences one by one."""
    if step is None:
        return
    nested = [name for name in LISTS if name in step]
    for name in nested:
        for entry in step[name]:
            yield from _steps(entry)
    if not nested:
        yield step


def _growth(step: Mapping[str, Any]) -> float:
    """Return the number of characters that a step may make of one."""
    growth = GROWTHS.get(str(step.get("type")))
    return 1.0 if growth is None else growth(step)


def _replacement(step: Mapping[str, Any]) -> float:
    content, pattern = len(step["content"]), step["pattern"]
    if text := pattern.get("String"):
        return max(1.0, content / len(text))
    return 1.0 + content  # a regular expression may match between any two characters


def _charsmap(step: Mapping[str, Any]) -> float:
    """Return the length of the longest replacement of a table, whose texts end with a NUL byte."""
    data = base64.b64decode(step["precompiled_charsmap"] or "")
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(1.0, *map(len, texts.split(b"\0")))


GROWTHS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "Replace": _replacement,
    "Prepend": lambda step: 1.0 + len(step["prepend"]),
    "Precompiled": _charsmap,
}


def _added(step: Mapping[str, Any]) -> int:
    """Return the number of tokens that a template adds to a text or a pair of them."""
    if step.get("type") != "TemplateProcessing":
        return 0
    sizes = {name: len(special["ids"]) for name, special in step["special_tokens"].items()}
    names = [entry["SpecialToken"]["id"] for entry in (*step["single"], *step["pair"]) if "SpecialToken" in entry]
    return sum(sizes.get(name, 1) for name in names)


def _tokens(document: Mapping[str, Any]) -> Iterator[str]:
    vocabulary = document["model"].get("vocab") or ()
    yield from vocabulary if isinstance(vocabulary, Mapping) else (entry[0] for entry in vocabulary)
    yield from (entry["content"] for entry in document.get("added_tokens") or ())
