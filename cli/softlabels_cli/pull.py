"""``softlabels pull``: copy a sealed store from another location."""

from __future__ import annotations

from typing import Any

import click

from softlabels_cli.options import digest_option, json_option, quiet_option
from softlabels_cli.transfer import part_options, run_transfer


@click.command("pull", epilog="Example:  softlabels pull s3://team/labels labels")
@click.argument("source")
@click.argument("store")
@digest_option
@part_options
@click.option("--lock", default="softlabels.lock", show_default=True, metavar="FILE", help="File that pins STORE.")
@click.option("--no-lock", is_flag=True, help="Pin nothing.")
@click.option("--update", is_flag=True, help="Accept a newer snapshot than the one that is pinned.")
@json_option
@quiet_option
def command(
    *,
    source: str,
    store: str,
    digest: str | None,
    lock: str,
    no_lock: bool,
    update: bool,
    as_json: bool,
    quiet: bool,
    **selected: Any,
) -> None:
    """Copy a store from SOURCE, a directory or a URL, to STORE, and pin its digest in softlabels.lock.

    Every file is verified on the way, with --digest against that snapshot. Only units that STORE lacks are copied, so
    the same command resumes after an interruption. A copy that was interrupted is not sealed and never looks complete.
    With --rows, --keys, --heads, --views or --top, STORE is a store of its own, which names the snapshot it was taken
    from.
    """
    from softlabels.sharing import pull

    options = selected | {"lock": None if no_lock else lock, "update": update}
    run_transfer("pull", pull, source, store, digest=digest, as_json=as_json, quiet=quiet, **options)
