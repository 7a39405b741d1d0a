"""The documents: links lead somewhere, commands exist, nothing local is left in them."""

import re
import subprocess

import click
import pytest

from softlabels_cli.main import cli

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
COMMAND = re.compile(r"^\s*(?:\$ )?softlabels (.+)$", re.MULTILINE)


def documents(root):
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=root, capture_output=True, text=True, check=True
    )
    return [root / name for name in listed.stdout.splitlines()]


def test_relative_links_lead_to_files(root):
    broken = []
    for path in documents(root):
        for target, _ in LINK.findall(path.read_text()):
            if not target.startswith(("http://", "https://", "mailto:")) and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(root)}: {target}")
    assert not broken


def test_every_command_in_the_documents_is_one_of_ours(root):
    """Each ``softlabels ...`` line in a code block parses: the command exists, and so does each option."""
    commands = 0
    for path in documents(root):
        for block in re.findall(r"```(?:sh|console)?\n(.*?)```", path.read_text(), re.DOTALL):
            for line in COMMAND.findall(block.replace("\\\n", " ")):
                name, *arguments = line.split("#")[0].split()
                if name.startswith("-"):
                    continue
                command = cli.get_command(click.Context(cli), name)
                assert command is not None, f"{path.name}: {line}"
                known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
                unknown = [
                    word for word in arguments if word.startswith("--") and word.split("=")[0] not in known | {"--help"}
                ]
                assert not unknown, f"{path.name}: {line}"
                commands += 1
    assert commands > 5


def commands(group=cli):
    context = click.Context(group)
    return [group.get_command(context, name) for name in group.list_commands(context)]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_every_command_has_help_with_an_example(command, root):
    assert command.help
    assert command.epilog.startswith(f"Example:  softlabels {command.name} ")
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))
    assert f"softlabels {command.name}" in (root / "README.md").read_text()


def test_nothing_in_the_project_names_this_machine(root):
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
    )
    local = re.compile(rb"(/root/|/work/|/home/\w+/|/tmp/bash)")
    offenders = []
    for name in listed.stdout.splitlines():
        path = root / name
        if path.suffix in {".parquet", ".zip"} or path.name == "test_docs.py" or not path.is_file():
            continue
        offenders += [name] if local.search(path.read_bytes()) else []
    assert not offenders
