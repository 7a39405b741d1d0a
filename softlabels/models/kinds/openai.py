"""``openai:URL#MODEL``: a language model on a server that returns the log-probabilities of a prompt's tokens.

For servers of vLLM and SGLang. Labels are the K likeliest tokens of each position at temperature 1, and the mass of the
others. The digest covers the name of the model and its tokenizer; the weights of a server cannot be read, so a resumed
run compares a few stored rows with what the server returns now.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from softlabels.errors import DataNotFound, InvalidArgument
from softlabels.models.digest import digest_of
from softlabels.models.heads import DEFAULT_HEAD, OutputHead
from softlabels.models.kind import Kind, ModelSpec, Option
from softlabels.models.model import Model
from softlabels.models.servers import Client, ServerNetwork, check_server
from softlabels.models.servers.probe import find_protocol
from softlabels.models.spec_options import check_number, split_options
from softlabels.models.user_code import CodeIdentity
from softlabels.text import Tokenizer, load_tokenizer

FORM = "openai:URL#MODEL,tokenizer=DIR"
NUMBERS = {
    "k": Option(default=20, maximum=4096),
    "concurrency": Option(default=16, maximum=1024),
    "deadline": Option(default=600, maximum=86_400),
    "classes": Option(default=0, minimum=0, maximum=2**31 - 1),
}
PROBE_TEXT = "The quick brown fox jumps over the lazy dog."
COVERS = ("name of the model on its server, not its weights", "tokenizer")


def load(spec: ModelSpec, sample: Any) -> Model:
    """Return the model of a server that passed the alignment probe."""
    address, options = split_options(spec, (*NUMBERS, "tokenizer"))
    url, _, name = address.partition("#")
    _check_url(url, name, str(spec))
    numbers = {key: int(check_number(str(spec), key, options.get(key), option)) for key, option in NUMBERS.items()}
    tokenizer = _tokenizer(options.get("tokenizer"), str(spec))
    classes = numbers["classes"] or tokenizer.size
    client = Client(url, deadline=numbers["deadline"], connections=numbers["concurrency"])
    ids = _probe_ids(tokenizer)
    limit = _max_tokens(client, name)
    count = min(numbers["k"], classes)
    network = ServerNetwork(
        client,
        find_protocol(client, name, ids, count, tokenizer),
        model=name,
        classes=classes,
        count=count,
        concurrency=numbers["concurrency"],
        max_positions=limit,
    )
    check_server(network, ids)
    config = {"kind": KIND.name, "version": KIND.version, "model": name, "tokenizer": tokenizer.digest}
    return Model(
        spec=str(spec),
        module=network,
        heads={DEFAULT_HEAD: OutputHead(classes=classes, kind="tokens", shape=(None,))},
        input_shape=(),
        config=config,
        identity=CodeIdentity(digest_of(config, {}), COVERS),
        tokenizer=tokenizer,
    )


def _check_url(url: str, name: str, spec: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not name:
        raise InvalidArgument(
            f"MODEL {spec!r}: no server and model, got URL {url!r} and model {name!r}; expected {FORM}, e.g. "
            "openai:http://localhost:8000/v1#Qwen/Qwen3-8B,tokenizer=./Qwen3-8B"
        )
    if parts.username or parts.password or parts.query:
        # The specification is stored, so the message must not repeat it either.
        raise InvalidArgument(
            f"MODEL openai: the URL of {parts.hostname} holds credentials or a query; expected neither, because the "
            "URL is stored with the labels. Put the key into the environment variable OPENAI_API_KEY"
        )


def _tokenizer(path: str | None, spec: str) -> Tokenizer:
    if path is None:
        raise InvalidArgument(
            f"MODEL {spec!r}: no tokenizer, got a server alone; expected {FORM}: a directory with the tokenizer.json "
            "of the model, because token ids are exchanged"
        )
    return load_tokenizer(path)


def _probe_ids(tokenizer: Tokenizer) -> list[int]:
    """Return distinct token ids of an ordinary text."""
    ids = list(dict.fromkeys(tokenizer.encode([PROBE_TEXT], special=False)[0].tolist()))
    return ids if len(ids) > 1 else [0, 1]


def _max_tokens(client: Client, name: str) -> int | None:
    """Return the tokens of the longest prompt, which leaves one to generate; None if the server does not tell."""
    value = client.get("models")
    entries = value.get("data") if isinstance(value, dict) else None
    models = (
        {str(entry.get("id")): entry for entry in entries if isinstance(entry, dict)}
        if isinstance(entries, list)
        else {}
    )
    if models and name not in models:
        raise DataNotFound(
            f"{client.url}: no model {name!r}, got {', '.join(list(models)[:5])}; expected one of them after the #"
        )
    limit = models.get(name, {}).get("max_model_len")
    return limit - 1 if isinstance(limit, int) and limit > 1 else None


KIND = Kind(name="openai", form=FORM, load=load)
