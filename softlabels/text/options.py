"""Options of text: the documents of a file, their rows, and the tokens that are labelled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, get_args

from softlabels.errors import InvalidArgument
from softlabels.text.rows import MIN_TOKENS
from softlabels.text.tokenizer import Tokenizer

Documents = Literal["file", "line", "blank"]
Mask = Literal["prompt"]
Target = Literal["next", "token", "row"]


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options that turn text into rows of tokens.

    Attributes:
        tokenizer: Specification (``bpe:8192`` is trained on the text, or a directory with a ``tokenizer.json``), or a
            Tokenizer. None: the tokenizer of the teacher.
        documents: Documents of a .txt file: the ``file`` is one, or each ``line``, or paragraphs between ``blank``
            lines. Blank lines are no documents.
        pack: Tokens of a row that documents fill one after the other; None: one row per document.
        mask: ``prompt`` to label only the tokens of responses: those of the assistant in a chat, or the second of two
            columns. None: all tokens are labelled.
        max_tokens: Longer documents are truncated to this; None: documents are never truncated.
        target: What labels belong to: the ``next`` token of each position, each ``token`` itself, or the ``row``.
        from_store: True if the tokenizer came with a store. A store is untrusted, so its chat template is not run.

    Raises:
        InvalidArgument: An option is out of range, or options exclude one another.

    Example:
        >>> TextOptions(tokenizer="bpe:8192", pack=256).documents
        'file'
    """

    tokenizer: str | Tokenizer | None = None
    documents: Documents = "file"
    pack: int | None = None
    mask: Mask | None = None
    max_tokens: int | None = None
    target: Target = "next"
    from_store: bool = False

    def __post_init__(self) -> None:
        for name, value, kind in (("documents", self.documents, Documents), ("target", self.target, Target)):
            if value not in get_args(kind):
                raise InvalidArgument(f"{name}: unknown, got {value!r}; expected {', '.join(get_args(kind))}")
        if self.mask is not None and self.mask not in get_args(Mask):
            raise InvalidArgument(f"mask: unknown, got {self.mask!r}; expected {', '.join(get_args(Mask))}")
        for name, number in (("pack", self.pack), ("max_tokens", self.max_tokens)):
            if number is not None and number < MIN_TOKENS:
                raise InvalidArgument(f"{name}: too small, got {number} tokens; expected {MIN_TOKENS} at least")
        if self.target != "next" and (self.pack is not None or self.mask is not None):
            raise InvalidArgument(
                f"pack and mask: are for models that predict the next token, got a model that labels each {self.target}"
            )

    def settings(self, tokenizer: Tokenizer, kind: str) -> str:
        """Return everything but the documents that decides the tokens, as text.

        Args:
            tokenizer: The tokenizer.
            kind: Kind of the documents: text, pairs or chats.
        """
        ends = self.target == "next"
        return json.dumps([tokenizer.digest, kind, self.mask, self.max_tokens, ends])
