"""``softlabels push``: copy a sealed store to another location."""

from __future__ import annotations

from typing import Any

import click

from softlabels_cli.options import digest_option, json_option, quiet_option
from softlabels_cli.transfer import part_options, run_transfer


@click.command("push", epilog="Example:  softlabels push labels s3://team/labels")
@click.argument("store")
@click.argument("target")
@digest_option
@part_options
@json_option
@quiet_option
def command(*, store: str, target: str, digest: str | None, as_json: bool, quiet: bool, **selected: Any) -> None:
    """Copy STORE to TARGET, a directory or a URL.

    Every file is verified on the way. Only units that TARGET lacks are copied, so the same command resumes after an
    interruption, and adds new units later. A copy that was interrupted is not sealed and never looks complete. With
    --rows, --keys, --heads, --views or --top, TARGET is a store of its own, which names the snapshot it was taken from.
    """
    from softlabels.sharing import push

    run_transfer("push", push, store, target, digest=digest, as_json=as_json, quiet=quiet, **selected)
