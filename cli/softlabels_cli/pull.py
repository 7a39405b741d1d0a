"""``softlabels pull``: copy a sealed store from another location."""

from __future__ import annotations

import click

from softlabels_cli.options import digest_option, json_option, quiet_option
from softlabels_cli.transfer import run_transfer


@click.command("pull", epilog="Example:  softlabels pull s3://team/labels labels")
@click.argument("source")
@click.argument("store")
@digest_option
@json_option
@quiet_option
def command(*, source: str, store: str, digest: str | None, as_json: bool, quiet: bool) -> None:
    """Copy a store from SOURCE, a directory or a URL, to STORE.

    Every file is verified on the way, with --digest against that snapshot. Only units that STORE lacks are copied, so
    the same command resumes after an interruption. A copy that was interrupted is not sealed and never looks complete.
    """
    from softlabels.sharing import pull

    run_transfer("pull", pull, source, store, digest=digest, as_json=as_json, quiet=quiet)
