"""``softlabels sign``: sign the last snapshot of a store."""

from __future__ import annotations

import click

from softlabels_cli.options import json_option, store_argument
from softlabels_cli.output import print_json, printable


@click.command("sign", epilog="Example:  softlabels sign labels --key key.pem")
@store_argument()
@click.option("--key", required=True, metavar="FILE", help="Private key P-256 or P-384 in PEM.")
@json_option
def command(*, store: str, key: str, as_json: bool) -> None:
    """Sign the last snapshot of STORE, in the format of OpenSSF model signing.

    The signature is stored in STORE and covers every label, the descriptor and the description. The password of an
    encrypted key is read from SOFTLABELS_KEY_PASSWORD. Check it with softlabels verify --public-key.
    """
    from softlabels.sharing import sign

    signature = sign(store, key)
    if as_json:
        print_json(signature.to_json())
    else:
        click.echo(printable(f"{signature.path}: digest {signature.digest}, key {signature.key}"))
