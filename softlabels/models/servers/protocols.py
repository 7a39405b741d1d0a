"""Protocols of servers that return the log-probabilities of a prompt's tokens.

``vllm`` is ``POST completions`` with ``prompt_logprobs``, as vLLM extends the protocol of OpenAI. ``sglang`` is
``POST /generate`` with ``return_logprob``. Both take token ids. An answer has one entry per token of the prompt. Entry
i is the distribution of token i given the tokens before it, so entry 0 is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Position: TypeAlias = "dict[int, float]"
"""Log-probabilities of the likeliest tokens by id, and of the prompt's own token."""

TEMPERATURE = 1.0


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to request the log-probabilities of a prompt.

    Attributes:
        name: Name of the protocol.
        path: Path of the requests; see Client.
        body: Maps (model, token ids, K, temperature) to the JSON body of a request.
        positions: Maps the JSON value of an answer to its entries, None for an empty one; raises KeyError, TypeError,
            ValueError, IndexError or AttributeError if the value is not of this protocol.
        texts: Maps such a value to the texts of the tokens that it shows, by id; empty if it shows none.
    """

    name: str
    path: str
    body: Callable[[str, Sequence[int], int, float], dict[str, Any]]
    positions: Callable[[Any], list[Position | None]]
    texts: Callable[[Any], dict[int, str]]


def _vllm_body(model: str, ids: Sequence[int], count: int, temperature: float) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": temperature,
        "prompt_logprobs": count,
        "add_special_tokens": False,
    }


def _vllm_positions(value: Any) -> list[Position | None]:
    entries = value["choices"][0]["prompt_logprobs"]
    return [
        None if entry is None else {int(token): float(shown["logprob"]) for token, shown in entry.items()}
        for entry in entries
    ]


def _vllm_texts(value: Any) -> dict[int, str]:
    entries = (entry.items() for entry in value["choices"][0]["prompt_logprobs"] if entry)
    shown = {int(token): entry.get("decoded_token") for items in entries for token, entry in items}
    return {token: text for token, text in shown.items() if isinstance(text, str)}


def _sglang_body(model: str, ids: Sequence[int], count: int, temperature: float) -> dict[str, Any]:
    return {
        "model": model,
        "input_ids": list(ids),
        "sampling_params": {"max_new_tokens": 1, "temperature": temperature},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": count,
        "return_text_in_logprobs": True,
    }


def _sglang_positions(value: Any) -> list[Position | None]:
    answer = value["meta_info"]
    positions: list[Position | None] = []
    for own, top in zip(answer["input_token_logprobs"], answer["input_top_logprobs"], strict=True):
        if own[0] is None:
            positions.append(None)
        else:
            positions.append({int(entry[1]): float(entry[0]) for entry in [*(top or []), own]})
    return positions


def _sglang_texts(value: Any) -> dict[int, str]:
    shown = {int(entry[1]): entry[2] for entry in value["meta_info"]["input_token_logprobs"]}
    return {token: text for token, text in shown.items() if isinstance(text, str)}


PROTOCOLS = (
    Protocol(name="vllm", path="completions", body=_vllm_body, positions=_vllm_positions, texts=_vllm_texts),
    Protocol(name="sglang", path="/generate", body=_sglang_body, positions=_sglang_positions, texts=_sglang_texts),
)
"""Protocols in the order in which they are tried."""
