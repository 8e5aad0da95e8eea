"""The command line: nouns and verbs, one file each, imported only when called: `--help` and `healthcheck` start fast.

Exit codes: 0 clean, 1 asked and answered no, 2 usage, 75 a server we need is away, 78 bad configuration (systemd does
not restart on it), 130 Ctrl-C. docs/guides/cli.md says which command ends how.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Final

import click
from click.shell_completion import CompletionItem

from daemon import __version__
from daemon.cli import aliases
from daemon.domain.errors import ConfigError, DependencyAway, QstreamdError, RedisFull
from daemon.processes.rooms import has

EX_TEMPFAIL: Final = 75
EX_CONFIG: Final = 78
COMPLETE_VARIABLE: Final = "_QSTREAMD_COMPLETE"  #: how a shell asks what may follow

#: command -> the module that holds its click command as `command` (or, of that group, the one of this name), what
#: `--help` says without importing it, and the room that it needs where that is not the core
_COMMANDS: Final = {
    "run": ("daemon.cli.run", "Consume queues (the daemon itself).", None),
    "relay": ("daemon.cli.relay", "Take QStash's calls and append them to the work streams.", None),
    "gateway": ("daemon.cli.gateway", "Take tasks from servers and show them to browsers.", "gateway"),
    "demo": ("daemon.cli.demo", "Show the whole way of a task on embedded servers.", "dev"),
    "migrate": ("daemon.cli.migrate", "Bring the Postgres schema up to date.", None),
    "rollover": ("daemon.cli.rollover", "Replace running daemons by the release in force, without a pause.", "admin"),
    "check": ("daemon.cli.check", "Read all settings and the services file; name every mistake.", "admin"),
    "doctor": ("daemon.cli.doctor", "Look for what is wrong around here, and say how to put it right.", "admin"),
    "try": ("daemon.cli.trial", "Try models, Redis, Postgres and QStash for real, for less than a cent.", "admin"),
    "status": ("daemon.cli.status", "What goes on now, on one screen.", "admin"),
    "report": ("daemon.cli.report", "Sum up a week: tasks, failures, waits, tokens and cost of each service.", "admin"),
    "queues": ("daemon.cli.queues", "Look at queues; pause, resume, size, drain and purge them.", "admin"),
    "pause": ("daemon.cli.queues", "The same as `queues pause`: with --all the kill switch.", "admin"),
    "resume": ("daemon.cli.queues", "The same as `queues resume`.", "admin"),
    "models": ("daemon.cli.models", "Models as all daemons see them; block one by hand, or unblock it.", "admin"),
    "tasks": ("daemon.cli.tasks", "List, show, follow, explain, cancel and retry tasks.", "admin"),
    "dlq": ("daemon.cli.dlq", "Tasks that ended badly: list, show, replay, drop.", "admin"),
    "consumers": ("daemon.cli.consumers", "Who reads which queue.", "admin"),
    "capacity": ("daemon.cli.capacity", "How many slots a load needs.", "admin"),
    "loadtest": ("daemon.cli.loadtest", "Send a load to a running system and measure what becomes of it.", "admin"),
    "healthcheck": ("daemon.cli.healthcheck", "Ask a process on this host whether it lives; for containers.", None),
    "completion": ("daemon.cli.completion", "Print what makes a shell complete our commands.", None),
    "config": ("daemon.cli.config", "Print every setting, its source and its unit.", None),
    "export-contracts": (
        "daemon.cli.export_contracts",
        "Write the protocol page, JSON Schemas and TypeScript types.",
        "contract_docs",
    ),
}
#: where a room comes from that not every installation has, for whoever asks for its command
_CURES: Final = {"dev": "pip install 'qstreamd[demo]' brings it; in a checkout: make demo"}


def _offered() -> dict[str, tuple[str, str]]:
    """The commands of this build: those whose room it has."""
    return {name: (module, text) for name, (module, text, room) in _COMMANDS.items() if room is None or has(room)}


class NotInstalled(click.ClickException):
    """The command is there, its room is not; one line says where it comes from."""

    exit_code = 2


class _LazyCommands(click.Group):
    """Subcommands by name; a module is imported when its command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of the register."""
        return list(_offered())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or earlier name, imported now."""
        cmd_name = aliases.COMMANDS.get(cmd_name, cmd_name)
        if cmd_name not in (offered := _offered()):
            return None
        module = offered[cmd_name][0]
        command: click.Command = importlib.import_module(module).command
        if isinstance(command, click.Group) and not module.endswith(f".{cmd_name}"):
            return command.get_command(ctx, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is asked for; a misspelt one is answered with what may have been meant."""
        args = [aliases.COMMANDS.get(name, name) for name in args[:1]] + args[1:]
        if args and args[0] not in _offered() and not args[0].startswith("-"):
            if cure := _CURES.get(_COMMANDS.get(args[0], ("", "", None))[2] or ""):
                raise NotInstalled(f"`{args[0]}` is not part of this installation: {cure}")
            close = difflib.get_close_matches(args[0], _offered(), n=1)
            raise click.UsageError(
                f"No such command '{args[0]}'." + (f" Did you mean {close[0]}?" if close else ""), ctx
            )
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names from the register and our own options, without importing anything."""
        named = [
            CompletionItem(name, help=text) for name, (_, text) in _offered().items() if name.startswith(incomplete)
        ]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _offered().items()])


@click.group(
    cls=_LazyCommands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: python -m daemon --queues q_paid_stream,q_free_vision",
)
@click.option("--queues", metavar="Q,Q", help="Consume these queues; the same as `run --queues`.")
@click.version_option(__version__, prog_name="qstreamd")  # not the package's: from a checkout none is installed
@click.pass_context
def cli(ctx: click.Context, queues: str | None) -> None:
    """Run long LLM tasks off serverless: one light call in, a followed result out."""
    if ctx.invoked_subcommand is not None:
        if queues is not None:
            raise click.UsageError(f"--queues belongs to `run`, not to `{ctx.invoked_subcommand}`")
        return
    if queues is None:
        click.echo(ctx.get_help())
        ctx.exit(2)
    ctx.invoke(importlib.import_module("daemon.cli.run").command, queues=queues)


def main() -> None:
    """The entry point of `python -m daemon` and of `qstreamd`; turns our errors into lines and exit codes."""
    try:
        cli(prog_name="python -m daemon", complete_var=COMPLETE_VARIABLE)
    except ConfigError as error:
        for line in error.mistakes:
            click.echo(f"configuration: {line}", err=True)
        _hint("python -m daemon check names every mistake at once")
        sys.exit(EX_CONFIG)
    except (DependencyAway, RedisFull) as error:
        click.echo(f"away: {error}", err=True)
        _hint("python -m daemon doctor says what is wrong, and its cure")
        sys.exit(EX_TEMPFAIL)
    except QstreamdError as error:
        click.echo(f"error: {error}", err=True)
        _hint("python -m daemon doctor looks for what is wrong around here")
        sys.exit(1)


def _hint(text: str) -> None:
    click.echo(f"hint: {text}", err=True)
