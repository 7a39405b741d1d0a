"""Checks of a server before the first unit: its protocol, and that entry i of an answer belongs to token i.

Some servers score token i under the distribution of token i + 1. No request shows that by itself. But the distribution
of token i cannot depend on token i, and does depend on token i - 1: two prompts that differ in one token tell them
apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import TeacherRejected, TeacherUnavailable
from softlabels.models.servers.client import Client
from softlabels.models.servers.network import MALFORMED, ServerNetwork
from softlabels.models.servers.protocols import PROTOCOLS, TEMPERATURE, Protocol
from softlabels.text import Tokenizer

PROBED = 6
"""Tokens of a probe."""

MAX_RATIO = 0.25
"""Change of an entry by its own token, over the change by the token before; noise of kernels is far below."""

OTHER_TEMPERATURE = 2.0
MAX_DIFFERENCE = 0.1
"""Difference in nats that kernels of low precision may make."""

MAX_DIFFERING = 0.1
"""Share of tokens whose text may differ: libraries show special tokens and single bytes in several ways."""

Entry = tuple[NDArray[np.int64], NDArray[np.float64]]


def find_protocol(
    client: Client, model: str, ids: Sequence[int], count: int, tokenizer: Tokenizer | None = None
) -> Protocol:
    """Return the protocol that a server speaks.

    Args:
        client: Client of the server.
        model: Name of the model.
        ids: Token ids of a prompt.
        count: Number of log-probabilities per token.
        tokenizer: Local tokenizer, whose texts of the tokens must be those of the server; None: they are not compared.

    Raises:
        TeacherUnavailable: The server speaks none, or does not have the model.
        TeacherRejected: The server shows other texts for the same token ids.
    """
    for protocol in PROTOCOLS:
        value = client.post(protocol.path, protocol.body(model, ids, count, TEMPERATURE))
        try:
            entries = protocol.positions(value)
            texts = protocol.texts(value)
        except MALFORMED:
            continue
        if entries:
            if tokenizer is not None:
                _check_texts(client, tokenizer, texts)
            return protocol
    raise TeacherUnavailable(
        f"{client.url}: no prompt log-probabilities of {model!r}, got an answer without them; expected a server of "
        "vLLM or SGLang with this model. Correct the URL (vLLM's ends in /v1) or the name of the model"
    )


def check_server(network: ServerNetwork, ids: Sequence[int]) -> None:
    """Raise TeacherRejected unless entry i of an answer is the distribution of token i at temperature 1.

    Args:
        network: The server.
        ids: At least two distinct token ids, of which prompts are made.

    Raises:
        TeacherRejected: The entries are shifted, do not depend on the prompt, or are not at temperature 1.
        TeacherUnavailable: The server does not answer.
        InvalidLogits: An answer cannot be right.
    """
    prompt = (list(ids) * PROBED)[:PROBED]
    subject = "alignment probe"
    base = network.positions(prompt, subject)[-1]
    own = network.positions([*prompt[:-1], _other(ids, prompt[-1])], subject)[-1]
    before = network.positions([*prompt[:-2], _other(ids, prompt[-2]), prompt[-1]], subject)[-1]
    by_own, by_before = _change(base, own), _change(base, before)
    if not by_own <= MAX_RATIO * by_before:
        problem = "its own token" if by_own > 0 else "nothing"
        raise TeacherRejected(
            f"{network.client.url}: misaligned log-probabilities, got an entry that depends on {problem} (a change of "
            f"{by_own:.3g} nats by its own token, {by_before:.3g} by the token before); expected one that depends on "
            "the tokens before it alone. The server shifts its answers; use another one, or another version"
        )
    _check_temperature(network, prompt, base)


def _check_texts(client: Client, tokenizer: Tokenizer, texts: Mapping[int, str]) -> None:
    """Raise TeacherRejected if many tokens have another text on the server than in the local tokenizer.

    Texts of parts of characters, and of spaces, are shown in several ways, so they are not compared.
    """
    local = {token: tokenizer.decode([token]).strip() if token < tokenizer.size else "" for token in texts}
    compared = [token for token, text in texts.items() if text.strip() and "\ufffd" not in text + local[token]]
    differing = [token for token in compared if texts[token].strip() != local[token]]
    if len(differing) > MAX_DIFFERING * len(compared):
        token = differing[0]
        raise TeacherRejected(
            f"{client.url}: another tokenizer than the local one, got {texts[token]!r} for token {token}; expected "
            f"{local[token]!r}. Name the tokenizer of the server's model with tokenizer=DIR"
        )


def _check_temperature(network: ServerNetwork, prompt: list[int], base: Entry) -> None:
    """Raise unless a request at another temperature has the same values, or those of that temperature."""
    other = network.positions(prompt, "temperature probe", temperature=OTHER_TEMPERATURE)[-1]
    same, ids = _change(base, other), np.intersect1d(base[0], other[0])
    first, second = (dict(zip(entry[0].tolist(), entry[1].tolist(), strict=True)) for entry in (base, other))
    gaps = np.array([[first[token] - first[ids[0]], second[token] - second[ids[0]]] for token in ids.tolist()])
    scaled = np.abs(gaps[:, 0] - OTHER_TEMPERATURE * gaps[:, 1]).max() if len(ids) else np.inf
    if min(same, scaled) > MAX_DIFFERENCE:
        raise TeacherRejected(
            f"{network.client.url}: log-probabilities at an unknown temperature, got values that change by {same:.3g} "
            f"nats at temperature {OTHER_TEMPERATURE:g}, but not as softmax does; expected those of temperature 1. "
            "Turn off penalties and processors of the server"
        )


def _other(ids: Sequence[int], token: int) -> int:
    """Return another token than ``token``."""
    return next(other for other in ids if other != token)


def _change(first: Entry, second: Entry) -> float:
    """Return the mean difference of two entries in nats over the tokens that the first lists.

    A token that the second does not list has the least of its log-probabilities at most. The least of the first may be
    the prompt's own token, which is listed beside the likeliest, and is left out.
    """
    values = dict(zip(second[0].tolist(), second[1].tolist(), strict=True))
    least = float(second[1].min())
    pairs = list(zip(first[0].tolist(), first[1].tolist(), strict=True))[:-1]
    return float(np.mean([abs(values.get(token, least) - value) for token, value in pairs])) if pairs else 0.0
