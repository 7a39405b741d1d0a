"""Codebooks of tail priors for a store that is about to be made: taken over from where there are some, or fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels import encodings
from softlabels.encodings import codebook
from softlabels.encodings.codebook import MOST_BYTES
from softlabels.encodings.topk import Adaptive, TopK
from softlabels.errors import InvalidArgument, StoreNotFound
from softlabels.labels import Head
from softlabels.store.codebooks import digest_of
from softlabels.store.snapshots import open_root

if TYPE_CHECKING:
    from torch import Tensor

Pilot = Callable[[], "Iterable[Tensor] | Tensor | NDArray[Any] | None"]


def existing_heads(path: str | Path) -> Mapping[str, Head]:
    """Heads of the store at ``path``; none where there is no store."""
    try:
        return open_root(path)[1].heads
    except StoreNotFound:
        return {}


def with_codebook(head: Head, existing: Head | None, pilot: Pilot, seed: int) -> tuple[Head, encodings.Codebook | None]:
    """``head`` with the codebook its encoding asks for, and that codebook where it is a new one.

    Args:
        head: with a canonical encoding.
        existing: the same head of a store whose codebook is to be used again, if its encoding is the same.
        pilot: gives logits of a few thousand rows; called only where a codebook is to be fitted.
        seed: of the store.

    Raises:
        InvalidArgument: no pilot, or too small a one, or a codebook that would be too large.
    """
    import torch

    encoding = encodings.parse(head.encoding, classes=head.classes)
    if not isinstance(encoding, TopK | Adaptive) or encoding.priors == 1:
        return head, None
    size, most = 4 * encoding.priors * head.classes * len(head.temperatures), MOST_BYTES
    if size > most:
        raise InvalidArgument(
            f"{encoding.spec} needs a codebook of {size:,} bytes for {head.classes:,} classes at "
            f"{len(head.temperatures)} temperatures, where at most {most:,} are allowed; ask for "
            f"{most * encoding.priors // size} tail priors or fewer"
        )
    if existing is not None and existing == replace(head, codebook=existing.codebook):
        return existing, None
    given = pilot()
    if given is None:
        raise InvalidArgument(
            f"{encoding.spec} chooses from {encoding.priors} tail priors, which are fitted before the first row: give "
            "sl.create a pilot, (n, C) logits of a few thousand rows"
        )
    if isinstance(given, np.ndarray | torch.Tensor):
        given = torch.split(torch.as_tensor(given), 512)
    fitted = codebook.fit(encoding, head, given, seed=seed)
    return replace(head, codebook=digest_of(fitted)), fitted
