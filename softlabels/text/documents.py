"""Documents to tokens: plain text, pairs of texts, and chats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.text.chat import encode_chat
from softlabels.text.corpus import Tokens
from softlabels.text.options import TextOptions
from softlabels.text.tokenizer import Tokenizer

Encode = Callable[[Sequence[Any], int], list[Tokens]]
"""Maps documents, and the row of the first, to the ids of each and a mask of the tokens of responses."""


def text_encoder(tokenizer: Tokenizer, options: TextOptions, where: str) -> Encode:
    """Return the function that tokenises plain text.

    Text whose next token is predicted ends in the end-of-text token, unless it was truncated.

    Args:
        tokenizer: The tokenizer.
        options: Options of the text.
        where: First words of messages.

    Raises:
        InvalidArgument: Rows are packed, and the tokenizer has no end-of-text token to separate documents.
    """
    end = require_end(tokenizer, options, where)

    def encode(texts: Sequence[Any], first: int) -> list[Tokens]:
        check_texts(texts, first, where)
        rows = tokenizer.encode(texts, max_tokens=options.max_tokens)
        return [(_with_end(ids, end, options.max_tokens), None) for ids in rows]

    return encode


def pair_encoder(tokenizer: Tokenizer, options: TextOptions, where: str) -> Encode:
    """Return the function that tokenises pairs of texts.

    With ``mask`` a pair is a prompt and its response, joined and ended by the end-of-text token. Otherwise it is joined
    as the tokenizer joins pairs, and the mask is set at the tokens of the second text.

    Args:
        tokenizer: The tokenizer.
        options: Options of the text.
        where: First words of messages.
    """
    end = require_end(tokenizer, options, where)

    def encode(pairs: Sequence[Any], first: int) -> list[Tokens]:
        for pair in pairs:
            check_texts(pair, first, where, step=0)
            first += 1
        if options.mask is None:
            return list(tokenizer.encode_pairs([(pair[0], pair[1]) for pair in pairs], max_tokens=options.max_tokens))
        prompts = tokenizer.encode([pair[0] for pair in pairs])
        responses = tokenizer.encode([pair[1] for pair in pairs], special=False)
        rows: list[Tokens] = []
        for prompt, response in zip(prompts, responses, strict=True):
            ids = np.concatenate([prompt, response] if end is None else [prompt, response, [end]])[: options.max_tokens]
            rows.append((ids, np.arange(len(ids)) >= len(prompt)))
        return rows

    return encode


def chat_encoder(tokenizer: Tokenizer, options: TextOptions, where: str) -> Encode:
    """Return the function that tokenises chats by the template of the tokenizer.

    Args:
        tokenizer: The tokenizer.
        options: Options of the text.
        where: First words of messages.

    Raises:
        InvalidArgument: The template came with a store.
        InvalidData: A chat cannot be rendered, or has no response although only responses are labelled; names the row.
    """
    if options.from_store and tokenizer.chat_template is not None:
        raise InvalidArgument(
            f"{where}: chats are rendered by a template, got that of the store, which is code; expected one that you "
            "trust. Train from the tokens in the store, without data=, or name the tokenizer with tokenizer="
        )

    def encode(chats: Sequence[Any], first: int) -> list[Tokens]:
        rows: list[Tokens] = []
        for row, messages in enumerate(chats, first):
            ids, written = encode_chat(tokenizer, messages, f"{where}, row {row}")
            ids, written = ids[: options.max_tokens], written[: options.max_tokens]
            if options.mask is not None and not written.any():
                raise InvalidData(
                    f"{where}, row {row}: no response to label, got no message of the assistant; expected one, because "
                    "prompts are masked. Remove the row, or leave out mask="
                )
            rows.append((ids, written if options.mask is not None else None))
        return rows

    return encode


def require_end(tokenizer: Tokenizer, options: TextOptions, where: str) -> int | None:
    """Return the token that ends documents; None if the labels do not belong to next tokens.

    Args:
        tokenizer: The tokenizer.
        options: Options of the text.
        where: First words of messages.

    Raises:
        InvalidArgument: Rows are packed, and the tokenizer has no such token.
    """
    if options.target != "next":
        return None
    if tokenizer.end is None and options.pack is not None:
        raise InvalidArgument(
            f"{where}: the tokenizer has no end-of-text token to separate packed documents; expected eos_token in "
            "tokenizer_config.json. Add it, or leave out pack="
        )
    return tokenizer.end


def check_texts(texts: Sequence[Any], first: int, where: str, *, step: int = 1) -> None:
    """Raise InvalidData unless all values are texts that are not empty.

    Args:
        texts: Values of a column.
        first: Row of the first.
        where: First words of messages.
        step: Rows from one value to the next; 0 if all belong to one row.
    """
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            shown = "null" if text is None else "an empty text" if text == "" else type(text).__name__
            raise InvalidData(
                f"{where}, row {first + number * step}: not a text, got {shown}; expected characters. Remove the row"
            )


def _with_end(ids: NDArray[np.int64], end: int | None, max_tokens: int | None) -> NDArray[np.int64]:
    """Return the ids with the end-of-text token, unless they have it or were truncated."""
    if end is None or (len(ids) and ids[-1] == end) or (max_tokens is not None and len(ids) >= max_tokens):
        return ids
    return np.append(ids, end)
