"""``softlabels export-model``: write a model as an ONNX file or a torch program, checked on real rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from softlabels_cli.options import chosen_data, data_options, json_option
from softlabels_cli.output import count, format_bytes, format_table, print_json, printable

if TYPE_CHECKING:
    from softlabels.training.export import Exported


@click.command(
    "export-model",
    epilog="Example:  softlabels export-model run:student --data digits --out student.onnx --int8",
)
@click.argument("model")
@click.option("--to", "form", type=click.Choice(["onnx", "pt2"]), help="Form of the file. [by the ending of --out]")
@click.option("--int8", is_flag=True, help="8-bit weights and activations, with ranges from real rows; ONNX only.")
@click.option("--data", required=True, metavar="DATA", help="Data of the model, to calibrate and to check on.")
@click.option("--out", required=True, metavar="FILE", help="File to write.")
@click.option(
    "--rows", type=click.IntRange(min=1), default=256, show_default=True, help="Rows to calibrate and check on."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Greatest mean KL in nats, and greatest relative difference of other heads. [0.001, with --int8 0.05]",
)
@data_options
@json_option
def command(
    *,
    model: str,
    form: Literal["onnx", "pt2"] | None,
    int8: bool,
    data: str,
    out: str,
    rows: int,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Write MODEL to FILE, once its outputs on held-out rows are those of MODEL.

    FILE holds heads and preprocessing: name it as onnx:FILE or pt2:FILE.
    """
    from softlabels.training import export_model

    result = export_model(model, data, out, to=form, int8=int8, rows=rows, tolerance=tolerance, **chosen_data())
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)


def _print(result: Exported) -> None:
    """Print the outcome for people."""
    click.echo(
        f"{printable(result.spec)}: {format_bytes(result.bytes)}, "
        f"checked on {count(result.checked_rows, 'row')} against the model:"
    )
    rows = [
        [
            printable(name),
            f"{head.max_difference:.2g}",
            f"{head.relative:.2g}",
            "-" if head.kl is None else f"{head.kl:.2g}",
            "-" if head.agreement is None else f"{head.agreement:.2%}",
        ]
        for name, head in result.heads.items()
    ]
    click.echo(format_table(["head", "max difference", "relative", "KL", "agreement"], rows))
