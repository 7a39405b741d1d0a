"""``softlabels verify``: check every file of a store, or of a run."""

from __future__ import annotations

import click

from softlabels.errors import FOUND_BAD
from softlabels_cli.options import digest_option, json_option, quiet_option, run_folder, store_argument
from softlabels_cli.output import count, note, print_json, printable
from softlabels_cli.progress import Progress


@click.command("verify", epilog="Example:  softlabels verify labels --deep")
@store_argument()
@click.option("--deep", is_flag=True, help="Also decode every row and check its values.")
@click.option(
    "--incremental", is_flag=True, help="Skip units that were right on this machine and have not changed since."
)
@digest_option
@click.option("--public-key", "--key", "key", metavar="FILE", help="Fail unless this key has signed the last snapshot.")
@click.option("--signature", metavar="FILE", help="Signature by model_signing. [the one in STORE]")
@json_option
@quiet_option
def command(
    *,
    store: str,
    deep: bool,
    incremental: bool,
    digest: str | None,
    key: str | None,
    signature: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check every file of STORE; exit 3 if it is damaged, incomplete or not sealed.

    Of a run, check that its weights and its tokenizer are those that it describes; --digest is that of its model. A run
    of code of yours is named as python:MODULE:NAME@DIR, because the digest covers that code.
    """
    from softlabels.store import verify

    if (run := run_folder(store)) is not None:
        if key is not None or signature is not None:
            raise click.UsageError("runs have no signature, got --public-key or --signature; use --digest")
        _verify_run(run, store if store.startswith("python:") else f"run:{run}", digest, as_json=as_json)
        return
    if signature is not None and key is None:
        raise click.UsageError("--signature needs --public-key")
    if key is not None:
        from softlabels.sharing import verify_signature

        verify_signature(store, key, signature=signature)

    with Progress("verify", unit="units", quiet=quiet) as progress:
        report = verify(store, deep=deep, incremental=incremental, digest=digest, progress=progress.update)
    if as_json:
        print_json(report.to_json())
    else:
        for problem in report.bad:
            unit = f"unit {problem.unit}, " if problem.unit is not None else ""
            click.echo(printable(f"bad: {unit}{problem.path}: {problem.problem}"))
        skipped = f" ({report.skipped:,} unchanged since they were last verified)" if report.skipped else ""
        counts = f"{count(report.units, 'unit')}{skipped}, {count(report.rows, 'row')}"
        click.echo(printable(f"{store}: {counts}: {report.verdict}"))
    if not report.ok:
        note(str(report.advice))
        raise click.exceptions.Exit(FOUND_BAD)


def _verify_run(run: str, model: str, expected: str | None, *, as_json: bool) -> None:
    """Load a run, which compares its files with their digests, and print its digest."""
    from softlabels.errors import RunCorrupt
    from softlabels.models import as_model
    from softlabels.training.run_chain import check_run_digest

    digest, problem = None, None
    try:
        digest = as_model(model).digest
        check_run_digest(run, digest, expected)
    except RunCorrupt as error:
        problem = str(error)
    if as_json:
        print_json({"run": run, "digest": digest, "ok": problem is None, "problem": problem})
    else:
        click.echo(printable(f"{run}: complete, digest {digest}" if problem is None else f"bad: {problem}"))
    if problem is not None:
        raise click.exceptions.Exit(FOUND_BAD)
