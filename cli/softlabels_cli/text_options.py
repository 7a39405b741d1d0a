"""Options of text, declared once: ``text_options`` adds them to a command, ``chosen_text`` returns their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from softlabels_cli.options import group_of

if TYPE_CHECKING:
    from softlabels.text.options import TextOptions

META = "softlabels.text"
"""Key of the context that holds the options that were given."""


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None and parameter.name is not None:
        context.meta.setdefault(META, {})[parameter.name] = value


text_options = group_of(
    click.option(
        "--tokenizer",
        metavar="SPEC",
        expose_value=False,
        callback=_remember,
        help="bpe:8192 is trained on the text; or a directory with a tokenizer.json. [that of the model]",
    ),
    click.option(
        "--documents",
        type=click.Choice(["file", "line", "blank"]),
        expose_value=False,
        callback=_remember,
        help="Documents of a .txt file: the file, each line, or paragraphs between blank lines. [file]",
    ),
    click.option(
        "--pack",
        type=click.IntRange(min=2),
        metavar="L",
        expose_value=False,
        callback=_remember,
        help="Fill rows of L tokens with documents. [one row per document]",
    ),
    click.option(
        "--mask",
        type=click.Choice(["prompt"]),
        expose_value=False,
        callback=_remember,
        help="Label only the tokens of responses: in chats, or in the second of two columns.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=2),
        metavar="N",
        expose_value=False,
        callback=_remember,
        help="Truncate documents to N tokens. [never]",
    ),
)
"""How text becomes rows of tokens."""


def chosen_text() -> TextOptions | None:
    """Return the options of text that the command was given; None if there are none."""
    values = click.get_current_context().meta.get(META)
    if not values:
        return None
    from softlabels.text.options import TextOptions

    return TextOptions(**values)
