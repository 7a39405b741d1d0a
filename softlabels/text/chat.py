"""Chats: messages to text by the tokenizer's template, and the tokens that the assistant wrote.

Templates are code from a file, so they run in Jinja's immutable sandbox. The responses are located by rendering the
messages before each of them: a template must render a prefix of the messages to a prefix of the text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidData
from softlabels.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import jinja2

ASSISTANT = "assistant"
Message = Mapping[str, Any]


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], subject: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the token ids of a chat, (n,), and whether the assistant wrote each, (n,).

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: Mappings with ``role`` and ``content``.
        subject: First words of messages, e.g. the file and row.

    Raises:
        InvalidData: There is no template, the template fails, or it does not render prefixes to prefixes.
    """
    check_messages(messages, subject)
    text = render(tokenizer, messages, subject)
    spans = _responses(tokenizer, messages, text, subject)
    ids, offsets = tokenizer.encode_with_offsets(text)
    written = np.zeros(len(ids), np.bool_)
    for start, stop in spans:
        written |= (offsets[:, 0] >= start) & (offsets[:, 1] <= stop) & (offsets[:, 1] > offsets[:, 0])
    return ids, written


def check_messages(messages: object, subject: str) -> None:
    """Raise InvalidData unless a value is a list of messages.

    Args:
        messages: Value of a row.
        subject: First words of messages.

    Raises:
        InvalidData: The value is not a list of mappings with role and content.
    """
    if (
        not isinstance(messages, list | tuple)
        or not messages
        or not all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in messages)
    ):
        raise InvalidData(
            f"{subject}: not a chat, got {type(messages).__name__}; expected a list of objects with role and content"
        )


def render(tokenizer: Tokenizer, messages: Sequence[Message], subject: str, *, prompt: bool = False) -> str:
    """Return the text of a chat.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: Mappings with ``role`` and ``content``.
        subject: First words of messages.
        prompt: If True, append the words that open a response of the assistant.

    Raises:
        InvalidData: There is no template, or it fails.
    """
    if tokenizer.chat_template is None:
        raise InvalidData(
            f"{subject}: the tokenizer has no chat template; expected one in tokenizer_config.json or "
            "chat_template.jinja. Use the tokenizer of a chat model, or a column of text"
        )
    import jinja2

    special = {f"{role}_token": tokenizer.backend.id_to_token(token) for role, token in tokenizer.special.items()}
    try:
        template = _compile(tokenizer.chat_template)
        return template.render(messages=list(messages), add_generation_prompt=prompt, **special)
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InvalidData(
            f"{subject}: the chat template fails, got {type(error).__name__}: {error}; expected text. Correct the "
            "messages of this row, or the template"
        ) from None


def _responses(tokenizer: Tokenizer, messages: Sequence[Message], text: str, subject: str) -> list[tuple[int, int]]:
    """Return the characters of the assistant's responses, end of turn included."""
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != ASSISTANT:
            continue
        before = render(tokenizer, messages[:number], subject, prompt=True) if number else ""
        through = text if number + 1 == len(messages) else render(tokenizer, messages[: number + 1], subject)
        if not (text.startswith(before) and text.startswith(through) and len(through) > len(before)):
            raise InvalidData(
                f"{subject}: the chat template does not render the first {number + 1} messages to a prefix of the "
                "text, so the response cannot be located; expected a template that only appends. Use a template that "
                "renders each message independently"
            )
        spans.append((len(before), len(through)))
    return spans


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag ``{% generation %}`` of transformers; its body is rendered unchanged."""

        tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            """Return the body of the tag."""
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)  # Jinja's own escapes HTML
    return environment.from_string(template)


def _refuse(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)
