"""Options that several commands share."""

import click
from click.testing import CliRunner

from softlabels_cli.options import chosen_data, data_options


@click.command()
@data_options
def show():
    click.echo(repr(chosen_data()))


def invoke(*arguments):
    return CliRunner().invoke(show, arguments)


def test_options_of_the_data_are_those_that_were_given():
    assert invoke().output == "{}\n"
    result = invoke("--no-label", "--input", "a,b", "--target", "road=mask", "--target", "x=y:regression")
    assert eval(result.output) == {  # noqa: S307  printed by this test
        "label": False,
        "input": "a,b",
        "targets": {"road": "mask", "x": "y:regression"},
    }


def test_a_target_names_a_head_and_its_column():
    for value in ("road", "=mask", "road="):
        assert "expected NAME=COLUMN" in invoke("--target", value).output
    assert "expected one" in invoke("--target", "a=b", "--target", "a=c").output
    assert "exclude each other" in invoke("--no-label", "--label", "y").output
