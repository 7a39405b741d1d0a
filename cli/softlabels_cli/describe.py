"""``softlabels describe``: state licence, terms, data and contact of a store, and write its card."""

from __future__ import annotations

import click

from softlabels_cli.options import chosen_statements, description_options, json_option, store_argument
from softlabels_cli.output import print_json, printable


@click.command(
    "describe", epilog="Example:  softlabels describe labels --license CC-BY-4.0 --contact labels@example.org"
)
@store_argument()
@description_options
@click.option("--title", metavar="TEXT", help="Name of the store for people.")
@json_option
def command(*, store: str, title: str | None, as_json: bool) -> None:
    """State the licence, terms of use, data and contact of a sealed STORE, and write README.md and croissant.json.

    Statements that are not given stay as they are. The digest of STORE does not change; a signature has to be made
    again.
    """
    from softlabels.sharing import describe

    description = describe(store, title=title, **chosen_statements()).to_json()
    if as_json:
        print_json({"store": store, "description": description})
        return
    for name, text in description.items():
        click.echo(printable(f"{name:<12}{text}"))
