"""Options that several commands share."""

import inspect

import click
import pytest
from click.testing import CliRunner

import softlabels as sl
from softlabels_cli.main import SECTIONS, cli
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


@pytest.mark.parametrize("name", [name for names in SECTIONS.values() for name in names if name != "demo"])
def test_defaults_are_those_of_the_function(name):
    """Unless the function decides when it runs."""
    command = cli.get_command(click.Context(cli), name)
    parameters = inspect.signature(getattr(sl, name.replace("-", "_"))).parameters
    for option in command.params:
        default = option.to_info_dict().get("default")
        shared = [known for known in (option.name, f"{option.name}s") if known in parameters]
        if default is None or default == () or not shared or parameters[shared[0]].default is None:
            continue
        assert default == parameters[shared[0]].default, f"{name} {option.opts[0]}"
