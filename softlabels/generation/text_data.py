"""Text on its way to a teacher: the tokenizer of the teacher, checks of both, and the text's own tokens as a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from softlabels.errors import InvalidArgument
from softlabels.models import Model, ModelLike, OutputHead, as_model, needs_sample
from softlabels.models.sliced_logits import SlicedLogits
from softlabels.models.spec import kind_of
from softlabels.sources import DataLike, DistinctSource, Ragged, Source, as_source
from softlabels.sources.request import DataOptions
from softlabels.sources.text_source import TextSource
from softlabels.text import Tokenizer, next_tokens
from softlabels.text.options import TextOptions

CHOSEN = "chosen"
"""Head of the log-probability that the teacher gives the text's own next token."""

CHOSEN_HEAD = OutputHead(classes=1, kind="regression", shape=(None,))
CHOSEN_ENCODING = "dense:f16"
"""Default encoding of that head: 2 bytes per token, an error of 2^-11 of the log-probability."""

BATCH_TOKENS = 2**14
"""Tokens of a batch of text, on average."""


def open_for_teacher(
    data: DataLike,
    teacher: ModelLike,
    *,
    text: TextOptions | None = None,
    **options: Unpack[DataOptions],
) -> tuple[Source, ModelLike]:
    """Return the source of the data, as text if the teacher has a tokenizer or options of text are given.

    Args:
        data: Anything ``as_source`` takes.
        teacher: The teacher; one that was saved is loaded, because its tokenizer decides the tokens.
        text: Options of text; None: the defaults, if the teacher has a tokenizer.
        options: Roles of columns; see ``softlabels.sources.open_source``.

    Returns:
        The source, and the teacher, loaded if that was needed.

    Raises:
        InvalidArgument: The options name another tokenizer than the teacher's.
    """
    if isinstance(teacher, str) and not needs_sample(teacher) and kind_of(teacher).load is not None:
        teacher = as_model(teacher)
    if isinstance(teacher, Model) and teacher.tokenizer is not None and not isinstance(data, Source):
        text = _with_tokenizer(text or TextOptions(), teacher, teacher.tokenizer)
    return as_source(data, text=text, **options), teacher


def text_of(source: Source) -> TextSource | None:
    """Return the text of a source, also if its repeated rows are left out; None for other data.

    Args:
        source: The data.
    """
    if isinstance(source, DistinctSource):
        source = source.original
    return source if isinstance(source, TextSource) else None


def check_text(source: Source, teacher: Model) -> None:
    """Raise unless a teacher can take a text; do nothing for other data.

    Args:
        source: The data.
        teacher: The model.

    Raises:
        InvalidArgument: The teacher has fewer tokens than the tokenizer, or labels something else than the source does.
        InvalidData: A row has more tokens than the teacher has positions; names it.
    """
    text_source = text_of(source)
    if text_source is None:
        return
    vocabulary = teacher.config.get("vocabulary")
    widths = [head.classes for head in teacher.heads.values() if head.kind == "tokens" and teacher.target == "next"]
    width = min([*widths, *([vocabulary] if isinstance(vocabulary, int) else [])], default=None)
    if width is not None and text_source.tokenizer.size > width:
        raise InvalidArgument(
            f"{teacher.spec}: fewer tokens than the tokenizer, got {width:,}; expected at least "
            f"{text_source.tokenizer.size:,}. Use the tokenizer that the teacher was trained with"
        )
    if text_source.options.target != teacher.target:
        raise InvalidArgument(
            f"{teacher.spec}: labels each {teacher.target}, got text prepared for labels of each "
            f"{text_source.options.target}; expected TextOptions(target={teacher.target!r})"
        )
    limit = getattr(teacher.module, "max_positions", None)
    if isinstance(limit, int):
        text_source.check_positions(limit, teacher.spec)


def rows_of_batch(source: Source, batch_size: int) -> int:
    """Return the rows that a teacher sees at a time: ``batch_size``, and of text about ``BATCH_TOKENS`` tokens.

    Args:
        source: The data.
        batch_size: Rows at a time.
    """
    text = text_of(source)
    if text is None:
        return batch_size
    return min(batch_size, max(1, BATCH_TOKENS * len(text) // text.tokens))


def chosen_log_probs(predictions: Mapping[str, Tensor | SlicedLogits], inputs: Any) -> Tensor:
    """Return the log-probability of the text's own next token at each labelled position, (P, 1) float32.

    Args:
        predictions: Outputs of a teacher that predicts the next token.
        inputs: Token rows of the batch.

    Raises:
        InvalidArgument: The inputs are not rows of tokens with marks.
    """
    if not isinstance(inputs, Ragged) or inputs.marks is None:
        raise InvalidArgument("chosen: needs text whose next tokens are predicted, got other inputs; expected text")
    following = torch.from_numpy(
        next_tokens(*(np.asarray(a) for a in (inputs.values, inputs.lengths, inputs.marks)))[0]
    )
    logits = next(output for output in predictions.values() if output.ndim == 2)
    slices = logits.slices() if isinstance(logits, SlicedLogits) else [(slice(None), logits)]
    chosen = [
        values.float().log_softmax(dim=-1).gather(1, following[selected].to(values.device)[:, None]).cpu()
        for selected, values in slices
    ]
    return torch.cat(chosen) if chosen else torch.empty(0, 1)


def _with_tokenizer(text: TextOptions, teacher: Model, tokenizer: Tokenizer) -> TextOptions:
    """Return options with the tokenizer and the target of a teacher."""
    if text.tokenizer is not None:
        from softlabels.text import as_tokenizer

        difference = tokenizer.difference(as_tokenizer(text.tokenizer))
        if difference is not None:
            raise InvalidArgument(
                f"tokenizer: differs from that of {teacher.spec}, got one where {difference}; expected the tokenizer "
                "of the teacher. Leave out tokenizer="
            )
    return replace(text, tokenizer=tokenizer, target=teacher.target)
