"""The ``softlabels`` command: finds a subcommand's module when it is asked for, and turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check found bad data, 75 a remote outcome is unknown (run again),
130 interrupted (committed work is kept). Nothing heavy is imported here or at the top of a command's module, so that
``softlabels --help`` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click

from softlabels.errors import SoftLabelsError
from softlabels.version import __version__
from softlabels_cli.output import printable

SECTIONS: dict[str, tuple[str, ...]] = {
    "The story": ("demo", "train-teacher", "plan", "generate", "train-student", "compare"),
    "A store": ("inspect", "verify", "repair", "seal", "merge", "gc"),
}
INTERRUPTED = 130


class Commands(click.Group):
    """Subcommands by module name: ``train-teacher`` is ``softlabels_cli.train_teacher:command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order a user meets them."""
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None where there is none."""
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
        """As click's, with the nearest name when there is no such command."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " See softlabels --help."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under the headings of SECTIONS."""
        for heading, names in SECTIONS.items():
            rows = [
                (name, command.get_short_help_str(80)) for name in names if (command := self.get_command(ctx, name))
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with:  softlabels demo",
)
@click.version_option(__version__, prog_name="softlabels")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(*, debug: bool) -> None:
    """Offline knowledge distillation: run the teacher once, keep what it said, train students anywhere."""


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if args is None else args
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(arguments, prog_name="softlabels", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SoftLabelsError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        click.echo(f"Error: {printable(str(error), lines=True)}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        # click turns the interrupt, which may say what was saved, into an Abort.
        message = str(error.__cause__ or error)
        click.echo(message or "Interrupted. Committed work is kept: run the same command again to resume.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is no failure, and stdout must not be flushed again.
        sys.stdout = None
        sys.exit(0)
    # Without its standalone mode, click returns the code of an Exit in place of the command's result.
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command the way Ctrl-C does: the unit at hand is dropped, committed work is kept."""
    raise KeyboardInterrupt
