"""Heads of teachers that list the likeliest classes alone, such as servers.

Their labels are exact in ``topk:K`` at temperature 1. Any other encoding would store classes that the teacher did not
return, and any other temperature needs the logits of all classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from softlabels import encodings, planning
from softlabels.encodings import TopK
from softlabels.errors import InvalidArgument
from softlabels.generation.settings import Settings
from softlabels.labels import Head
from softlabels.models import Model


def encoding_of(model: Model, settings: Settings) -> str | Mapping[str, str] | None:
    """Return the encoding of a run; by default ``topk:K`` for a teacher that lists K classes.

    Args:
        model: The teacher.
        settings: Settings of the run.
    """
    if model.listed is None or settings.encoding is not None:
        return settings.encoding
    return f"topk:{model.listed}"


def listed_heads(heads: Mapping[str, Head], model: Model) -> Mapping[str, Head]:
    """Return the heads of a store; those of a teacher that lists classes say that the rest is unknown.

    Args:
        heads: Heads by name.
        model: The teacher.

    Raises:
        InvalidArgument: An encoding or a temperature needs more than the teacher lists.
    """
    if model.listed is None:
        return heads
    return {name: head if name not in model.heads else _listed(name, head, model) for name, head in heads.items()}


def require_logits(model: Model) -> None:
    """Raise InvalidArgument if a teacher lists classes alone, so that nothing can be planned with its logits.

    Args:
        model: The teacher.

    Raises:
        InvalidArgument: The teacher lists classes alone.
    """
    if model.listed is not None:
        raise InvalidArgument(
            f"{model.spec}: no logits to plan with, got the {model.listed} likeliest classes of each position; "
            f"expected all logits. Its encoding is topk:{model.listed} or a smaller list"
        )


def _listed(name: str, head: Head, model: Model) -> Head:
    listed = model.listed or 0
    encoding = None if planning.is_target(head.encoding) else encodings.parse(head.encoding, classes=head.classes)
    if not isinstance(encoding, TopK) or encoding.k > listed or encoding.priors > 1:
        raise InvalidArgument(
            f"head {name!r}: the teacher returns the {listed} likeliest classes alone, got encoding {head.encoding!r}; "
            f"expected topk:{listed} or a smaller list"
        )
    if head.temperatures != (1.0,):
        raise InvalidArgument(
            f"head {name!r}: the teacher returns log-probabilities at temperature 1 alone, got temperatures "
            f"{', '.join(f'{value:g}' for value in head.temperatures)}; expected 1, because others need all logits"
        )
    return replace(head, tail="uniform")
