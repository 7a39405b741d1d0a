"""Tokenizers: text to token ids and back, with a digest that names the mapping.

A tokenizer is one JSON document: the ``tokenizer.json`` of the tokenizers library, the ids of the special tokens, and
the chat template. Its digest covers all of it, so labels and students that disagree about a token id cannot meet.
Encoding and training run in parallel in native threads, and their results do not depend on the number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.text.tokenizer_growth import check_growth

if TYPE_CHECKING:
    import tokenizers

FORMAT = "softlabels-tokenizer"
VERSION = 1
MAX_BYTES = 2**26
"""Bytes a tokenizer document may have; that of a vocabulary of 256,000 tokens has about 2**25."""

END = "<|endoftext|>"
"""End-of-text token of tokenizers that are trained here; its id is 0."""

BYTES = 256
"""Tokens of a byte-level alphabet."""

MAX_VOCABULARY = 2**20
MAX_REASON = 300
"""Characters of an error that a message cites."""
NOT_IDENTITY = ("truncation", "padding")
"""Members of ``tokenizer.json`` that hold the settings of one call, not of the tokenizer."""


class Tokenizer:
    """A tokenizer that never changes.

    Args:
        model: The parsed ``tokenizer.json``.
        special: Ids of the special tokens by role: ``bos``, ``eos``, ``pad``, ``unk``.
        chat_template: Jinja template that turns messages into text; None: no chat.

    Raises:
        InvalidData: The tokenizers library cannot read the model.

    Example:
        >>> tokenizer = Tokenizer.train(["to be or not to be"] * 50, vocabulary=270)
        >>> tokenizer.decode(tokenizer.encode(["to be"])[0])
        'to be'
    """

    def __init__(self, model: Mapping[str, Any], special: Mapping[str, int], chat_template: str | None = None) -> None:
        self.model = {name: value for name, value in model.items() if name not in NOT_IDENTITY}
        self.special = dict(special)
        self.chat_template = chat_template
        self.to_bytes()  # a value that JSON cannot hold is an error here, not when a store is written
        try:
            check_growth(self.model)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidData(
                f"tokenizer: cannot be used, got {type(error).__name__}: {str(error)[:MAX_REASON]}; expected a "
                "tokenizer.json. Use another tokenizer"
            ) from None
        _ = self.backend

    def __getstate__(self) -> dict[str, Any]:
        """Return the document alone; native objects are made again."""
        return {"model": self.model, "special": self.special, "chat_template": self.chat_template}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
        """Train byte-level byte-pair encoding; equal texts give an equal tokenizer.

        Args:
            texts: Documents to learn merges from.
            vocabulary: Number of tokens, with the 256 bytes and the end-of-text token.

        Raises:
            InvalidArgument: The vocabulary is out of range.
            InvalidData: There is no text.
        """
        if not BYTES < vocabulary <= MAX_VOCABULARY:
            raise InvalidArgument(
                f"vocabulary of a tokenizer: out of range, got {vocabulary}; expected {BYTES + 1} to {MAX_VOCABULARY}"
            )
        library = _library()
        byte_level = library.pre_tokenizers.ByteLevel
        native = library.Tokenizer(library.models.BPE())
        native.pre_tokenizer = byte_level(add_prefix_space=False)
        native.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END],
            initial_alphabet=sorted(byte_level.alphabet()),
            show_progress=False,
        )
        count = 0

        def counted() -> Iterator[str]:
            nonlocal count
            for text in texts:
                count += 1
                yield text

        native.train_from_iterator(counted(), trainer)
        if count == 0:
            raise InvalidData("training of a tokenizer: no text, got 0 documents; expected one at least")
        return cls(json.loads(native.to_str()), {"eos": 0})

    @classmethod
    def from_bytes(cls, data: bytes, subject: str = "tokenizer") -> Tokenizer:
        """Return the tokenizer that ``to_bytes`` wrote.

        Args:
            data: The document.
            subject: First words of messages, e.g. the path of the file.

        Raises:
            InvalidData: The bytes are not such a document.
        """
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"{len(data):,} bytes")
            value = json.loads(data)
            if value["format"] != FORMAT or value["version"] != VERSION:
                raise ValueError(f"format {value['format']!r}, version {value['version']!r}")
            template = value["chat_template"]
            if not isinstance(template, str | None):
                raise TypeError(f"a chat template of type {type(template).__name__}")
            tokenizer = cls(value["tokenizer"], value["special"], template)
            for role, token in tokenizer.special.items():
                if type(token) is not int or not 0 <= token < tokenizer.size:
                    raise ValueError(f"{token!r} as the id of {role!r}, of {tokenizer.size:,} tokens")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidData(
                f"{subject}: not a tokenizer document, got {type(error).__name__} {str(error)[:MAX_REASON]}; expected "
                f"{FORMAT} version {VERSION}. Copy the store or the run again"
            ) from None
        return tokenizer

    def to_bytes(self) -> bytes:
        """Return the document: JSON with sorted keys and without spaces, equal for equal tokenizers."""
        value = {
            "format": FORMAT,
            "version": VERSION,
            "tokenizer": self.model,
            "special": self.special,
            "chat_template": self.chat_template,
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @cached_property
    def digest(self) -> str:
        """The BLAKE3 of the document, 64 hexadecimal digits."""
        return str(blake3(self.to_bytes()).hexdigest())

    @cached_property
    def backend(self) -> tokenizers.Tokenizer:
        """The native tokenizer."""
        with _library_errors("cannot read it"):
            native: tokenizers.Tokenizer = _library().Tokenizer.from_str(json.dumps(self.model))
        return native

    @cached_property
    def size(self) -> int:
        """The number of ids: the highest id and one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def end(self) -> int | None:
        """The id of the end-of-text token; None if there is none."""
        return self.special.get("eos")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The narrowest dtype for ids: uint16 or uint32."""
        return np.dtype(np.uint16 if self.size <= 2**16 else np.uint32)

    def encode(
        self, texts: Sequence[str], *, special: bool = True, max_tokens: int | None = None
    ) -> list[NDArray[np.int64]]:
        """Return the token ids of texts.

        Args:
            texts: Documents.
            special: If True, add the special tokens that the tokenizer puts around a text, e.g. a beginning-of-text
                token.
            max_tokens: Longer texts are truncated to this, special tokens included; None: no text is truncated.
        """
        with _library_errors("cannot encode with it"):
            encodings = self._limited(max_tokens).encode_batch_fast(list(texts), add_special_tokens=special)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, max_tokens: int | None = None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Return the token ids of pairs of texts, joined by the tokenizer, and whether each is of the second.

        Args:
            pairs: First and second text of each row.
            max_tokens: As for ``encode``.
        """
        with _library_errors("cannot encode with it"):
            encodings = self._limited(max_tokens).encode_batch_fast(list(pairs), add_special_tokens=True)
        return [(np.array(encoding.ids, np.int64), np.array(encoding.type_ids) > 0) for encoding in encodings]

    def _limited(self, max_tokens: int | None) -> tokenizers.Tokenizer:
        """Return the native tokenizer with a limit of tokens."""
        if max_tokens is None:
            return self.backend
        limited: tokenizers.Tokenizer = _library().Tokenizer.from_str(json.dumps(self.model))
        limited.enable_truncation(max_tokens)
        return limited

    def encode_with_offsets(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the token ids of one text, (n,), and the characters each covers, (n, 2); no special tokens are added.

        Args:
            text: A document, e.g. a rendered chat.
        """
        with _library_errors("cannot encode with it"):
            encoding = self.backend.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """Return the text of token ids; special tokens are included.

        Args:
            ids: Token ids, (n,).
        """
        with _library_errors("cannot decode with it"):
            return str(self.backend.decode([int(token) for token in ids], skip_special_tokens=False))

    def difference(self, other: Tokenizer) -> str | None:
        """Return the first respect in which another tokenizer differs, in words; None if they are equal.

        Args:
            other: Tokenizer to compare with.
        """
        if self.digest == other.digest:
            return None
        if self.size != other.size:
            return f"the vocabulary has {other.size:,} tokens, not {self.size:,}"
        own_vocabulary, other_vocabulary = (
            tokenizer.backend.get_vocab(with_added_tokens=True) for tokenizer in (self, other)
        )
        if own_vocabulary != other_vocabulary:
            names_here, names_there = (
                {token: name for name, token in names.items()} for names in (own_vocabulary, other_vocabulary)
            )
            token = next(i for i in range(self.size) if names_here.get(i) != names_there.get(i))
            return f"token {token} is {names_there.get(token)!r}, not {names_here.get(token)!r}"
        for name, value in (("special ids", self.special), ("chat template", self.chat_template)):
            rival = other.special if name == "special ids" else other.chat_template
            if value != rival:
                return f"the {name} are {rival}, not {value}" if name == "special ids" else f"the {name} differs"
        member = next(name for name in (*self.model, *other.model) if self.model.get(name) != other.model.get(name))
        if member == "model":
            members = {*self.model[member], *other.model[member]}
            differing = [
                name for name in sorted(members) if self.model[member].get(name) != other.model[member].get(name)
            ]
            return f"the {' and '.join(differing)} of the model differ"
        return f"the {member.replace('_', ' ')} differs"


@contextmanager
def _library_errors(problem: str) -> Iterator[None]:
    """Turn what the tokenizers library raises into InvalidData; a panic of its Rust code is no Exception."""
    try:
        yield
    except (InvalidArgument, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  the library raises nothing narrower
        raise InvalidData(
            f"tokenizer: the tokenizers library {problem}, got {str(error)[:MAX_REASON]}; expected a tokenizer.json. "
            "Save it again with a recent version of transformers"
        ) from None


def _library() -> Any:
    """Return the library tokenizers.

    Raises:
        InvalidArgument: It is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise InvalidArgument(
            "text: the library tokenizers is not installed. Run pip install 'softlabels[language]'"
        ) from None
    return tokenizers
