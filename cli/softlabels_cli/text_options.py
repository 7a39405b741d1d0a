"""Options of text, declared once: ``text_options`` adds them to a command, ``chosen_text`` returns their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from softlabels_cli.options import group_of, remembered, remembered_option

if TYPE_CHECKING:
    from softlabels.text.options import TextOptions

META = "softlabels.text"
"""Key of the context that holds the options that were given."""


text_options = group_of(
    remembered_option(
        META,
        "--tokenizer",
        metavar="SPEC",
        help="bpe:8192 is trained on the text; or a directory with a tokenizer.json. [that of the model]",
    ),
    remembered_option(
        META,
        "--documents",
        type=click.Choice(["file", "line", "blank"]),
        help="Documents of a .txt file: the file, each line, or paragraphs between blank lines. [file]",
    ),
    remembered_option(
        META,
        "--pack",
        type=click.IntRange(min=2),
        metavar="L",
        help="Fill rows of L tokens with documents. [one row per document]",
    ),
    remembered_option(
        META,
        "--mask",
        type=click.Choice(["prompt"]),
        help="Label only the tokens of responses: in chats, or in the second of two columns.",
    ),
    remembered_option(
        META,
        "--max-tokens",
        type=click.IntRange(min=2),
        metavar="N",
        help="Truncate documents to N tokens. [never]",
    ),
)
"""How text becomes rows of tokens."""


def chosen_text() -> TextOptions | None:
    """Return the options of text that the command was given; None if there are none."""
    values = remembered(META)
    if not values:
        return None
    from softlabels.text.options import TextOptions

    return TextOptions(**values)
