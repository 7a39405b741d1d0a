"""Training of models that predict the next token: data, heads and losses.

Losses are means over the labelled positions whose next token belongs to the same document. Vocabularies of
``FUSED_CLASSES`` or more are trained through losses that never hold the logits of all positions.
"""

from __future__ import annotations

from dataclasses import replace

from softlabels.errors import InvalidArgument
from softlabels.models import DEFAULT_HEAD, Model, OutputHead
from softlabels.models.model import is_sliceable
from softlabels.models.spec import parse
from softlabels.models.transformers_source import locate
from softlabels.sources import Source
from softlabels.sources.store_tokens import StoreTokens, target_of_store
from softlabels.sources.text_source import TextSource
from softlabels.store import Store
from softlabels.text import Tokenizer, load_tokenizer
from softlabels.text.options import TextOptions
from softlabels.text.tokenizer_files import FILE as TOKENIZER_FILE

STATES = "states"
"""Name of the final states among the outputs of a network that is trained with fused losses."""

FUSED_CLASSES = 2**14


def is_language(source: Source) -> bool:
    """Return True if a source is text whose next tokens are predicted.

    Args:
        source: The data.
    """
    target = source.target_of_labels if isinstance(source, StoreTokens) else None
    return target == "next" or (isinstance(source, TextSource) and source.options.target == "next")


def options_of(labels: object, text: TextOptions | None) -> TextOptions | None:
    """Return options of text with the tokenizer of soft labels, and with what their heads belong to.

    Args:
        labels: Soft labels; only a store of text changes the options.
        text: Options that were chosen; None: the defaults.
    """
    document = labels.tokenizer_document() if isinstance(labels, Store) else None
    if document is None or not isinstance(labels, Store):
        return text
    text = replace(text or TextOptions(), target=target_of_store(labels))
    if text.tokenizer is not None:
        return text
    return replace(text, tokenizer=Tokenizer.from_bytes(document), from_store=True)


def tokenizer_of(source: Source) -> Tokenizer | None:
    """Return the tokenizer of a source; None for data that is not text.

    Args:
        source: The data.
    """
    return source.tokenizer if isinstance(source, TextSource | StoreTokens) else None


def heads_of(source: Source) -> dict[str, OutputHead]:
    """Return the head that predicts the next token of a text.

    Args:
        source: Text with a tokenizer.

    Raises:
        InvalidArgument: There is no tokenizer, so the number of tokens is unknown.
    """
    tokenizer = tokenizer_of(source)
    if tokenizer is None:
        raise InvalidArgument(f"{source.spec}: no tokenizer, got token ids alone; expected text with a tokenizer")
    return {DEFAULT_HEAD: OutputHead(classes=tokenizer.size, kind="tokens", shape=(None,))}


def check_student(student: object, source: Source) -> None:
    """Raise InvalidArgument if a student that comes with a tokenizer has another one than the text.

    Args:
        student: MODEL specification, or a network.
        source: The data.

    Raises:
        InvalidArgument: The tokenizers differ; says in which respect.
    """
    kind = str(student).partition(":")[0]
    tokenizer = tokenizer_of(source)
    if not isinstance(student, str) or kind != "hf" or tokenizer is None:
        return
    folder = locate(parse(student), pinned=True).folder
    if not (folder / TOKENIZER_FILE).exists():
        return
    difference = tokenizer.difference(load_tokenizer(folder))
    if difference is not None:
        raise InvalidArgument(
            f"student {student!r}: another tokenizer than the labels, got one where {difference}; expected the "
            "tokenizer of the labels. Choose a student with that tokenizer, or remove the files of its own"
        )


def uses_states(model: Model) -> bool:
    """Return True if a network is trained through its final states, without the logits of all positions.

    Args:
        model: The model.
    """
    return (
        model.heads[text_head(model)].classes >= FUSED_CLASSES
        and is_sliceable(model.module)
        and hasattr(model.module, "output_weight")
    )


def text_head(model: Model) -> str:
    """Return the name of the head that predicts tokens; of several heads, others hold hidden states.

    Args:
        model: A model that predicts the next token.
    """
    return next((name for name, head in model.heads.items() if head.kind == "tokens"), next(iter(model.heads)))
