"""A server behind the interface of a network: token rows in, listed log-probabilities out.

Each document of a row is a request of its own, and several requests are under way at a time. A labelled token at the
end of a document predicts beyond it, so the token that follows in the row is appended to the request: a causal model
does not see it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabels.errors import InvalidLogits, TeacherUnavailable
from softlabels.models.listed_logits import ListedLogits
from softlabels.models.servers.client import Client
from softlabels.models.servers.protocols import TEMPERATURE, Position, Protocol
from softlabels.sources import Ragged
from softlabels.text import LABELLED, START

MAX_SUM = 1.001
"""Upper bound of the sum of a position's probabilities; rounding adds less than a thousandth."""

MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
MAX_SHOWN = 5


@dataclass(frozen=True)
class Request:
    """A prompt, and the entries of its answer that are needed.

    Attributes:
        row: Row of the batch, for messages.
        ids: Token ids of the prompt.
        entries: Indices of the entries, ascending.
    """

    row: int
    ids: list[int]
    entries: list[int]


class ServerNetwork(nn.Module):
    """A causal language model on a server.

    Args:
        client: Client of the server.
        protocol: Protocol that the server speaks.
        model: Name of the model on the server.
        classes: Number of token ids C.
        count: Number K of the likeliest tokens that are requested.
        concurrency: Number of requests at a time.
        max_positions: Number of tokens of the longest prompt; None if the server does not tell.
    """

    predicts_next = True

    def __init__(
        self,
        client: Client,
        protocol: Protocol,
        *,
        model: str,
        classes: int,
        count: int,
        concurrency: int,
        max_positions: int | None = None,
    ) -> None:
        super().__init__()
        self.client = client
        self.protocol = protocol
        self.model = model
        self.classes = classes
        self.count = count
        self.concurrency = concurrency
        self.max_positions = max_positions

    def listed_logits(self, tokens: Ragged) -> ListedLogits:
        """Return the log-probabilities of the labelled positions, (P, C).

        Args:
            tokens: Token ids of B rows, with marks.

        Raises:
            TeacherUnavailable: The server cannot be reached, or does not answer in its protocol.
            InvalidLogits: An answer has other positions or tokens than the prompt, or values that are no
                log-probabilities; names the row.
        """
        requests = requests_of(tokens)
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="softlabels-server") as pool:
            futures = [pool.submit(self.positions, request.ids, f"row {request.row} of the batch")
                       for request in requests]  # fmt: skip
            try:
                answers = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        listed = [answer[entry - 1] for request, answer in zip(requests, answers, strict=True)
                  for entry in request.entries]  # fmt: skip
        width = max([self.count, *(len(ids) for ids, _ in listed)])
        ids = np.zeros((len(listed), width), np.int64)
        log_probs = np.full((len(listed), width), -np.inf)
        for row, (tokens_of_row, values) in enumerate(listed):
            ids[row, : len(tokens_of_row)], log_probs[row, : len(values)] = tokens_of_row, values
        return ListedLogits(
            torch.from_numpy(ids), torch.from_numpy(log_probs), classes=self.classes, count=self.count
        )  # fmt: skip

    def forward(self, tokens: Ragged) -> Tensor:
        """Return the logits of the labelled positions, (P, C), with the unlisted mass spread evenly.

        Args:
            tokens: Token ids of B rows, with marks.
        """
        return self.listed_logits(tokens)[:]

    def positions(
        self, ids: Sequence[int], subject: str, *, temperature: float = TEMPERATURE
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Return the tokens and log-probabilities of the entries 1 to n - 1 of a prompt, the likeliest first.

        Args:
            ids: Token ids of the prompt, (n,).
            subject: First words of messages.
            temperature: Temperature of the request.

        Raises:
            TeacherUnavailable: As for ``listed_logits``.
            InvalidLogits: As for ``listed_logits``.
        """
        value = self.client.post(self.protocol.path, self.protocol.body(self.model, ids, self.count, temperature))
        try:
            entries = self.protocol.positions(value)
        except MALFORMED as error:
            raise TeacherUnavailable(
                f"{self.client.url}: not an answer of the protocol {self.protocol.name}, got "
                f"{type(error).__name__}: {error}; expected prompt log-probabilities. Correct the URL or the server"
            ) from None
        if len(entries) != len(ids):
            raise InvalidLogits(
                f"{subject}: the server returned another number of positions, got {len(entries)}; expected {len(ids)}. "
                "Does it tokenise the prompt again, or truncate it?"
            )
        return [self._checked(entry, token, f"{subject}, token {index}")
                for index, (entry, token) in enumerate(zip(entries, ids, strict=True)) if index]  # fmt: skip

    def _checked(
        self, entry: Position | None, token: int, subject: str
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return an entry as arrays, the likeliest first; raise if it cannot be right."""
        if entry is None or token not in entry:
            shown = "none" if entry is None else ", ".join(map(str, list(entry)[:MAX_SHOWN]))
            raise InvalidLogits(
                f"{subject}: the server answers for other tokens, got {shown}; expected token {token} of the prompt "
                "among them. Does the server have another tokenizer?"
            )
        ids, values = np.array(list(entry), np.int64), np.array(list(entry.values()))
        if np.isnan(values).any() or (values > math.log(MAX_SUM)).any() or np.exp(values).sum() > MAX_SUM:
            raise InvalidLogits(
                f"{subject}: the values are no log-probabilities at temperature 1, got "
                f"{', '.join(f'{value:.4g}' for value in values[:MAX_SHOWN])}, ...; expected numbers below 0 whose "
                "exponentials sum to 1 at most"
            )
        if ids.min() < 0 or ids.max() >= self.classes:
            raise InvalidLogits(
                f"{subject}: token id out of range, got {int(ids.max())}; expected ids below {self.classes:,}. Name "
                "the width of the model's head with classes=N, or use its tokenizer"
            )
        if len(ids) < min(self.count, self.classes):
            raise InvalidLogits(
                f"{subject}: fewer tokens than requested, got {len(ids)}; expected {self.count}. Does the server limit "
                "them (vLLM: --max-logprobs)? Otherwise request fewer with k=N"
            )
        order = np.argsort(-values, kind="stable")
        return ids[order], values[order]


def requests_of(tokens: Ragged) -> list[Request]:
    """Return the prompts of token rows, one per document with a labelled position.

    Args:
        tokens: Token ids of B rows; without marks each row is a document, and all but its last token are labelled.
    """
    values = np.asarray(tokens.values, dtype=np.int64)
    lengths = np.asarray(tokens.lengths, dtype=np.int64)
    marks = np.full(len(values), LABELLED, np.uint8) if tokens.marks is None else np.asarray(tokens.marks)
    requests = []
    for row, (end, length) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        first = end - length
        starts = first + np.flatnonzero(marks[first:end] & START)
        bounds = np.unique(np.concatenate([[first], starts, [end]]))
        for start, stop in itertools.pairwise(bounds):
            labelled = np.flatnonzero(marks[start:stop] & LABELLED)
            if len(labelled) == 0:
                continue
            prompt = values[start : min(stop + 1, end)] if labelled[-1] == stop - start - 1 else values[start:stop]
            if labelled[-1] + 1 == len(prompt):  # the last token of a row has nothing after it
                prompt = np.append(prompt, prompt[-1])
            requests.append(Request(row, prompt.tolist(), (labelled + 1).tolist()))
    return requests
