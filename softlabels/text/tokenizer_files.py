"""Tokenizers by specification: ``bpe:8192`` is trained on the text, a directory or file is loaded.

A directory is one that transformers saved: ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.
No code of the directory runs, and the library transformers is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.store.storage.regular_file import read_regular
from softlabels.text.tokenizer import MAX_BYTES, Tokenizer

FORMS = "bpe:VOCABULARY or a directory with a tokenizer.json"
FILE = "tokenizer.json"
ROLES = ("bos", "eos", "pad", "unk")


def as_tokenizer(spec: str | Path | Tokenizer | None, texts: Callable[[], Iterable[str]] | None = None) -> Tokenizer:
    """Return the tokenizer that a specification names.

    Args:
        spec: ``bpe:VOCABULARY``, a directory with a ``tokenizer.json``, such a file, or a Tokenizer.
        texts: Returns the documents that ``bpe`` is trained on.

    Raises:
        InvalidArgument: The specification is invalid, or there is no text to train on.
        DataNotFound: There is no such directory or file.
        InvalidData: A file is damaged.

    Example:
        >>> as_tokenizer("bpe:260", lambda: ["to be or not to be"]).size
        260
    """
    if spec is None:
        raise InvalidArgument(
            f"tokenizer: text needs one, got none; expected {FORMS}, or a teacher that has one. "
            "A model hf:DIR to train has its own in DIR"
        )
    if isinstance(spec, Tokenizer):
        return spec
    kind, _, text = str(spec).partition(":")
    if kind != "bpe":
        return load_tokenizer(spec)
    if not text.isdecimal():
        raise InvalidArgument(f"tokenizer {str(spec)!r}: invalid vocabulary, got {text!r}; expected {FORMS}")
    if texts is None:
        raise InvalidArgument(f"tokenizer {str(spec)!r}: no text to train on; expected a directory with a {FILE}")
    return Tokenizer.train(texts(), vocabulary=int(text))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer of a directory or file.

    Args:
        path: Directory that transformers saved, a ``tokenizer.json`` of the tokenizers library, or a document that
            ``Tokenizer.to_bytes`` wrote.

    Raises:
        DataNotFound: There is no tokenizer; says how to make one.
        InvalidData: A file is damaged.
    """
    folder = Path(path)
    file = folder / FILE if folder.is_dir() else folder
    if not file.exists():
        raise DataNotFound(
            f"tokenizer {str(path)!r}: there is no {file}; expected {FORMS}. Convert other formats with "
            "transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    data = _read(file)
    document = _parse(file, data)
    if "format" in document:
        return Tokenizer.from_bytes(data, str(file))
    config = _optional(file.parent / "tokenizer_config.json")
    special = _special(Tokenizer(document, {}), _optional(file.parent / "special_tokens_map.json") | config)
    return Tokenizer(document, special, _template(file.parent, config))


def _special(tokenizer: Tokenizer, config: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the special tokens that a configuration names by text."""
    special = {}
    for role in ROLES:
        token = config.get(f"{role}_token")
        name = token.get("content") if isinstance(token, Mapping) else token
        number = tokenizer.backend.token_to_id(name) if isinstance(name, str) else None
        if number is not None:
            special[role] = number
    return special


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the chat template: the file of its own, else the one in the configuration."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return _read(file).decode(errors="replace")
    template = config.get("chat_template")
    if isinstance(template, list):  # named templates; the default is the one for plain conversations
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    return None if template is None else str(template)


def _optional(file: Path) -> dict[str, Any]:
    return _parse(file, _read(file)) if file.exists() else {}


def _read(file: Path) -> bytes:
    try:
        return read_regular(file, MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidData(f"{file}: cannot be read, got {reason}; expected a tokenizer. Download it again") from None


def _parse(file: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{file}: not JSON, got {error}; expected an object. Download the file again") from None
    if not isinstance(value, dict):
        raise InvalidData(f"{file}: not an object, got {type(value).__name__}; expected a JSON object")
    return value
