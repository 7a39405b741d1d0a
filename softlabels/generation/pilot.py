"""What is settled by a pilot before a store is made, or taken over from one: what a target comes to, and codebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softlabels import encodings, planning
from softlabels.encodings import Adaptive, TopK, codebook
from softlabels.encodings.codebook import MAX_CODEBOOK_BYTES
from softlabels.errors import InvalidArgument
from softlabels.labels import Head
from softlabels.store.format.codebooks import digest_of
from softlabels.store.format.descriptor import find_descriptor
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.storage import Location

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_ROWS = 512
"""Of a pilot that targets are measured on, evenly spread; a vocabulary of 50,000 takes 100 MiB."""

USUAL_POSITIONS = 1024
"""Positions a ragged row is taken to have, when a key's bytes are shared out and units are sized."""

Pilot = Callable[[], "Iterable[Tensor] | Tensor | NDArray[Any] | None"]


def existing_heads(location: Location) -> Mapping[str, Head]:
    """Return the heads of a store; empty if there is no store at ``location``."""
    descriptor = find_descriptor(open_storage(location))
    return {} if descriptor is None else descriptor.heads


def found_encoding(head: Head, existing: Head | None, pilot: Pilot, codec: str) -> str:
    """The canonical encoding of ``head``, also where it names what is to be reached.

    Args:
        head: of a store that grows.
        existing: the same head of the store that is there already; what a target came to is taken over.
        pilot: gives (n, C) logits.
        codec: of the shards.

    Raises:
        InvalidArgument: no such encoding; no pilot for a target; or a target that no encoding reaches.
    """
    import torch

    if not planning.is_target(head.encoding):
        return encodings.parse(head.encoding, classes=head.classes).spec
    if head.encoding.startswith("auto:budget"):
        raise InvalidArgument(
            f"{head.encoding!r} divides a size among rows, and nobody knows how many this store will have; ask for "
            "bytes a row instead, such as adaptive:bytes=20 or threshold:bytes=20"
        )
    if existing is not None:
        return existing.encoding
    given = pilot()
    if given is None:
        raise InvalidArgument(
            f"{head.encoding!r} is found before the first row: give sl.create a pilot, (n, C) logits of some hundred "
            "rows"
        )
    logits = torch.as_tensor(given) if isinstance(given, np.ndarray | torch.Tensor) else torch.cat(list(given))
    if logits.ndim != 2 or logits.shape[1] != head.classes:
        raise InvalidArgument(f"a pilot of shape {tuple(logits.shape)}, where (n, {head.classes}) is expected")
    chosen = np.unique(np.linspace(0, len(logits) - 1, num=SAMPLE_ROWS).astype(np.int64))
    sample = planning.Sample(
        logits=logits[torch.from_numpy(chosen)].float().cpu().numpy(),
        temperatures=head.temperatures,
        items=len(logits),
        rows=max(1, len(logits) // USUAL_POSITIONS) if head.ragged else len(logits),
        codec=codec,
        kind=head.kind,
    )
    return planning.resolve(head.encoding, sample)


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
    size, most = 4 * encoding.priors * head.classes * len(head.temperatures), MAX_CODEBOOK_BYTES
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
