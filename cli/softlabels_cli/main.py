"""The ``softlabels`` command: imports the module of a subcommand on use, and turns errors into exit codes.

Nothing heavy is imported here or at the top of a command's module, so that ``softlabels --help`` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from typing import NoReturn

import click

from softlabels.errors import EXIT_CODES, FAILED, INTERRUPTED, InvalidArgument, SoftLabelsError
from softlabels.suggestions import suggest
from softlabels.version import __version__
from softlabels_cli.option_names import name_options
from softlabels_cli.output import printable
from softlabels_cli.signals import ending_on_signals, received

EPILOG = "Start with:  softlabels demo\n\n\b\nExit codes:\n" + "".join(
    f"  {code:<4} {meaning}\n" for code, meaning in EXIT_CODES.items()
)

SECTIONS: dict[str, dict[str, str]] = {
    "Distillation": {
        "demo": "Distil a teacher into students on bundled data.",
        "train-teacher": "Train a model on the hard labels of DATA.",
        "plan": "Measure bytes and fidelity of every encoding on a sample.",
        "generate": "Run a teacher over DATA once and store its soft labels.",
        "train-student": "Train a model on the soft labels of STORE.",
        "compare": "Measure models on the same rows, side by side.",
        "plot": "Draw the curves of runs.",
        "export-model": "Write a model as an ONNX file or a torch program.",
    },
    "A store": {
        "inspect": "Print what a store holds, or the chain that made a run.",
        "verify": "Check every file against its digests.",
        "repair": "Move damaged units to quarantine, to be made again.",
        "seal": "Publish the committed units as a snapshot.",
        "merge": "Copy the rows of several stores into one.",
        "gc": "List files that nothing refers to.",
        "describe": "State licence, terms, data and contact; write the card.",
        "sign": "Sign the last snapshot with a key.",
        "push": "Copy a store to a directory or an object store, verified.",
        "pull": "Copy a store from a directory, an object store or a web server.",
    },
}
"""Commands by section, each with its help in one line."""

DEBUG = "--debug"
STOPPED = "Interrupted. Run the same command again: it resumes from what is on disk."


class Commands(click.Group):
    """Subcommands by module name: ``train-teacher`` is ``softlabels_cli.train_teacher:command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command, in the order of use."""
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name; None if there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"softlabels_cli.{cmd_name.replace('-', '_')}")
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.command is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command as click does, with the most similar name in the error if there is none."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = suggest(args[0], self.list_commands(ctx)) or ". See softlabels --help."
            raise click.UsageError(f"There is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under the headings of SECTIONS."""
        for heading, names in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl(list(names.items()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="softlabels")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; also after a command.")
def cli(*, debug: bool) -> None:
    """Offline knowledge distillation: run the teacher once, store its outputs, train students anywhere."""


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code.

    Args:
        args: Arguments; None: those of the process.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    debug = DEBUG in arguments
    arguments = [argument for argument in arguments if argument != DEBUG]
    if debug:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    with ending_on_signals():
        code = _run(arguments, debug=debug)
    sys.exit(code)


def _run(arguments: list[str], *, debug: bool) -> int:
    """Run a command; print its error, and return its exit code."""
    try:
        code = cli.main(arguments, prog_name="softlabels", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort) as error:
        # click turns the interrupt, which may say what was saved, into an Abort.
        click.echo(str(error.__cause__ or error) or STOPPED, err=True)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  reported, or raised again
        if received():
            click.echo(STOPPED, err=True)
            return INTERRUPTED
        return _report(error, arguments, debug=debug)
    # Without its standalone mode, click returns the code of an Exit in place of the command's result.
    return code if isinstance(code, int) else 0


def _message(error: SoftLabelsError, arguments: list[str]) -> str:
    """Return the message of an error, with names of options in place of arguments of Python."""
    command = cli.get_command(click.Context(cli), arguments[0]) if arguments else None
    if command is None:
        return str(error)
    return name_options(str(error), command, arguments, subject=isinstance(error, InvalidArgument))


def _report(error: Exception, arguments: list[str], *, debug: bool) -> int:
    """Print an error that a command may end with, and return its exit code; raise any other error."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if debug and isinstance(error, SoftLabelsError | OSError):
        _print_stack(error)
    if isinstance(error, SoftLabelsError):
        click.echo(f"Error: {printable(_message(error, arguments), lines=True)}", err=True)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # The reader of the output (head, less) has gone. That is no failure, and stdout must not be flushed again.
        sys.stdout = None
        return 0
    if isinstance(error, OSError):
        # Files of stores, runs and data have typed errors of their own; what remains is the terminal or a full disk.
        subject = error.filename if isinstance(error.filename, str) else "standard output"
        click.echo(f"Error: {printable(subject)}: cannot be written, got {error.strerror or error}.", err=True)
        sys.stdout = None
        return FAILED
    raise error


def _print_stack(error: Exception) -> None:
    """Print the traceback of an error without its message, which follows as for everybody."""
    lines = traceback.format_exception(error)
    click.echo("".join(lines[: -len(traceback.format_exception_only(error))]), err=True, nl=False)
